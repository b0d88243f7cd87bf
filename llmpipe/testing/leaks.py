"""Is anything left? What a test asks when its subject has had its turn."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ("no_leaks",)


@asynccontextmanager
async def no_leaks(*, files: bool = True) -> AsyncIterator[None]:
    """A block after which there are no more tasks, timers and open files than before.

    What is about to end gets a few turns of the loop to do so, and no time. `files` counts open file
    descriptors, sockets included, where the system says (Linux). When the block raises, that is
    what is raised.

    Raises: AssertionError that names what is left.
    """
    loop = asyncio.get_running_loop()
    tasks, timers = asyncio.all_tasks(loop), _timers(loop)
    descriptors = _descriptors() if files else set()
    yield
    for _ in range(10):
        await asyncio.sleep(0)
    gc.collect()  # a dropped stream closes its socket
    left = [f"task {task.get_name()}: {task.get_coro()!r}" for task in asyncio.all_tasks(loop) - tasks]
    left += [f"timer {timer!r}" for timer in _timers(loop) if timer not in timers]
    if files:
        left += [f"file {target}" for target in sorted(_descriptors() - descriptors)]
    if left:
        raise AssertionError("left behind:\n  " + "\n  ".join(left))


def _timers(loop: Any) -> list[asyncio.TimerHandle]:
    """The timers that are set; none for a loop that does not tell, such as uvloop's."""
    return [timer for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()]


def _descriptors() -> set[str]:
    """Open files by number and target, such as ``7 socket:[4026]``."""
    found = set()
    for link in Path("/proc/self/fd").glob("*"):
        try:
            found.add(f"{link.name} {link.readlink()}")
        except FileNotFoundError:  # that of the directory itself
            continue
    return found
