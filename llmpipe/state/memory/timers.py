"""Names to be looked at again at a time: what leases, delays and expiries need."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf

__all__ = ("Timers",)


class Timers:
    """The earliest time of each name, in a heap that never holds much more than there are names.

    A name fires at the earliest time it was armed for, not at the latest: who finds that it is not due yet
    arms it again. So to begin a lease anew, which happens far more often than that one ends, costs nothing.
    """

    def __init__(self) -> None:
        self._armed: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # of each armed name its time, and some that no longer count

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def first(self) -> float:
        """Before that time none fires; infinite where there is none."""
        return self._heap[0][0] if self._heap else inf

    def arm(self, name: str, when: float) -> None:
        """Fire `name` at `when`, unless it fires before; never if that is infinite."""
        if when < self._armed.get(name, inf):
            self._armed[name] = when
            heappush(self._heap, (when, name))
            if len(self._heap) > 64 + 2 * len(self._armed):
                self._heap = [(at, each) for each, at in self._armed.items()]
                heapify(self._heap)

    def disarm(self, name: str) -> None:
        """`name` does not fire."""
        self._armed.pop(name, None)

    def due(self, now: float) -> Iterator[str]:
        """The names whose time has come, each taken out as it is given."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, name = heappop(heap)
            if self._armed.get(name) == when:
                del self._armed[name]
                yield name
                heap = self._heap  # whoever has it may have armed others
