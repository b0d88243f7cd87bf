"""Open circuits in this process."""

from __future__ import annotations

from llmpipe.state.checks import check_trip
from llmpipe.state.contracts.breakers import Trip
from llmpipe.state.memory.clock import Clock, loop_time

__all__ = ("MemoryBreakers",)


class MemoryBreakers:
    """Open circuits, until when, and how often each was opened again."""

    def __init__(self, clock: Clock = loop_time) -> None:
        self._clock = clock
        self._open: dict[str, tuple[float, int]] = {}

    async def trip(self, key: str, trip: Trip) -> None:
        """See `Breakers.trip`."""
        check_trip(trip)
        now = self._clock()
        before, reopens = self._open.get(key, (now, 0))
        if before <= now:  # it is over, and leaves nothing to this one
            reopens = 0
        self._open[key] = (max(before, now + trip.seconds), max(reopens, trip.reopens))

    async def close(self, key: str) -> None:
        """See `Breakers.close`."""
        self._open.pop(key, None)

    async def read(self) -> dict[str, Trip]:
        """See `Breakers.read`."""
        now = self._clock()
        self._open = {key: found for key, found in self._open.items() if found[0] > now}
        return {key: Trip(until - now, reopens) for key, (until, reopens) in self._open.items()}
