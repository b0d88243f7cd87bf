"""Looks at a store again and again while somebody uses what is read there, and not on anybody's call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from llmpipe.errors import ConfigError
from llmpipe.runtime import Runtime

__all__ = ("Poller",)


class Poller:
    """Calls `look(True)` at once and every `every` seconds, until nobody has used it for `idle` seconds.

    Args:
        look: waits for the store; never called twice at the same time. `look(False)` is for a `nudge`.
            What it raises ends the polling, and is reported by the runtime.
        used: a number that changes when what is read is used, such as calls counted; it is compared
            after each look.
        stopped: called when polling ends, however it does; `start` begins it again.
    """

    def __init__(
        self,
        look: Callable[[bool], Awaitable[None]],
        used: Callable[[], int],
        *,
        name: str,
        every: float = 1.0,
        idle: float = 60.0,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        if not 0 < every <= idle:
            raise ConfigError(f"every is seconds above 0, and idle no less, not {every} and {idle}")
        self._look, self._used, self._stopped = look, used, stopped
        self._name, self._every, self._idle = name, every, idle
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Event | None = None

    @property
    def running(self) -> bool:
        """Whether it polls, on a loop that still runs."""
        return self._task is not None and not self._task.done() and not self._task.get_loop().is_closed()

    def start(self, runtime: Runtime) -> None:
        """Poll, if it does not yet. The task is the runtime's."""
        if not self.running:
            self._wake = asyncio.Event()
            self._task = runtime.spawn(self._run(self._wake), self._name)
            self._task.add_done_callback(partial(self._ended, self._wake))  # it may be over before it begins

    def nudge(self) -> None:
        """Call `look(False)` now."""
        if self._wake is not None:
            self._wake.set()

    async def _run(self, wake: asyncio.Event) -> None:
        now = asyncio.get_running_loop().time
        seen = self._used()
        used_at = due = now()
        try:
            while now() - used_at < self._idle:
                wake.clear()
                timed = now() >= due
                if timed:
                    due = now() + self._every
                await self._look(timed)
                try:
                    async with asyncio.timeout_at(due):
                        await wake.wait()
                except TimeoutError:
                    due = min(due, now())  # a timer may come a tick of the clock early
                if (count := self._used()) != seen:
                    seen, used_at = count, now()
        finally:
            self._ended(wake)

    def _ended(self, wake: asyncio.Event, _: object = None) -> None:
        if self._wake is wake:  # not where another loop has begun anew
            self._task = self._wake = None
            self._stopped()
