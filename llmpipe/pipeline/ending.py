"""What of a reply's end may suspend: closing its source, resuming the middlewares that yielded it.

Runs in a task of its own (`llmpipe.runtime.shielded`). Whatever a part does, the next one follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Any

from llmpipe.pipeline.outcome import Outcome, Status
from llmpipe.pipeline.pump import Pump
from llmpipe.runtime import Alarm

__all__ = ("Frame", "HARMLESS", "close", "resume")

Frame = tuple[AsyncGenerator[Any, Outcome], bool, Any]
"""A middleware that yielded: its generator, whether resuming it cannot suspend, and what passed
it: the result of a full reply, a place in the pump of a streamed one."""

HARMLESS = (Exception, asyncio.CancelledError, GeneratorExit)
"""What a frame or a source may raise without more harm than a line in the log; KeyboardInterrupt and
SystemExit pass. A frame that raises its outcome's error again raises CancelledError like any other."""

_SLOW = partial(TimeoutError, "it took too long")


async def close(
    pump: Pump, status: Status, seconds: float, report: Callable[[str, BaseException], None]
) -> None:
    """Close the source of `pump`, whose reply has ended so; it may take `seconds`."""
    relay = pump.relay
    try:
        with Alarm(asyncio.get_running_loop().time() + seconds, _SLOW):
            await (pump.source.aclose() if relay is None else relay.end(status))
    except HARMLESS as error:  # reported: clean-up never replaces the outcome
        report("closing a stream", error)


async def resume(
    frames: Iterable[Frame],
    outcome_at: Callable[[Any], Outcome],
    report: Callable[[AsyncGenerator[Any, Outcome], BaseException], None],
) -> None:
    """Resume `frames` in order. One that is out of time is cancelled by `shielded`, and the next resumed."""
    task = asyncio.current_task()
    assert task is not None
    for frame, _, place in frames:
        try:
            await frame.asend(outcome_at(place))
            report(frame, RuntimeError("the middleware yielded twice; it must yield exactly one reply"))
            await frame.aclose()
        except StopAsyncIteration:
            continue
        except HARMLESS as error:  # reported: clean-up never replaces the outcome
            cut = isinstance(error, asyncio.CancelledError) and task.cancelling()
            report(frame, _SLOW() if cut else error)
            if cut:
                task.uncancel()
