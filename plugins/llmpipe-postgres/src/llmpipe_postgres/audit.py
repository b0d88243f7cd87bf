"""The audit trail in PostgreSQL: batches of records in one round trip, on disk when they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.checks import at_most, body_json, check_query, check_records, check_times
from llmpipe_postgres.link import Link
from llmpipe_postgres.text import escape, fields, unescape

__all__ = ("PostgresAudit",)

_AT_ONCE = 1000  # records that one step of pruning drops
_COLUMNS = 'a.writer, a.seq, a.kind, a.at, a.call, a.tenant, a."user", a.outcome, a.body, a.previous, a.hash'


class PostgresAudit:
    """Records by (trail, writer, seq); the database refuses a second one with another hash."""

    def __init__(self, link: Link, ahead: Callable[[], float], name: str) -> None:
        self._link, self._ahead, self._name = link, ahead, escape(name)
        self._in = link.settings.schema + "."

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See `Audit.append`."""
        check_records(records)
        if not records:
            return
        await self._link.fetch(
            f"SELECT {self._in}append_records($1,$2,$3,$4,$5,$6,$7,$8,$9,$10::text[]::json[],$11,$12)",
            self._name,
            [escape(record.writer) for record in records],
            [record.seq for record in records],
            [escape(record.kind) for record in records],
            [record.at for record in records],
            [escape(record.call) for record in records],
            [escape(record.tenant) for record in records],
            [escape(record.user) for record in records],
            [escape(record.outcome) for record in records],
            [body_json(record) for record in records],
            [escape(record.previous) for record in records],
            [escape(record.hash) for record in records],
        )

    async def head(self, writer: str) -> AuditRecord | Anchor:
        """See `Audit.head`."""
        found = await self._records("a.writer = $2 ORDER BY a.seq DESC LIMIT 1", escape(writer))
        return found[0] if found else await self.anchor(writer)

    async def anchor(self, writer: str) -> Anchor:
        """See `Audit.anchor`."""
        rows = await self._link.fetch(
            f"SELECT anchor_seq, anchor_hash FROM {self._in}audit_writers WHERE trail = $1 AND writer = $2",  # noqa: S608  a checked name
            self._name,
            escape(writer),
        )
        return Anchor(rows[0][0], unescape(rows[0][1])) if rows else Anchor()

    async def writers(self) -> list[str]:
        """See `Audit.writers`."""
        rows = await self._link.fetch(
            # From writer to writer through the index: there are few, and of records there are many.
            f"WITH RECURSIVE one AS (SELECT min(writer) AS writer FROM {self._in}audit WHERE trail = $1 "  # noqa: S608  a checked name
            f"UNION ALL SELECT (SELECT min(a.writer) FROM {self._in}audit a "
            "WHERE a.trail = $1 AND a.writer > one.writer) FROM one WHERE one.writer IS NOT NULL) "
            "SELECT writer FROM one WHERE writer IS NOT NULL "
            f"UNION SELECT writer FROM {self._in}audit_writers WHERE trail = $1 AND anchor_seq > 0",
            self._name,
        )
        return sorted(unescape(row[0]) for row in rows)

    async def unended(self, writer: str | None = None) -> list[AuditRecord]:
        """See `Audit.unended`."""
        begins = f"EXISTS (SELECT FROM {self._in}unended u WHERE u.trail = $1"
        where = begins + " AND u.writer = a.writer AND u.seq = a.seq) ORDER BY a.writer, a.seq"
        if writer is None:
            return await self._records(where)
        return await self._records("a.writer = $2 AND " + where, escape(writer))

    async def beat(self, writer: str, lease: float) -> None:
        """See `Audit.beat`."""
        check_times(lease=lease)
        await self._link.fetch(
            f"INSERT INTO {self._in}audit_writers (trail, writer, alive_until) VALUES ($1, $2, "  # noqa: S608  a checked name
            "extract(epoch FROM clock_timestamp())::float8 + $3::float8) "
            "ON CONFLICT (trail, writer) DO UPDATE SET alive_until = excluded.alive_until",
            self._name,
            escape(writer),
            self._ahead() + lease,
        )

    async def lost(self) -> list[str]:
        """See `Audit.lost`."""
        rows = await self._link.fetch(
            f"SELECT DISTINCT u.writer FROM {self._in}unended u "  # noqa: S608  a checked name
            f"LEFT JOIN {self._in}audit_writers w ON w.trail = u.trail AND w.writer = u.writer "
            "WHERE u.trail = $1 AND coalesce(w.alive_until, 0) <= "
            "extract(epoch FROM clock_timestamp())::float8 + $2::float8",
            self._name,
            self._ahead(),
        )
        return sorted(unescape(row[0]) for row in rows)

    async def query(
        self, query: AuditQuery, *, limit: int = 1000, after: AuditRecord | None = None
    ) -> list[AuditRecord]:
        """See `Audit.query`."""
        check_query(query)
        args: list[Any] = [query.since, query.until, at_most(limit)]
        wanted = ["a.at >= $2 AND a.at < $3"]
        for name in ("tenant", "user", "outcome", "kind", "call", "writer"):
            value = getattr(query, name)
            if value is not None:
                args.append(escape(value))
                wanted.append(f'a."{name}" = ${len(args) + 1}')
        if after is not None:
            args += [after.at, escape(after.writer), after.seq]
            last = len(args) + 1
            wanted.append(f"(a.at, a.writer, a.seq) > (${last - 2}, ${last - 1}, ${last})")
        return await self._records(f"{' AND '.join(wanted)} ORDER BY a.at, a.writer, a.seq LIMIT $4", *args)

    async def _records(self, where: str, *args: Any) -> list[AuditRecord]:
        rows = await self._link.fetch(
            f"SELECT {_COLUMNS} FROM {self._in}audit a WHERE a.trail = $1 AND {where}",  # noqa: S608  names of ours
            self._name,
            *args,
        )
        return [_record(row) for row in rows]

    async def prune(self, before: float) -> int:
        """See `Audit.prune`. In steps, each of which is whole: what went and the anchor go together."""
        check_times(before=before)
        gone = 0
        for writer in await self.writers():
            while True:
                count: int = await self._link.value(
                    f"SELECT {self._in}prune_writer($1,$2,$3,$4)",
                    self._name,
                    escape(writer),
                    before,
                    _AT_ONCE,
                )
                gone += count
                if count < _AT_ONCE:
                    break
        return gone


def _record(row: Mapping[str, Any]) -> AuditRecord:
    found = fields(row)
    found["body"] = orjson.loads(row["body"])  # as it was written: `escape` has not seen it
    return AuditRecord(**found)
