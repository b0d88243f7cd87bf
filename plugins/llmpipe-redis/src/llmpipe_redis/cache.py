"""Replies in Redis."""

from __future__ import annotations

import logging
from typing import Any

from llmpipe.errors import BadReply, StoreUnavailable
from llmpipe.state import Entry
from llmpipe.state.codec import CorruptEntry, decode_entry, encode_entry
from llmpipe.state.freeze import freeze
from llmpipe_redis.access import Access

__all__ = ("RedisCache",)

_log = logging.getLogger("llmpipe.state.redis")
_FOREVER = 100 * 366 * 86_400.0
_SPECIAL = b"\\*?[]^"


class RedisCache:
    """Replies, each under a key of its own that Redis lets expire. See `llmpipe.state.Cache`.

    A Redis that cannot be reached misses, keeps nothing and deletes nothing, and says so in the log
    once for each outage. Bounds are its own: ``maxmemory`` with a policy such as ``volatile-lru``.
    """

    def __init__(self, access: Access, base: str) -> None:
        self._access = access
        self._base = base.encode()
        self._out = False  # of reach, which has been said

    async def get(self, key: bytes) -> tuple[Entry, float] | None:
        """See `Cache.get`. What is there and cannot be read is a miss."""
        found = await self._run("cache_get", key)
        if not found:
            return None
        age, data = found
        try:
            entry = decode_entry(data, context=key)
            return Entry(freeze(entry.result)[0], entry.saved_nano), float(age)
        except CorruptEntry as error:
            _log.warning("an entry of the cache cannot be read, and is taken for a miss: %s", error)
            return None

    async def put(self, key: bytes, entry: Entry, keep: float) -> None:
        """See `Cache.put`."""
        try:
            data = encode_entry(entry, context=key)
        except BadReply:  # nothing that could be kept; whoever asked has it all the same
            await self._run("cache_delete", key)
            return
        milliseconds = int(min(keep, _FOREVER) * 1000) if keep > 0 else 0  # which NaN is not
        if milliseconds > 0:
            await self._run("cache_put", key, b"%d" % milliseconds, data)
        else:
            await self._run("cache_delete", key)

    async def delete(self, key: bytes) -> bool:
        """See `Cache.delete`."""
        return bool(await self._run("cache_delete", key))

    async def clear(self) -> None:
        """Forget all entries: those that are there when it begins. It goes through all keys of Redis.

        Raises: StoreUnavailable, for whoever clears has to know whether it was done.
        """
        link = self._access.link()
        pattern = b"".join(b"\\%c" % byte if byte in _SPECIAL else b"%c" % byte for byte in self._base) + b"*"
        cursor = b"0"
        while True:
            cursor, keys = await link.ask((b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"1000"))
            if keys:
                await link.ask((b"UNLINK", *keys))
            if cursor == b"0":
                return

    def size(self) -> None:
        """Not known here."""

    async def _run(self, name: str, *args: bytes) -> Any:
        try:
            found = await self._access.run(name, self._base, args)
        except StoreUnavailable as error:
            if not self._out:
                _log.warning("the cache misses until its store is back: %s", error)
            self._out = True
            return None
        self._out = False
        return found
