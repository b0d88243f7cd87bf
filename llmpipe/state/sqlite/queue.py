"""A durable queue in a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast
from zlib import crc32

from attrs import astuple, define

from llmpipe.state.checks import at_most, check_item, check_times
from llmpipe.state.contracts.queue import (
    Item,
    ItemStatus,
    Leased,
    QueueConflict,
    QueueCounts,
    QueueFull,
    QueueState,
)
from llmpipe.state.sqlite.engine import Engine
from llmpipe.state.sqlite.jobs import Session
from llmpipe.state.sqlite.seals import real, seal, whole

__all__ = ("SqliteQueue",)

_FORGET = 500  # items in one step, so that nobody waits for long
_DAMAGED = "what is kept of it is damaged"

# An item is behind another of its line that came before it and is not over.
_NEXT = (
    "SELECT * FROM items AS item WHERE space = ? AND state = 'pending' AND due <= ? "
    "AND (line = '' OR NOT EXISTS (SELECT 1 FROM items AS other "
    "WHERE other.space = item.space AND other.line = item.line "
    "AND other.line <> '' AND other.state IN ('pending', 'leased') "
    "AND (other.number < item.number OR other.state = 'leased'))) "
    "ORDER BY priority DESC, number LIMIT ?"
)


@define
class _Row:
    """A row of the table, in the order of its columns, without its seal."""

    number: int
    space: str
    id: str
    line: str
    priority: int
    came: float
    due: float
    expires: float | None
    most: int
    state: str
    attempts: int
    token: int
    until: float
    ended: float
    reason: str
    bytes: int
    digest: int
    answer: int | None

    def values(self) -> tuple[Any, ...]:
        """All but the number, which the table gives, with the seal."""
        values: tuple[Any, ...] = astuple(self)[1:]
        return (*values, seal(*values))

    def end(self, state: QueueState, now: float, reason: str | None = None) -> None:
        """It is over."""
        self.state, self.ended = state, real(now)
        if reason is not None:
            self.reason = reason


class SqliteQueue:
    """See `Queue`. An item that is damaged in the file is dead, and the others go on."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._space = name
        self._max_items, self._max_bytes = 0, 0

    def resize(self, max_items: int, max_bytes: int) -> None:
        """Take new bounds. What is there stays."""
        self._max_items, self._max_bytes = max_items, max_bytes

    async def put(self, item: Item) -> bool:
        """See `Queue.put`."""
        check_item(item)
        return await self._engine.run(partial(self._put, item=item))

    def _put(self, db: Session, item: Item) -> bool:
        self._sweep(db)
        found = db.execute(
            "SELECT payload FROM items JOIN payloads USING (number) WHERE space = ? AND id = ?",
            (self._space, item.id),
        ).fetchone()
        if found is not None:
            if found[0] != item.payload:
                raise QueueConflict(f"item {item.id!r} is there with another payload")
            return False
        items, size, tokens = self._totals(db)
        if items >= self._max_items or size + len(item.payload) > self._max_bytes:
            raise QueueFull(f"the queue holds {items} items, {size} bytes: no room for more")
        row = self._row(item, db.now)
        cursor = db.execute(
            "INSERT INTO items VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.values(),
        )
        db.execute("INSERT INTO payloads VALUES (?, ?, NULL)", (cursor.lastrowid, item.payload))
        self._put_totals(db, items + 1, size + len(item.payload), tokens)
        db.swept.discard(("queue", self._space))  # it may be out of time at once
        return True

    def _row(self, item: Item, now: float) -> _Row:
        return _Row(
            number=0,
            space=self._space,
            id=item.id,
            line=item.order,
            priority=item.priority,
            came=real(now),
            due=real(now + item.delay),
            expires=None if item.expires_in is None else real(now + item.expires_in),
            most=item.attempts,
            state="pending",
            attempts=0,
            token=0,
            until=0.0,
            ended=0.0,
            reason="",
            bytes=len(item.payload),
            digest=crc32(item.payload),
            answer=None,
        )

    async def lease(self, owner: str, *, count: int = 1, seconds: float = 60.0) -> list[Leased]:
        """See `Queue.lease`."""
        check_times(seconds=seconds)
        return await self._engine.run(partial(self._lease, count=count, seconds=seconds))

    def _lease(self, db: Session, count: int, seconds: float) -> list[Leased]:
        self._sweep(db)
        count = at_most(count)
        items, size, tokens = self._totals(db)
        found: list[Leased] = []
        while len(found) < count:
            rows = db.execute(_NEXT, (self._space, db.now, count - len(found))).fetchall()
            if not rows:
                break
            for row in rows:
                entry = self._entry(db, row)
                payload = self._blob(db, "payload", entry.number, entry.digest)
                if entry.state == "dead" or payload is None:
                    self._bury(db, entry)
                    continue
                tokens += 1
                entry.state, entry.token, entry.until = "leased", tokens, real(db.now + seconds)
                entry.attempts += 1
                self._save(db, entry)
                found.append(Leased(id=entry.id, payload=payload, token=tokens, attempt=entry.attempts))
        if found:
            self._put_totals(db, items, size, tokens)
            db.swept.discard(("queue", self._space))
        return found

    async def renew(self, item: str, token: int, seconds: float) -> bool:
        """See `Queue.renew`."""
        check_times(seconds=seconds)
        return await self._engine.run(partial(self._renew, item=item, token=token, seconds=seconds))

    def _renew(self, db: Session, item: str, token: int, seconds: float) -> bool:
        entry = self._held(db, item, token)
        if entry is not None:
            entry.until = real(db.now + seconds)
            self._save(db, entry)
            db.swept.discard(("queue", self._space))  # it may be over at once
        return entry is not None

    async def done(self, item: str, token: int, result: bytes = b"") -> bool:
        """See `Queue.done`."""
        return await self._engine.run(partial(self._done, item=item, token=token, result=result))

    def _done(self, db: Session, item: str, token: int, result: bytes) -> bool:
        entry = self._held(db, item, token)
        if entry is None:
            return False
        entry.end("done", db.now)
        entry.bytes += len(result)
        entry.answer = crc32(result)
        self._save(db, entry)
        db.execute("UPDATE payloads SET result = ? WHERE number = ?", (result, entry.number))
        items, size, tokens = self._totals(db)
        self._put_totals(db, items, size + len(result), tokens)
        return True

    async def fail(
        self, item: str, token: int, reason: str, *, delay: float = 0.0, final: bool = False
    ) -> bool:
        """See `Queue.fail`."""
        check_times(delay=delay)
        return await self._engine.run(
            partial(self._fail, item=item, token=token, reason=reason, delay=delay, final=final)
        )

    def _fail(self, db: Session, *, item: str, token: int, reason: str, delay: float, final: bool) -> bool:
        entry = self._held(db, item, token)
        if entry is None:
            return False
        entry.until = real(db.now)
        if final or entry.attempts >= entry.most:
            entry.end("dead", db.now, reason)
        else:
            entry.state, entry.due, entry.reason = "pending", real(db.now + delay), reason
        self._save(db, entry)
        db.swept.discard(("queue", self._space))  # it may be out of time
        return True

    async def status(self, item: str) -> ItemStatus | None:
        """See `Queue.status`."""
        return await self._engine.run(partial(self._status, item=item), "read")

    def _status(self, db: Session, item: str) -> ItemStatus | None:
        self._sweep(db)
        entry = self._find(db, item)
        if entry is None:
            return None
        result = None if entry.answer is None else self._blob(db, "result", entry.number, entry.answer)
        state, reason = entry.state, entry.reason
        if entry.answer is not None and result is None:
            state, reason = "dead", _DAMAGED
        return ItemStatus(
            state=cast("QueueState", state), attempts=entry.attempts, result=result, reason=reason
        )

    async def counts(self) -> QueueCounts:
        """See `Queue.counts`."""
        return await self._engine.run(self._counts, "read")

    def _counts(self, db: Session) -> QueueCounts:
        self._sweep(db)
        found = db.execute(
            "SELECT state, count(*), min(came) FROM items WHERE space = ? GROUP BY state", (self._space,)
        )
        by_state = {state: (count, came) for state, count, came in found}
        counts = {state: count for state, (count, _) in by_state.items()}
        oldest = db.now - by_state["pending"][1] if "pending" in by_state else 0.0
        return QueueCounts(**counts, bytes=self._totals(db)[1], oldest=max(0.0, oldest))

    async def dead(self, *, limit: int = 100) -> list[tuple[str, str]]:
        """See `Queue.dead`."""
        return await self._engine.run(partial(self._dead, limit=limit), "read")

    def _dead(self, db: Session, limit: int) -> list[tuple[str, str]]:
        self._sweep(db)
        return db.execute(
            "SELECT id, reason FROM items WHERE space = ? AND state = 'dead' ORDER BY number LIMIT ?",
            (self._space, at_most(limit)),
        ).fetchall()

    async def revive(self, item: str) -> bool:
        """See `Queue.revive`."""
        return await self._engine.run(partial(self._revive, item=item))

    def _revive(self, db: Session, item: str) -> bool:
        self._sweep(db)
        entry = self._find(db, item)
        if entry is None or entry.state not in ("dead", "expired"):
            return False
        entry.state, entry.attempts, entry.due, entry.expires, entry.reason = (
            "pending",
            0,
            real(db.now),
            None,
            "",
        )
        self._save(db, entry)
        return True

    async def forget(self, older_than: float) -> int:
        """See `Queue.forget`. In steps, between which others are served."""
        check_times(older_than=older_than)
        gone = 0
        while step := await self._engine.run(partial(self._forget, older_than=older_than)):
            gone += step
        return gone

    def _forget(self, db: Session, older_than: float) -> int:
        self._sweep(db)
        over = db.execute(
            "SELECT number, bytes FROM items WHERE space = ? AND state IN ('done', 'dead', 'expired') "
            "AND ended <= ? LIMIT ?",
            (self._space, db.now - older_than, _FORGET),
        ).fetchall()
        if over:
            db.executemany("DELETE FROM items WHERE number = ?", [(number,) for number, _ in over])
            items, size, tokens = self._totals(db)
            self._put_totals(db, items - len(over), size - sum(count for _, count in over), tokens)
        return len(over)

    def _sweep(self, db: Session) -> None:
        """End leases that are over, and what is out of attempts or time."""
        if ("queue", self._space) in db.swept:
            return
        due = db.execute(
            "SELECT * FROM items WHERE space = ? AND state = 'leased' AND until <= ? "
            "UNION ALL SELECT * FROM items "
            "WHERE space = ? AND state = 'pending' AND expires IS NOT NULL AND expires <= ?",
            (self._space, db.now, self._space, db.now),
        ).fetchall()
        if due:
            db.must_write()
        for row in due:
            entry = self._entry(db, row)
            if entry.state == "leased":
                entry.state, entry.due = "pending", entry.until
                entry.reason = entry.reason or "its lease ended"
                if entry.attempts >= entry.most:
                    entry.end("dead", entry.until)
            if entry.state == "pending" and entry.expires is not None and entry.expires <= db.now:
                entry.end("expired", max(entry.expires, entry.until))
            self._save(db, entry)
        db.swept.add(("queue", self._space))

    # -- rows

    def _held(self, db: Session, item: str, token: int) -> _Row | None:
        self._sweep(db)
        entry = self._find(db, item)
        return entry if entry is not None and entry.state == "leased" and entry.token == token else None

    def _find(self, db: Session, item: str) -> _Row | None:
        row = db.execute("SELECT * FROM items WHERE space = ? AND id = ?", (self._space, item)).fetchone()
        return None if row is None else self._entry(db, row)

    def _entry(self, db: Session, row: Sequence[Any]) -> _Row:
        entry = _Row(*row[:-1])
        if not whole(row[1:]):
            db.must_write()
            self._bury(db, entry)
        return entry

    def _bury(self, db: Session, entry: _Row) -> None:
        entry.end("dead", db.now, _DAMAGED)
        self._save(db, entry)

    def _save(self, db: Session, entry: _Row) -> None:
        values = (
            entry.due,
            entry.expires,
            entry.state,
            entry.attempts,
            entry.token,
            entry.until,
            entry.ended,
            entry.reason,
            entry.bytes,
            entry.answer,
            entry.values()[-1],
            entry.number,
        )
        db.execute(
            "UPDATE items SET due = ?, expires = ?, state = ?, attempts = ?, token = ?, until = ?, "
            "ended = ?, reason = ?, bytes = ?, answer = ?, seal = ? WHERE number = ?",
            values,
        )

    def _blob(self, db: Session, which: str, number: int, digest: int) -> bytes | None:
        """A payload or a result; None if it is not what it was."""
        row = db.execute("SELECT payload, result FROM payloads WHERE number = ?", (number,)).fetchone()
        blob = None if row is None else row[0 if which == "payload" else 1]
        return blob if isinstance(blob, bytes) and crc32(blob) == digest else None

    def _totals(self, db: Session) -> tuple[int, int, int]:
        """Items, their bytes, and the last token."""
        row = db.execute("SELECT * FROM totals WHERE space = ?", (self._space,)).fetchone()
        if row is None:
            return 0, 0, 0
        if not whole(row):
            raise db.damaged("the totals of the queue were changed")
        return row[1], row[2], row[3]

    def _put_totals(self, db: Session, items: int, size: int, tokens: int) -> None:
        row = (self._space, items, size, tokens)
        db.execute("REPLACE INTO totals VALUES (?, ?, ?, ?, ?)", (*row, seal(*row)))
