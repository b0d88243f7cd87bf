"""State that lives in this process and ends with it."""

from __future__ import annotations

import asyncio

from attrs import frozen
from cachetools import TLRUCache

from llmpipe.state import Cache, Entry
from llmpipe.state.freeze import freeze

__all__ = ("MemoryCache", "MemoryState")

# Of the containers round an entry, beside the entry: key, dict slots, heap item (measured: 560 bytes).
_ENTRY_BYTES = 600


@frozen
class _Held:
    entry: Entry
    stored_at: float
    expires_at: float
    size: int


def _now() -> float:
    """Monotonic seconds, of the running event loop, so that virtual time drives expiry too."""
    return asyncio.get_running_loop().time()


class MemoryCache:
    """A least-recently-used cache, bounded by entries and by bytes, each entry with its own expiry.

    Args: max_bytes counts replies as CPython stores them, and the containers round them. A reply
    of more than all that is not kept.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._held: TLRUCache[bytes, _Held] = _container(max_bytes)

    async def get(self, key: bytes) -> tuple[Entry, float] | None:
        """The entry and its age in seconds, or None."""
        try:
            held = self._held[key]
        except KeyError:
            return None
        return held.entry, _now() - held.stored_at

    def put(self, key: bytes, entry: Entry, keep: float) -> None:
        """Keep `entry` for `keep` seconds, unless room is needed before. At once."""
        entry, size = freeze(entry)
        size += _ENTRY_BYTES
        if size > self._held.maxsize:
            self._held.pop(key, None)  # what was there is older than what cannot be kept
            return
        now = _now()
        self._held[key] = _Held(entry, now, now + keep, size)
        while len(self._held) > self._max_entries:
            self._held.popitem()

    async def delete(self, key: bytes) -> bool:
        """Forget the entry; whether there was one."""
        return self._held.pop(key, None) is not None

    async def clear(self) -> None:
        """Forget all entries."""
        self._held.clear()

    def size(self) -> tuple[int, int]:
        """How many entries there are, and their bytes."""
        self._held.expire()
        return len(self._held), int(self._held.currsize)

    def resize(self, max_entries: int, max_bytes: int) -> None:
        """Take new bounds; what does not fit goes, least recently used first."""
        self._max_entries = max_entries
        old = self._held
        if max_bytes != old.maxsize:
            self._held = _container(max_bytes)
            while old and old.currsize > max_bytes:
                old.popitem()
            kept = []
            while old:
                kept.append(old.popitem())  # least recently used first, so the order stays
            self._held.update(kept)
        while len(self._held) > max_entries:
            self._held.popitem()


def _container(max_bytes: int) -> TLRUCache[bytes, _Held]:
    return TLRUCache(max_bytes, ttu=_expiry, timer=_now, getsizeof=_size)


def _expiry(key: bytes, held: _Held, now: float) -> float:
    return held.expires_at


def _size(held: _Held) -> int:
    return held.size


class MemoryState:
    """The backend ``memory://``."""

    def __init__(self) -> None:
        self._caches: dict[str, MemoryCache] = {}

    def cache(self, name: str, *, max_entries: int, max_bytes: int) -> Cache:
        """The cache called `name`, with these bounds from now on."""
        found = self._caches.get(name)
        if found is None:
            found = self._caches[name] = MemoryCache(max_entries, max_bytes)
        else:
            found.resize(max_entries, max_bytes)
        return found

    async def aclose(self) -> None:
        """Forget everything."""
        self._caches.clear()
