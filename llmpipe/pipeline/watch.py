"""The timers of a stream, judged only while its consumer is waiting for the provider."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from llmpipe.errors import DeadlineExceeded, IdleTimeout, LLMError

__all__ = ("Watch",)


class Watch:
    """One lazily re-armed timer for `idle`, `stall` and the deadline of one stream.

    `idle` seconds may pass without any event, pings included; `stall` seconds without content.
    The clock stands still while nobody waits, so a slow consumer is not blamed on the provider.
    """

    __slots__ = ("_handle", "_interrupt", "_loop", "_progress", "_waiting", "deadline", "idle", "stall")

    def __init__(self, interrupt: Callable[[LLMError], object]) -> None:
        self._interrupt = interrupt
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._waiting: float | None = None
        self._progress = 0.0
        self.idle = self.stall = self.deadline = inf

    def tighten(self, idle: float | None, stall: float | None, deadline: float | None) -> None:
        """Keep the tighter of each limit; None leaves it as it is."""
        self.idle = min(self.idle, inf if idle is None else idle)
        self.stall = min(self.stall, inf if stall is None else stall)
        self.deadline = min(self.deadline, inf if deadline is None else deadline)
        if self._waiting is not None:  # already being read: the timer that runs may be too late
            self.stop()
            self._check()

    def begin(self) -> None:
        """The consumer starts to wait for the provider."""
        self._waiting = self._loop.time()
        if self._handle is None and (due := self._due()) < inf:
            self._handle = self._loop.call_at(due, self._check)

    def end(self, progress: bool) -> None:
        """Something came; `progress` when it was content."""
        if self._waiting is not None:
            # Time spent waiting without content adds up over pings; time of the consumer does not.
            self._progress = 0.0 if progress else self._progress + self._loop.time() - self._waiting
        self._waiting = None

    def stop(self) -> None:
        """The stream is over."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _due(self) -> float:
        if self._waiting is None:
            return inf
        return min(self.deadline, self._waiting + self.idle, self._waiting + self.stall - self._progress)

    def _check(self) -> None:
        self._handle = None
        due = self._due()
        if due == inf:
            return
        if due <= self._loop.time():
            # Two turns later, so that bytes which are already in hand win over the timer.
            self._handle = self._loop.call_soon(self._put_off, self._waiting)
        else:
            self._handle = self._loop.call_at(due, self._check)

    def _put_off(self, waiting: float | None) -> None:
        self._handle = self._loop.call_soon(self._judge, waiting)

    def _judge(self, waiting: float | None) -> None:
        self._handle = None
        if self._waiting is None:
            return
        now = self._loop.time()
        if self._waiting != waiting and self._due() > now:
            self._check()
        elif now >= self.deadline:
            self._interrupt(
                DeadlineExceeded(
                    "the call ran out of time while its reply was streaming", phase="stream", billed="unknown"
                )
            )
        elif now >= self._waiting + self.idle:
            self._interrupt(IdleTimeout(f"the stream was silent for {self.idle:g} s", phase="stream"))
        else:
            self._interrupt(
                IdleTimeout(f"the stream brought no content for {self.stall:g} s, only pings", phase="stream")
            )
