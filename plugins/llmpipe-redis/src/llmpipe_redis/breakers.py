"""Open circuits in Redis."""

from __future__ import annotations

from llmpipe.state import Trip
from llmpipe.state.checks import check_trip
from llmpipe_redis.access import Access
from llmpipe_redis.text import packed, unpacked

__all__ = ("RedisBreakers",)


class RedisBreakers:
    """Open circuits in one hash, which goes when the last of them is over. See `llmpipe.state.Breakers`."""

    def __init__(self, access: Access, base: str) -> None:
        self._access = access
        self._base = base.encode()

    async def trip(self, key: str, trip: Trip) -> None:
        """See `Breakers.trip`."""
        check_trip(trip)
        args = (packed(key), b"%r" % float(trip.seconds), b"%d" % trip.reopens)
        await self._access.run("trip", self._base, args)

    async def close(self, key: str) -> None:
        """See `Breakers.close`."""
        await self._access.link().ask((b"HDEL", self._base + b"open", packed(key)))

    async def read(self) -> dict[str, Trip]:
        """See `Breakers.read`."""
        found = await self._access.run("read_open", self._base, ())
        open_: dict[str, Trip] = {}
        for key, value in zip(found[::2], found[1::2], strict=True):
            seconds, reopens = value.split()
            open_[unpacked(key)] = Trip(float(seconds), int(reopens))
        return open_
