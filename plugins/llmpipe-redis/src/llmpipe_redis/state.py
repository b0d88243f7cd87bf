"""The backend ``redis://``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar, cast
from weakref import WeakKeyDictionary

from llmpipe.errors import StoreDamaged
from llmpipe.state import Backend
from llmpipe_redis.breakers import RedisBreakers
from llmpipe_redis.cache import RedisCache
from llmpipe_redis.ledger import RedisLedger
from llmpipe_redis.limits import RedisLimits
from llmpipe_redis.link import Link
from llmpipe_redis.lua import script
from llmpipe_redis.queue import RedisQueue
from llmpipe_redis.settings import Settings

__all__ = ("FORMAT", "RedisState", "open_redis")

FORMAT = 1
"""The version of the keys' form, kept in the key ``{prefix}:format``."""

_log = logging.getLogger("llmpipe.state.redis")
T = TypeVar("T")


class RedisState(Backend):
    """What many processes share in one Redis. Connects on first use, for each event loop by itself.

    Attributes:
        ahead: seconds added to the server's clock in every operation, for tests.
    """

    scheme: ClassVar[str] = "redis"
    offers: ClassVar[frozenset[str]] = frozenset({"breakers", "cache", "ledger", "limits", "queue"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ahead = 0.0
        # A connection belongs to the loop that opened it; a loop that is gone takes its own along.
        self._links: WeakKeyDictionary[asyncio.AbstractEventLoop, Link] = WeakKeyDictionary()
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

    def _thing(self, kind: str, name: str, make: Callable[[RedisState, str], T]) -> T:
        found = self._things.get((kind, name))
        if found is None:
            found = self._things[kind, name] = make(self, self.settings.base(kind, name))
        return cast("T", found)

    def link(self) -> Link:
        """The way to Redis from the running event loop."""
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            link = self._links[loop] = Link(self.settings)
        return link

    async def run(self, name: str, base: bytes, args: Sequence[bytes]) -> Any:
        """The answer of the script `name`. Its first argument is how far time is ahead, in seconds."""
        return await self.link().run(script(name), base, (b"%r" % self.ahead, *args))

    async def run_whole(self, name: str, base: bytes, args: Sequence[bytes]) -> Any:
        """As `run`, of a script that first ends what is over, in parts, and says ``more`` until it has.

        So no script holds up the others for long, and none answers before all that is over has ended.
        """
        while True:
            answer = await self.run(name, base, args)
            if not (isinstance(answer, bytes) and answer == b"more"):
                return answer

    async def check(self) -> None:
        """Connect, and see that the keys have the form that is written here.

        Says in the log if Redis may throw away keys when its memory is full: balances and queued
        items would be among them.
        """
        link = self.link()
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

    async def aclose(self) -> None:
        """Close the connections of this event loop when their commands are over, and those of others."""
        own = asyncio.get_running_loop()
        links, self._links = self._links, WeakKeyDictionary()
        for loop, link in list(links.items()):
            if loop is own:
                await link.aclose()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(link.drop)


def open_redis(url: str) -> RedisState:
    """The backend of ``redis://user:password@host:6379/0?prefix=llmpipe``; ``rediss://`` is encrypted.

    Raises: ConfigError.
    """
    return RedisState(Settings.of(url))
