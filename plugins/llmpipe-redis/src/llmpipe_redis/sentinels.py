"""Where the master is, as the sentinels say: asked anew for every connection, so that a failover is followed.

By "Guidelines for Redis clients with support for Redis Sentinel" (redis.io): the sentinels are asked one
after the other, the one that answered last time first, and who they name is asked whether it is the master.
"""

from __future__ import annotations

import asyncio

from attrs import evolve
from redis.exceptions import ReadOnlyError, RedisError

from llmpipe.errors import StoreUnavailable
from llmpipe_redis.settings import Settings
from llmpipe_redis.wire import Wire, dial

__all__ = ("Sentinels",)


class Sentinels:
    """Those of one master, which `connect` finds.

    Raises: StoreUnavailable if none of them knows it; what `redis` raises, ReadOnlyError for one that is no
    master (any more, or yet).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._order = list(settings.sentinels)
        # One that hangs leaves time to ask the next, and then the master.
        self._patience = settings.timeout / 4

    async def connect(self) -> Wire:
        """A connection to the master."""
        host, port = await self._master()
        wire = dial(evolve(self._settings, host=host, port=port))
        try:
            await wire.open()
            # A sentinel that has lost touch names the old master; and that, if it is a replica now, would
            # still answer what is only read, from the past.
            if b"role:master" not in await wire.ask((b"INFO", b"replication")):
                raise ReadOnlyError("READONLY the sentinels name a server that is no master")
        except BaseException:  # cancelled too: what there is of it goes
            wire.cut()
            raise
        return wire

    async def _master(self) -> tuple[str, int]:
        what = "are all out of reach"
        for place in tuple(self._order):
            try:
                async with asyncio.timeout(self._patience):
                    found = await self._ask(*place)
                if found:
                    self._order.remove(place)
                    self._order.insert(0, place)
                    return found[0].decode(), int(found[1])
                what = f"know no master {self._settings.master!r}"
            except (RedisError, OSError, ValueError):  # OSError: its time is over, too
                continue  # the next may know; if none does, that is said below
        raise StoreUnavailable(f"the sentinels of {self._settings.place} {what}")

    async def _ask(self, host: str, port: int) -> list[bytes] | None:
        user, password = self._settings.sentinel_username, self._settings.sentinel_password
        wire = dial(evolve(self._settings, host=host, port=port, db=0, username=user, password=password))
        try:
            await wire.open()
            name = self._settings.master.encode()
            found: list[bytes] | None = await wire.ask((b"SENTINEL", b"get-master-addr-by-name", name))
            return found
        finally:
            wire.cut()
