"""Replies in a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from attrs import evolve

from llmpipe.errors import BadReply, ConfigError, StoreUnavailable
from llmpipe.state.codec import CorruptEntry, decode_entry, encode_entry
from llmpipe.state.contracts.cache import Entry
from llmpipe.state.freeze import freeze
from llmpipe.state.sqlite.engine import Engine
from llmpipe.state.sqlite.jobs import Mode, Session

__all__ = ("SqliteCache",)

T = TypeVar("T")

log = logging.getLogger("llmpipe.state")

_ENTRY_BYTES = 160  # of an entry in the file, beside its reply and its key
_TOUCHED = 10_000  # entries whose last use is not written yet


class SqliteCache:
    """A least-recently-used cache, bounded by entries and bytes in the file, each entry with its expiry.

    Reading writes nothing: what was used is noted here, and written with the next entry that is put.
    An entry that is damaged is a miss, and goes. So is everything while the file cannot be had, which
    the log says once.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._space = name
        self._max_entries = self._max_bytes = 0
        self._fits = True
        self._away = False
        self._touched: dict[bytes, None] = {}  # in the order of their last use; the thread's own

    def resize(self, max_entries: int, max_bytes: int) -> None:
        """Take new bounds; what does not fit goes before anything is read again.

        Raises: ConfigError for bounds below 0, which nothing could keep.
        """
        if not (max_entries >= 0 and max_bytes >= 0):
            raise ConfigError(
                f"a cache keeps {max_entries} entries and {max_bytes} bytes; neither is below 0"
            )
        if (max_entries, max_bytes) != (self._max_entries, self._max_bytes):
            self._max_entries, self._max_bytes = max_entries, max_bytes
            self._fits = False

    async def get(self, key: bytes) -> tuple[Entry, float] | None:
        """See `Cache.get`."""
        return await self._or(None, partial(self._get, key=key), "read")

    def _get(self, db: Session, key: bytes) -> tuple[Entry, float] | None:
        if not self._fits:
            self._trim(db)
        row = db.execute(
            "SELECT stored, expires, entry FROM entries JOIN replies USING (number) "
            "WHERE space = ? AND key = ?",
            (self._space, key),
        ).fetchone()
        if row is None or db.now >= row[1]:
            return None
        try:
            entry = decode_entry(row[2], context=self._context(key))
            entry = evolve(entry, result=freeze(entry.result)[0])
        except (CorruptEntry, BadReply) as error:
            db.must_write()
            log.warning("%s: an entry of the cache %r is dropped: %s", db.path, self._space, error)
            self._remove(db, key)
            return None
        self._touched.pop(key, None)
        if len(self._touched) < _TOUCHED:
            self._touched[key] = None
        return entry, max(0.0, db.now - row[0])

    def put(self, key: bytes, entry: Entry, keep: float) -> Coroutine[Any, Any, None]:
        """See `Cache.put`. What cannot be stored removes what it would have replaced."""
        try:
            data: bytes | None = encode_entry(entry, context=self._context(key))
        except BadReply:  # nothing that could be kept; whoever asked has it all the same
            data = None
        return self._or(None, partial(self._put, key=key, data=data, keep=keep), "soft")

    def _put(self, db: Session, key: bytes, data: bytes | None, keep: float) -> None:
        self._remove(db, key)
        size = len(key) + len(data or b"") + _ENTRY_BYTES
        if data is None or size > self._max_bytes or not keep > 0:
            return
        entries, total, used = self._shelf(db)
        for used, touched in enumerate(self._touched, used + 1):  # noqa: B020  it goes on from where it was
            db.execute(
                "UPDATE entries SET used = ? WHERE space = ? AND key = ?", (used, self._space, touched)
            )
        self._touched.clear()
        cursor = db.execute(
            "INSERT INTO entries VALUES (NULL, ?, ?, ?, ?, ?, ?)",
            (self._space, key, db.now, db.now + keep, used + 1, size),
        )
        db.execute("INSERT INTO replies VALUES (?, ?)", (cursor.lastrowid, data))
        self._put_shelf(db, entries + 1, total + size, used + 1)
        self._trim(db)

    async def delete(self, key: bytes) -> bool:
        """See `Cache.delete`."""
        return await self._or(False, partial(self._remove, key=key), "soft")

    async def clear(self) -> None:
        """See `Cache.clear`."""
        await self._engine.run(self._clear, "soft")

    def _clear(self, db: Session) -> None:
        db.execute("DELETE FROM entries WHERE space = ?", (self._space,))
        self._put_shelf(db, 0, 0, 0)
        self._touched.clear()

    def size(self) -> None:
        """Only the file could tell."""
        return

    def _context(self, key: bytes) -> bytes:
        return self._space.encode("utf-8", "surrogatepass") + b"\0" + key

    async def _or(self, instead: T, work: Callable[[Session], T], mode: Mode) -> T:
        """What `work` gives; `instead` while the file cannot be had."""
        try:
            given = await self._engine.run(work, mode)
        except StoreUnavailable as error:
            if not self._away:
                self._away = True
                log.warning("the cache %r misses until its store is back: %s", self._space, error)
            return instead
        self._away = False
        return given

    # -- rows

    def _remove(self, db: Session, key: bytes) -> bool:
        """Forget the entry; whether there was one that had not expired."""
        row = db.execute(
            "SELECT number, size, expires FROM entries WHERE space = ? AND key = ?", (self._space, key)
        ).fetchone()
        if row is None:
            return False
        entries, total, used = self._shelf(db)
        db.execute("DELETE FROM entries WHERE number = ?", (row[0],))
        self._put_shelf(db, entries - 1, total - row[1], used)
        return bool(db.now < row[2])

    def _trim(self, db: Session) -> None:
        """Drop the least recently used until the rest fits."""
        db.must_write()
        entries, total, used = self._shelf(db)
        while entries > 0 and (entries > self._max_entries or total > self._max_bytes):
            number, size = db.execute(
                "SELECT number, size FROM entries WHERE space = ? ORDER BY used LIMIT 1", (self._space,)
            ).fetchone() or (None, total)
            if number is None:  # the shelf was wrong: nothing is left
                entries = 1
            else:
                db.execute("DELETE FROM entries WHERE number = ?", (number,))
            entries, total = entries - 1, total - size
        self._put_shelf(db, entries, total, used)
        self._fits = True

    def _shelf(self, db: Session) -> tuple[int, int, int]:
        """Entries, their bytes, and the number of the last use."""
        row = db.execute(
            "SELECT entries, bytes, used FROM shelves WHERE space = ?", (self._space,)
        ).fetchone()
        return row or (0, 0, 0)

    def _put_shelf(self, db: Session, entries: int, size: int, used: int) -> None:
        db.execute("REPLACE INTO shelves VALUES (?, ?, ?, ?)", (self._space, entries, size, used))
