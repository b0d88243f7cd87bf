"""Open circuits in this process."""

from __future__ import annotations

import asyncio

from llmpipe.state.contracts.breakers import Trip

__all__ = ("MemoryBreakers",)


class MemoryBreakers:
    """Open circuits, until when."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[float, int]] = {}

    async def trip(self, key: str, trip: Trip) -> None:
        """See `Breakers.trip`."""
        until = asyncio.get_running_loop().time() + trip.seconds
        before, reopens = self._open.get(key, (until, 0))
        self._open[key] = (max(before, until), max(reopens, trip.reopens))

    async def close(self, key: str) -> None:
        """See `Breakers.close`."""
        self._open.pop(key, None)

    async def read(self) -> dict[str, Trip]:
        """See `Breakers.read`."""
        now = asyncio.get_running_loop().time()
        self._open = {key: found for key, found in self._open.items() if found[0] > now}
        return {key: Trip(until - now, reopens) for key, (until, reopens) in self._open.items()}
