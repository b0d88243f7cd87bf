"""How late the event loop is: the first thing to rise when a process has more to do than it can.

A timer that is due every tenth of a second measures how much later than that it comes. It runs only
while somebody asks, so that an idle process sleeps.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import exp

from llmpipe.runtime import Runtime

__all__ = ("Lag",)

_EVERY = 0.1  # seconds between samples; one costs some 5 µs
_TIME_CONSTANT = 1.0  # seconds over which `seconds` is averaged
_MEMORY = 60.0  # seconds that `worst` covers, and after which nobody is taken to look any more


class Lag:
    """The lateness of the loop, in seconds: ``Lag.of(runtime)`` is that of a runtime, and runs.

    It is measured for a minute after the last `start` or reading, and begins again at the next `start`.
    What nobody has measured is 0.
    """

    __slots__ = ("_loop", "_peaks", "_sampled_at", "_seconds", "_timer", "_wanted_at")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seconds = 0.0
        self._peaks: deque[tuple[float, float]] = deque()  # when and how late: each later one is smaller
        self._sampled_at = self._wanted_at = 0.0

    @staticmethod
    def of(runtime: Runtime) -> Lag:
        """The one of `runtime`, started."""
        lag = runtime.state("lag", "", Lag)
        lag.start(runtime)
        return lag

    def start(self, runtime: Runtime) -> None:
        """Measure the running loop from now on. To be called as often as one likes."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._loop is loop:
            self._wanted_at = self._sampled_at
            return
        self.rest()
        self._loop = loop
        self._sampled_at = self._wanted_at = runtime.now()
        self._timer = loop.call_at(self._sampled_at + _EVERY, self._sample)

    @property
    def seconds(self) -> float:
        """How late the loop has been of late: an average in which the last second weighs most."""
        self._wanted_at = self._sampled_at
        return self._seconds

    @property
    def worst(self) -> float:
        """The latest it has been in the last minute."""
        self._wanted_at = self._sampled_at
        return self._peaks[0][1] if self._peaks else 0.0

    def rest(self) -> None:
        """Stop, and forget what was measured."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None
        self._seconds = 0.0
        self._peaks.clear()

    def _sample(self) -> None:
        loop = self._loop
        assert loop is not None
        now = loop.time()
        if now - self._wanted_at > _MEMORY:
            self.rest()
            return
        elapsed = now - self._sampled_at
        self.observe(elapsed - _EVERY, elapsed, now)
        self._sampled_at = now
        self._timer = loop.call_at(now + _EVERY, self._sample)

    def observe(self, late: float, elapsed: float, now: float) -> None:
        """Count a wake-up that was `late` seconds late, `elapsed` seconds after the one before.

        A long stall is one sample and has lasted for as long as it was late, so samples weigh by time.
        """
        late = max(0.0, late)
        self._seconds += (1.0 - exp(-elapsed / _TIME_CONSTANT)) * (late - self._seconds)
        peaks = self._peaks
        while peaks and peaks[-1][1] <= late:
            peaks.pop()
        peaks.append((now, late))
        while now - peaks[0][0] >= _MEMORY:
            peaks.popleft()
