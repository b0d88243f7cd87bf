"""What one rule has counted of one thing, over a sliding window."""

from __future__ import annotations

from collections import deque
from math import inf

from llmpipe.middleware.alerts.rules import Rule
from llmpipe.middleware.alerts.windowed import Counts, Windowed

__all__ = ("Meter",)


class Meter:
    """Sums that only grow, and what they were when the window began.

    The hot path adds to `calls`, `bad` and `sum`; `turn`, now and then, moves the window on. So the
    window is its length, and up to the time between two turns more.

    Attributes:
        rule, key: whose it is, and of what.
        calls, bad, sum: of all time; what a rule makes of them is its own.
        trip: what `sum` may grow to before somebody looks; infinite for rules that do not sum.
    """

    __slots__ = ("_base", "_marks", "bad", "calls", "key", "rule", "sum", "trip")

    def __init__(self, rule: Windowed, key: str) -> None:
        self.rule = rule
        self.key = key
        self.calls = 0
        self.bad = 0
        self.sum = 0.0
        self.trip = rule.trip
        self._base = (0, 0, 0.0)
        self._marks: deque[tuple[float, int, int, float]] = deque()

    def follows(self, rule: Rule | None) -> bool:
        """Go on under `rule`, which has the name of the one before; whether what it counts is the same."""
        if not isinstance(rule, Windowed) or not rule.counts_as(self.rule):
            return False
        self.rule = rule
        self.trip = self._base[2] + rule.trip
        return True

    @property
    def window(self) -> Counts:
        """Calls, bad ones and sum of the window."""
        calls, bad, total = self._base
        return self.calls - calls, self.bad - bad, self.sum - total

    @property
    def empty(self) -> bool:
        """Whether the window holds nothing."""
        return self.calls == self._base[0] and not self._marks

    def turn(self, now: float, ended: float) -> None:
        """Move the window on to `now`; what is counted so far was counted until `ended`."""
        marks = self._marks
        if self.calls != (marks[-1][1] if marks else self._base[0]):
            marks.append((ended, self.calls, self.bad, self.sum))
        began = now - self.rule.window
        while marks and marks[0][0] <= began:
            self._base = marks.popleft()[1:]
        if self.trip != inf:
            self.trip = self._base[2] + self.rule.trip
