"""The backend ``redis://``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast

from llmpipe.errors import ConfigError, StoreDamaged, StoreUnavailable
from llmpipe.state import Backend
from llmpipe_redis.access import Access
from llmpipe_redis.breakers import RedisBreakers
from llmpipe_redis.cache import RedisCache
from llmpipe_redis.ledger import RedisLedger
from llmpipe_redis.limits import RedisLimits
from llmpipe_redis.link import Link
from llmpipe_redis.queue import RedisQueue
from llmpipe_redis.settings import Settings

__all__ = ("FORMAT", "RedisState", "open_redis")

FORMAT = 1
"""The version of the keys' form, kept in the key ``{prefix}:format``."""

_log = logging.getLogger("llmpipe.state.redis")
T = TypeVar("T")


class RedisState(Access, Backend):
    """What many processes share in one Redis. See `Access` for how it gets there."""

    scheme: ClassVar[str] = "redis"
    offers: ClassVar[frozenset[str]] = frozenset({"breakers", "cache", "ledger", "limits", "queue"})

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._things: dict[tuple[str, str], Any] = {}

    def __repr__(self) -> str:
        return f"RedisState({self.settings!r})"

    def breakers(self, name: str) -> RedisBreakers:
        """The open circuits that are told under `name`."""
        return self._thing("breakers", name, RedisBreakers)

    def cache(self, name: str, *, max_entries: int, max_bytes: int) -> RedisCache:
        """The cache called `name`. Its bounds are Redis' own: ``maxmemory`` and its policy."""
        return self._thing("cache", name, RedisCache)

    def ledger(self, name: str) -> RedisLedger:
        """The budgets called `name`."""
        return self._thing("ledger", name, RedisLedger)

    def limits(self, name: str) -> RedisLimits:
        """The limits called `name`."""
        return self._thing("limits", name, RedisLimits)

    def queue(self, name: str, *, max_items: int = 100_000, max_bytes: int = 1 << 30) -> RedisQueue:
        """The queue called `name`, with these bounds from now on for what this process gives it."""
        queue = self._thing("queue", name, RedisQueue)
        queue.resize(max_items, max_bytes)
        return queue

    def _thing(self, kind: str, name: str, make: Callable[[Access, str], T]) -> T:
        found = self._things.get((kind, name))
        if found is None:
            found = self._things[kind, name] = make(self, self.settings.base(kind, name))
        return cast("T", found)

    async def check(self) -> None:
        """Connect, and see that the keys have the form that is written here.

        Says in the log if Redis may throw away keys when its memory is full: balances and queued
        items would be among them.

        Raises: ConfigError for a node of a cluster that keeps only some of the keys; and as `State.check`.
        """
        link = self.link()
        if b"cluster_enabled:1" in await link.ask((b"INFO", b"cluster")):
            await self._check_slots(link)
        key = self.settings.format_key.encode()
        await link.ask((b"SET", key, b"%d" % FORMAT, b"NX"))
        found = await link.ask((b"GET", key))
        if found is None or not found.isdigit() or int(found) > FORMAT:
            raise StoreDamaged(
                f"Redis at {self.settings.place} was written by a newer version: its keys are of form "
                f"{found!r}, and this version knows {FORMAT}"
            )
        memory = await link.ask((b"INFO", b"memory"))
        policy = memory.partition(b"maxmemory_policy:")[2].partition(b"\r\n")[0].decode()
        if policy not in {"", "noeviction"}:
            _log.warning(
                "Redis at %s has maxmemory-policy %s: when its memory is full it throws away budgets and "
                "limits; noeviction keeps them",
                self.settings.place,
                policy,
            )

    async def _check_slots(self, link: Link) -> None:
        # Of 64 keys some lie on another node, wherever there is one. To ask for the slots themselves would
        # need one more right than all else.
        for number in range(64):
            try:
                await link.ask((b"GET", self.settings.base("slot", f"{number}").encode()))
            except StoreUnavailable as error:
                if error.code not in {"MOVED", "ASK"}:
                    raise
                raise ConfigError(
                    f"Redis at {self.settings.place} is one of several nodes of a cluster, and llmpipe "
                    "speaks to one address: name a Redis that is no cluster, its sentinels "
                    "(redis+sentinel://), or a proxy that knows where each key lies"
                ) from None


def open_redis(url: str) -> RedisState:
    """The backend of ``redis://user:password@host:6379/0?prefix=llmpipe``; ``rediss://`` is encrypted.

    ``redis+sentinel://host1:26379,host2:26379/mymaster/0`` asks sentinels where the server is.

    Raises: ConfigError.
    """
    return RedisState(Settings.of(url))
