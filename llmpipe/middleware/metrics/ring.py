"""What all sums were at earlier times: rates of the last minute, five minutes and hour.

Sums only grow, so what happened in a window is what they are now less what they were when it began.
They are written down each five seconds in which something is counted, by the first call after these:
nothing has changed since they ended. A call pays one comparison.
"""

from __future__ import annotations

from collections import deque

from attrs import frozen

__all__ = ("RESOLUTION", "Ring", "Sums")

RESOLUTION = 5.0
"""Seconds; a window is up to so much longer than it says."""
_FINE = 300.0 + RESOLUTION  # seconds for which each step is kept; beyond that, one a minute
_LONG = 3600.0 + 60.0


@frozen
class Sums:
    """All sums at one time, of one provider or of all.

    `durations` counts calls that ended well by bucket of their duration.
    """

    ok: int = 0
    failed: int = 0
    cancelled: int = 0
    abandoned: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    durations: tuple[int, ...] = ()

    @property
    def requests(self) -> int:
        """Calls, however they ended."""
        return self.ok + self.failed + self.cancelled + self.abandoned

    def since(self, then: Sums) -> Sums:
        """What was added since `then`."""
        before = then.durations or (0,) * len(self.durations)
        return Sums(
            self.ok - then.ok,
            self.failed - then.failed,
            self.cancelled - then.cancelled,
            self.abandoned - then.abandoned,
            self.input_tokens - then.input_tokens,
            self.output_tokens - then.output_tokens,
            self.cost_usd - then.cost_usd,
            tuple(now - was for now, was in zip(self.durations, before, strict=True)),
        )


ByProvider = dict[str, Sums]
"""Sums by provider; those of all together under the empty name."""


class Ring:
    """The sums of the last hour. Times are monotonic loop seconds."""

    def __init__(self) -> None:
        self.began: float | None = None
        self._fine: deque[tuple[float, ByProvider]] = deque()
        self._coarse: deque[tuple[float, ByProvider]] = deque()

    def add(self, at: float, sums: ByProvider) -> None:
        """These were the sums at `at`, which is later than all before."""
        fine, coarse = self._fine, self._coarse
        fine.append((at, sums))
        while len(fine) > 1 and fine[1][0] <= at - _FINE:
            old = fine.popleft()
            # Left out where the next is within a minute of the last: nothing is known less well than that.
            if not coarse or fine[0][0] - coarse[-1][0] > 60.0:
                coarse.append(old)
        while len(coarse) > 1 and coarse[1][0] <= at - _LONG:
            coarse.popleft()

    def before(self, at: float) -> ByProvider:
        """The latest sums that are from `at` or earlier; nothing, where all is later."""
        for marks in (self._fine, self._coarse):
            for when, sums in reversed(marks):
                if when <= at:
                    return sums
        return {}
