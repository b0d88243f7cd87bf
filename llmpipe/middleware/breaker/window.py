"""A count of calls and failures over a sliding window of time."""

from __future__ import annotations

from math import inf, nextafter

__all__ = ("Window",)

_BUCKETS = 10


class Window:
    """Calls and failures of the last `seconds`, in ten buckets, so between 9/10 of them and all.

    Attributes:
        calls, failures: how many the window holds, as of the latest `add`.
    """

    __slots__ = ("_ends", "_fresh", "_old", "_slot", "_width", "calls", "failures")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / _BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.calls = self.failures = 0
        self._fresh = (0, 0)  # what calls and failures were when the newest bucket began
        self._old: list[tuple[int, int]] = []  # the buckets before it, newest last
        self._slot = 0
        self._ends = 0.0  # when the newest bucket does; 0: there is none

    def add(self, now: float, failed: bool) -> None:
        """Count one call."""
        if now >= self._ends:
            self._advance(now)
        self.calls += 1
        if failed:
            self.failures += 1

    def _advance(self, now: float) -> None:
        """Begin the bucket of `now`, and drop those that are out of the window."""
        slot = int(now / self._width)
        passed = slot - self._slot if self._ends else _BUCKETS
        if passed <= 0:  # rounding put the end of this bucket an ulp too early
            self._ends = nextafter(now, inf)
            return
        self._old.append((self.calls - self._fresh[0], self.failures - self._fresh[1]))
        self._old.extend([(0, 0)] * (min(passed, _BUCKETS) - 1))
        del self._old[: -(_BUCKETS - 1)]
        self.calls = sum(calls for calls, _ in self._old)
        self.failures = sum(failures for _, failures in self._old)
        self._fresh = (self.calls, self.failures)
        self._slot, self._ends = slot, (slot + 1) * self._width

    def resize(self, seconds: float) -> None:
        """Use another length; what was counted moves to where the newest bucket began."""
        began = self._slot * self._width
        self._width = seconds / _BUCKETS
        self._old.clear()
        self._fresh = (0, 0)
        if self._ends:
            self._slot = int(began / self._width)
            self._ends = (self._slot + 1) * self._width
