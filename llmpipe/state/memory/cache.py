"""Replies in this process."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from llmpipe.errors import BadReply, ConfigError
from llmpipe.state.codec import check_compression, decode_entry, encode_entry
from llmpipe.state.contracts.cache import Entry
from llmpipe.state.freeze import freeze

__all__ = ("MemoryCache", "OWNER_BYTES")

OWNER_BYTES = 8
"""Of a key, at its beginning: they say whose it is, where one owner is to have only a share."""

# Of an entry beside its reply: itself, key, dict slots, list item. Rather too much: 390 were measured.
_ENTRY_BYTES = 660
_OWNED_BYTES = 200  # besides, for the owner's own order of use


class _Held(NamedTuple):
    entry: Entry | bytes
    stored_at: float
    expires_at: float
    size: int


_new_tuple = tuple.__new__  # a NamedTuple's own is Python, and takes twice the time (measured)


class _Room:
    """What one owner holds: keys, the least recently used first, and their bytes."""

    __slots__ = ("bytes", "keys")

    def __init__(self) -> None:
        self.keys: OrderedDict[bytes, None] = OrderedDict()
        self.bytes = 0


def _now() -> float:
    """Monotonic seconds, of the running event loop, so that virtual time drives expiry too."""
    return asyncio.get_running_loop().time()


class MemoryCache:
    """A least-recently-used cache, bounded by entries and by bytes, each entry with its own expiry.

    What has expired is never given out, and goes when its turn comes or when `size` is asked.
    (Of cachetools, LRUCache takes 0.1 µs more for each `put`, 0.6 when it is full, and TLRUCache,
    which keeps a heap of expiries, 2 to 3; measured on Python 3.11.)

    Args: max_bytes counts replies as CPython stores them, and the containers round them. A reply
    of more than all that is not kept.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._bytes = 0
        self._held: OrderedDict[bytes, _Held] = OrderedDict()  # the least recently used first
        self._rooms: dict[bytes, _Room] | None = None  # by owner, where owners have shares
        self._share = 1.0
        self._compress, self._above = "", 0
        self.resize(max_entries, max_bytes)

    async def get(self, key: bytes) -> tuple[Entry, float] | None:
        """The entry and its age in seconds, or None."""
        held = self._held.get(key)
        if held is None:
            return None
        entry, stored_at, expires_at, _ = held  # a third of the time of four names
        now = _now()
        if now >= expires_at:
            self._remove(key)
            return None
        self._held.move_to_end(key)
        if self._rooms is not None:
            self._rooms[key[:OWNER_BYTES]].keys.move_to_end(key)
        return entry if isinstance(entry, Entry) else decode_entry(entry), now - stored_at

    def put(self, key: bytes, entry: Entry, keep: float) -> None:
        """Keep `entry` for `keep` seconds, unless room is needed before. At once."""
        if key in self._held:
            self._remove(key)  # whether or not the new one can be kept, it is older
        if not keep > 0.0:  # nor is NaN, after which nothing would ever be
            return
        try:
            result, size = freeze(entry.result)
        except BadReply:  # nothing that could be kept; whoever asked has it all the same
            return
        if result is not entry.result:
            entry = Entry(result, entry.saved_nano)
        held: Entry | bytes = entry
        if self._compress and size > self._above:
            held, size = self._packed(entry, size)
        rooms = self._rooms
        size += _ENTRY_BYTES if rooms is None else _ENTRY_BYTES + _OWNED_BYTES
        if size > self._room_bytes or self._room_entries < 1.0:
            return
        now = _now()
        self._held[key] = _new_tuple(_Held, (held, now, now + keep, size))
        self._bytes += size
        if rooms is not None:
            self._own(rooms, key, size)
        self._trim()

    async def delete(self, key: bytes) -> bool:
        """Forget the entry; whether there was one."""
        held = self._remove(key) if key in self._held else None
        return held is not None and _now() < held.expires_at

    async def clear(self) -> None:
        """Forget all entries."""
        self._held.clear()
        self._bytes = 0
        if self._rooms is not None:
            self._rooms.clear()

    def size(self) -> tuple[int, int]:
        """How many entries there are, and their bytes."""
        now = _now()
        for key in [key for key, held in self._held.items() if now >= held.expires_at]:
            self._remove(key)
        return len(self._held), self._bytes

    def resize(self, max_entries: int, max_bytes: int) -> None:
        """Take new bounds; what does not fit goes, least recently used first.

        Raises: ConfigError for bounds below 0, which nothing could keep.
        """
        if not (max_entries >= 0 and max_bytes >= 0):
            raise ConfigError(
                f"a cache keeps {max_entries} entries and {max_bytes} bytes; neither is below 0"
            )
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._allot()
        self._trim()

    def shape(self, *, compress: str = "", above: int = 4096, max_share: float = 1.0) -> None:
        """How entries are kept from now on: compressed, and no owner with more than a share of the room.

        Args: compress: ``zstd`` for replies of more than `above` bytes, ``""`` for none. max_share:
        of entries and of bytes, above 0 and at most 1; the owner is told by the first `OWNER_BYTES` of the
        key. An owner that needs more room loses its own entries. With a share of 1/n, n owners never take
        room from each other.
        Raises: ConfigError for an unknown compression, or one whose package is not installed.
        """
        check_compression(compress)
        if not 0 < max_share <= 1:
            raise ConfigError(f"the share of one owner is above 0 and at most 1, not {max_share}")
        self._compress, self._above, self._share = compress, above, max_share
        self._allot()
        if (self._rooms is None) is (max_share < 1):
            self._rooms = {} if max_share < 1 else None
            extra = _OWNED_BYTES if max_share < 1 else -_OWNED_BYTES
            for key, held in self._held.items():
                self._held[key] = held._replace(size=held.size + extra)
            self._bytes += extra * len(self._held)
        if self._rooms is not None:
            held_now, self._rooms = self._held, {}
            for key in [*held_now]:
                self._own(self._rooms, key, held_now[key].size)
        self._trim()

    def _allot(self) -> None:
        """Work out what one owner may hold, which is asked of every entry."""
        self._room_entries = float(self._max_entries * self._share)
        self._room_bytes = float(self._max_bytes * self._share)

    def _packed(self, entry: Entry, size: int) -> tuple[Entry | bytes, int]:
        """The entry as bytes where these are fewer."""
        try:
            data = encode_entry(entry, compress=self._compress, above=self._above)
        except BadReply:  # what bytes cannot say exactly is kept as it is
            return entry, size
        return (data, len(data)) if len(data) < size else (entry, size)

    def _own(self, rooms: dict[bytes, _Room], key: bytes, size: int) -> None:
        """Count the entry for its owner, who makes room for it among its own."""
        room = rooms.get(key[:OWNER_BYTES])
        if room is None:
            room = rooms[key[:OWNER_BYTES]] = _Room()
        room.keys[key] = None
        room.bytes += size
        while len(room.keys) > self._room_entries or room.bytes > self._room_bytes:
            self._remove(next(iter(room.keys)))

    def _remove(self, key: bytes) -> _Held:
        held = self._held.pop(key)
        self._bytes -= held.size
        if self._rooms is not None:
            self._disown(self._rooms, key, held.size)
        return held

    def _disown(self, rooms: dict[bytes, _Room], key: bytes, size: int) -> None:
        room = rooms.get(key[:OWNER_BYTES])
        if room is not None and key in room.keys:
            del room.keys[key]
            room.bytes -= size
            if not room.keys:
                del rooms[key[:OWNER_BYTES]]

    def _trim(self) -> None:
        held = self._held
        while len(held) > self._max_entries or self._bytes > self._max_bytes:
            key, oldest = held.popitem(last=False)
            self._bytes -= oldest.size
            if self._rooms is not None:
                self._disown(self._rooms, key, oldest.size)
