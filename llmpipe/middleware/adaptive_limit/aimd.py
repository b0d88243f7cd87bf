"""How many calls at a time a target takes, found by trying: pure arithmetic, the time is an argument.

Additive increase, multiplicative decrease, as TCP finds its window (D.-M. Chiu, R. Jain, Computer
Networks 17, 1989) and Netflix's concurrency limits do for calls (``AIMDLimit``): a success while the limit is
used makes it larger, a drop makes it smaller by a tenth. Of the time a call takes nothing is concluded,
for that is the length of the answer.

Below the limit that is known to be too much each success makes room for one more, so that it doubles with
every round; from there on a whole round of successes does (TCP's slow start and congestion avoidance). Where
nothing at all succeeds, nothing is learned of how much is too much: after an outage it goes back fast to
nine tenths of what it was. What was learned half a minute ago is tried again with a tenth more each round, so
a target that failed at random and is well again gets all of it back in some forty rounds at the latest.
"""

from __future__ import annotations

from math import inf

__all__ = ("Aimd",)

_TRUSTED_SECONDS = 30.0  # for which a limit that was too much is taken to be so still


class Aimd:
    """The limit of one key.

    Args:
        start, minimum, maximum: calls at a time.
        backoff: what a drop leaves of the limit, above 0 and below 1; it takes a whole call at least.
        window: seconds after a decrease in which there is no other.
    """

    __slots__ = (
        "_backoff", "_dropped_at", "_known", "_limit", "_lowered_at", "_maximum", "_minimum", "_succeeded",
        "_window",
    )  # fmt: skip

    def __init__(self, start: int, minimum: int, maximum: int, backoff: float, window: float) -> None:
        self._limit = float(start)
        self._known = inf  # a limit that was too much, less a tenth
        self._lowered_at = self._dropped_at = -inf
        self._succeeded = True  # since the last decrease
        self.adopt(minimum, maximum, backoff, window)

    def adopt(self, minimum: int, maximum: int, backoff: float, window: float) -> None:
        """Take other settings; what was learned stays, within the new bounds."""
        self._minimum, self._maximum, self._backoff, self._window = minimum, maximum, backoff, window
        self._limit = min(max(self._limit, minimum), maximum)

    @property
    def limit(self) -> int:
        """Calls that may be in flight."""
        return int(self._limit)

    def success(self, begun_at: float, in_flight: int) -> bool:
        """A call that began at `begun_at` has got through, one of `in_flight`; whether that makes room.

        Not if another was dropped since: or what gets through in a window, in which there is one decrease,
        could make up for it, and the limit stand for ever above what the target takes.
        """
        self._succeeded = True
        if begun_at <= self._dropped_at:
            return False
        if in_flight * 2 < self._limit:
            return False  # so few do not show that more would get through
        before = self.limit
        if self._limit < self._known:
            more = 1.0
        elif begun_at - self._dropped_at < _TRUSTED_SECONDS:
            more = 1.0 / self._limit
        else:
            more = max(0.1, 1.0 / self._limit)
        self._limit = min(self._limit + more, self._maximum)
        return self.limit > before

    def drop(self, begun_at: float, now: float) -> bool:
        """A call that began at `begun_at` was too much for the target; whether that lowers the limit.

        Not if the call began before the last decrease: that one was for it too.
        """
        if begun_at < self._lowered_at:
            return False
        self._dropped_at = now
        if now - self._lowered_at < self._window:
            return False
        before = self.limit
        self._limit = max(self._minimum, min(self._limit * self._backoff, self._limit - 1.0))
        if self._succeeded:
            self._known = self._limit
        self._succeeded = False
        self._lowered_at = now
        return self.limit < before
