"""What hedging knows of one target: how long it takes to answer, and how much it may be asked twice."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Hashable
from math import ceil

__all__ = ("Lane", "Lanes")

_SAVED = 5.0  # hedges that may be saved up, so that a short stall of a busy target can be hedged at all
_MAX_LANES = 1000


class Lane:
    """One target, one kind of request: its latest times to the first content, and its hedges.

    Attributes:
        calls, hedged, won: calls begun, second attempts sent, and those whose reply was taken.
        quiet_until: loop time before which nothing is hedged, because the target asked us to slow down.
    """

    __slots__ = ("_latest", "_sorted", "calls", "hedged", "quiet_until", "saved", "won")

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []
        self.calls = self.hedged = self.won = 0
        self.quiet_until = 0.0
        self.saved = 0.0

    def begin(self, share: float) -> None:
        """A call begins, and earns its `share` of a hedge."""
        self.calls += 1
        self.saved = min(_SAVED, self.saved + share)

    def learn(self, seconds: float, most: int) -> None:
        """One attempt took `seconds` to its first content, or as many without any; keep `most` of them."""
        latest, ordered = self._latest, self._sorted
        while len(latest) >= most:
            del ordered[bisect_left(ordered, latest.popleft())]
        latest.append(seconds)
        insort(ordered, seconds)

    def quantile(self, share: float) -> float | None:
        """The time that `share` of the latest attempts kept to, by nearest rank; None where none is known."""
        known = len(self._sorted)
        return self._sorted[min(known, max(1, ceil(share * known))) - 1] if known else None

    @property
    def samples(self) -> int:
        """How many times are known."""
        return len(self._sorted)


class Lanes:
    """The lanes of a runtime, by key; the longest unused go first."""

    __slots__ = ("by_key",)

    def __init__(self) -> None:
        self.by_key: dict[Hashable, Lane] = {}

    def of(self, key: Hashable) -> Lane:
        """The lane of `key`."""
        lane = self.by_key.pop(key, None)
        if lane is None:
            lane = Lane()
            if len(self.by_key) >= _MAX_LANES:
                del self.by_key[next(iter(self.by_key))]
        self.by_key[key] = lane  # at the end again: the longest unused comes first
        return lane
