"""The audit trail in a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

from llmpipe.state.checks import at_most, body_json, check_query, check_records, check_times
from llmpipe.state.contracts.audit import Anchor, AuditQuery, AuditRecord
from llmpipe.state.sqlite.engine import Engine
from llmpipe.state.sqlite.jobs import Session

__all__ = ("SqliteAudit",)

_PRUNE = 1000  # records in one step, so that nobody waits for long

# What was pruned is not kept again; what is there already is looked at afterwards.
_INSERT = (
    "INSERT INTO records SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? "
    "WHERE NOT EXISTS (SELECT 1 FROM writers WHERE space = ? AND writer = ? AND seq >= ?) "
    "ON CONFLICT DO NOTHING"
)
# One look for each writer, however many records there are.
_WRITERS = (
    "WITH RECURSIVE known (writer) AS (SELECT min(writer) FROM records WHERE space = ? UNION ALL "
    "SELECT (SELECT min(writer) FROM records WHERE space = ? AND writer > known.writer) FROM known "
    "WHERE known.writer IS NOT NULL) SELECT writer FROM known WHERE writer IS NOT NULL "
    "UNION SELECT writer FROM writers WHERE space = ? AND seq > 0"
)
# An end may come before its begin, and then has ended it.
_BEGUN = (
    "INSERT INTO unended SELECT ?, ?, ?, ? WHERE NOT EXISTS "
    "(SELECT 1 FROM records WHERE space = ? AND call = ? AND kind = 'end')"
)
_FILTERS = ("tenant", "user", "outcome", "kind", "call", "writer")


class SqliteAudit:
    """See `Audit`. Records have no seal: who finds what was changed in them is `hash_chain.fault`."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._space = name

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See `Audit.append`."""
        check_records(records)
        rows = [_row(self._space, record) for record in records]
        await self._engine.run(partial(self._append, rows=rows))

    def _append(self, db: Session, rows: Sequence[tuple[Any, ...]]) -> None:
        space = self._space
        for row in rows:
            place, kind, call = row[:3], row[3], row[5]
            if not db.execute(_INSERT, row + place).rowcount:
                found = db.execute(
                    "SELECT hash FROM records WHERE space = ? AND writer = ? AND seq = ?", place
                ).fetchone()
                if found is not None and found[0] != row[-1]:
                    raise ValueError(f"record {row[2]} of writer {row[1]!r} is there, and is another one")
            elif kind == "begin":
                db.execute(_BEGUN, (*place, call, space, call))
            elif kind == "end":
                db.execute("DELETE FROM unended WHERE space = ? AND call = ?", (space, call))

    async def head(self, writer: str) -> AuditRecord | Anchor:
        """See `Audit.head`."""
        return await self._engine.run(partial(self._head, writer=writer), "read")

    def _head(self, db: Session, writer: str) -> AuditRecord | Anchor:
        row = db.execute(
            "SELECT * FROM records WHERE space = ? AND writer = ? ORDER BY seq DESC LIMIT 1",
            (self._space, writer),
        ).fetchone()
        return self._anchor(db, writer) if row is None else _record(row)

    async def anchor(self, writer: str) -> Anchor:
        """See `Audit.anchor`."""
        return await self._engine.run(partial(self._anchor, writer=writer), "read")

    def _anchor(self, db: Session, writer: str) -> Anchor:
        row = db.execute(
            "SELECT seq, hash FROM writers WHERE space = ? AND writer = ?", (self._space, writer)
        ).fetchone()
        return Anchor() if row is None else Anchor(*row)

    async def writers(self) -> list[str]:
        """See `Audit.writers`."""
        return await self._engine.run(self._writers, "read")

    def _writers(self, db: Session) -> list[str]:
        return sorted(writer for (writer,) in db.execute(_WRITERS, (self._space,) * 3))

    async def unended(self, writer: str | None = None) -> list[AuditRecord]:
        """See `Audit.unended`."""
        return await self._engine.run(partial(self._unended, writer=writer), "read")

    def _unended(self, db: Session, writer: str | None) -> list[AuditRecord]:
        rows = db.execute(
            "SELECT records.* FROM unended JOIN records USING (space, writer, seq) "
            "WHERE unended.space = ? AND (? IS NULL OR unended.writer = ?) "
            "ORDER BY unended.writer, unended.seq",
            (self._space, writer, writer),
        )
        return [_record(row) for row in rows]

    async def beat(self, writer: str, lease: float) -> None:
        """See `Audit.beat`."""
        check_times(lease=lease)
        await self._engine.run(partial(self._beat, writer=writer, lease=lease), "soft")

    def _beat(self, db: Session, writer: str, lease: float) -> None:
        db.execute(
            "INSERT INTO writers VALUES (?, ?, 0, '', ?) ON CONFLICT DO UPDATE SET alive = excluded.alive",
            (self._space, writer, db.now + lease),
        )

    async def lost(self) -> list[str]:
        """See `Audit.lost`."""
        return await self._engine.run(self._lost, "read")

    def _lost(self, db: Session) -> list[str]:
        found = db.execute(
            "SELECT DISTINCT unended.writer FROM unended LEFT JOIN writers USING (space, writer) "
            "WHERE unended.space = ? AND coalesce(writers.alive, 0.0) <= ?",
            (self._space, db.now),
        )
        return sorted(writer for (writer,) in found)

    async def query(
        self, query: AuditQuery, *, limit: int = 1000, after: AuditRecord | None = None
    ) -> list[AuditRecord]:
        """See `Audit.query`."""
        check_query(query)
        return await self._engine.run(partial(self._query, query=query, limit=limit, after=after), "read")

    def _query(
        self, db: Session, query: AuditQuery, limit: int, after: AuditRecord | None
    ) -> list[AuditRecord]:
        where, values = ["space = ?", "at >= ?", "at < ?"], [self._space, query.since, query.until]
        for name in _FILTERS:
            if (value := getattr(query, name)) is not None:
                where.append(name + " = ?")
                values.append(value)
        if after is not None:
            where.append("(at, writer, seq) > (?, ?, ?)")
            values += [after.at, after.writer, after.seq]
        # Only what stands in this file goes into the text; what was asked for are parameters.
        text = " ".join(
            ("SELECT * FROM records WHERE", " AND ".join(where), "ORDER BY at, writer, seq LIMIT ?")
        )
        return [_record(row) for row in db.execute(text, (*values, at_most(limit)))]

    async def prune(self, before: float) -> int:
        """See `Audit.prune`. In steps, between which others are served; each moves the anchor with it."""
        check_times(before=before)
        gone = 0
        for writer in await self.writers():
            while step := await self._engine.run(partial(self._prune, writer=writer, before=before)):
                gone += step
        return gone

    def _prune(self, db: Session, writer: str, before: float) -> int:
        rows = db.execute(
            "SELECT records.seq, records.hash, records.at, unended.call IS NOT NULL "
            "FROM records LEFT JOIN unended USING (space, writer, seq) "
            "WHERE records.space = ? AND records.writer = ? ORDER BY records.seq LIMIT ?",
            (self._space, writer, _PRUNE),
        ).fetchall()
        count = 0
        for _, _, at, waits in rows:
            if at >= before or waits:
                break
            count += 1
        if count:
            seq, hash_ = rows[count - 1][:2]
            db.execute(
                "DELETE FROM records WHERE space = ? AND writer = ? AND seq <= ?", (self._space, writer, seq)
            )
            db.execute(
                "INSERT INTO writers VALUES (?, ?, ?, ?, 0.0) "
                "ON CONFLICT DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
                (self._space, writer, seq, hash_),
            )
        return count


def _row(space: str, record: AuditRecord) -> tuple[Any, ...]:
    return (
        space,
        record.writer,
        record.seq,
        record.kind,
        record.at + 0.0,  # as the column gives it back: a float, and no negative zero
        record.call,
        record.tenant,
        record.user,
        record.outcome,
        body_json(record),
        record.previous,
        record.hash,
    )


def _record(row: Sequence[Any]) -> AuditRecord:
    _, writer, seq, kind, at, call, tenant, user, outcome, body, previous, hash_ = row
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    return AuditRecord(
        writer=writer,
        seq=seq,
        kind=kind,
        at=at,
        call=call,
        tenant=tenant,
        user=user,
        outcome=outcome,
        # Given all the same, so that the chain's check can name the record: its hash no longer fits.
        body=told if isinstance(told, dict) else {"unreadable": body},
        previous=previous,
        hash=hash_,
    )
