"""The audit trail in this process: for tests, and for those who only want to look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llmpipe.state.contracts.audit import Anchor, AuditQuery, AuditRecord

__all__ = ("MemoryAudit", "matches")


class MemoryAudit:
    """Records by writer. Nothing here survives the process, and nothing is dropped before `prune`."""

    def __init__(self) -> None:
        self._chains: dict[str, list[AuditRecord]] = {}
        self._anchors: dict[str, Anchor] = {}
        self._unended: dict[str, AuditRecord] = {}  # by call
        self._alive: dict[str, float] = {}  # until when

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See `Audit.append`."""
        new = [record for record in records if not self._known(record)]
        for record in new:
            self._chains.setdefault(record.writer, []).append(record)
            if record.kind == "begin":
                self._unended[record.call] = record
            elif record.kind == "end":
                self._unended.pop(record.call, None)

    def _known(self, record: AuditRecord) -> bool:
        anchor = self._anchors.get(record.writer, Anchor())
        chain = self._chains.get(record.writer, [])
        place = record.seq - anchor.seq - 1
        if place >= len(chain):
            return False
        if place >= 0 and chain[place].hash != record.hash:
            raise ValueError(f"record {record.seq} of writer {record.writer!r} is there, and is another one")
        return True

    async def head(self, writer: str) -> AuditRecord | Anchor:
        """See `Audit.head`."""
        chain = self._chains.get(writer)
        return chain[-1] if chain else self._anchors.get(writer, Anchor())

    async def anchor(self, writer: str) -> Anchor:
        """See `Audit.anchor`."""
        return self._anchors.get(writer, Anchor())

    async def writers(self) -> list[str]:
        """See `Audit.writers`."""
        return sorted({*self._chains, *self._anchors})

    async def unended(self, writer: str | None = None) -> list[AuditRecord]:
        """See `Audit.unended`."""
        found = [record for record in self._unended.values() if writer in (None, record.writer)]
        return sorted(found, key=lambda record: (record.writer, record.seq))

    async def beat(self, writer: str, lease: float) -> None:
        """See `Audit.beat`."""
        self._alive[writer] = asyncio.get_running_loop().time() + lease

    async def lost(self) -> list[str]:
        """See `Audit.lost`."""
        now = asyncio.get_running_loop().time()
        writers = {record.writer for record in self._unended.values()}
        return sorted(writer for writer in writers if self._alive.get(writer, 0.0) <= now)

    async def query(
        self, query: AuditQuery, *, limit: int = 1000, after: AuditRecord | None = None
    ) -> list[AuditRecord]:
        """See `Audit.query`."""
        found = [record for chain in self._chains.values() for record in chain if matches(record, query)]
        found.sort(key=_order)
        if after is not None:
            found = [record for record in found if _order(record) > _order(after)]
        return found[:limit]

    async def prune(self, before: float) -> int:
        """See `Audit.prune`."""
        gone = 0
        for writer, chain in self._chains.items():
            count = 0
            for record in chain:
                if record.at >= before or (record.kind == "begin" and record.call in self._unended):
                    break
                count += 1
            if count:
                self._anchors[writer] = Anchor(chain[count - 1].seq, chain[count - 1].hash)
                del chain[:count]
                gone += count
        return gone


def _order(record: AuditRecord) -> tuple[float, str, int]:
    return (record.at, record.writer, record.seq)


def matches(record: AuditRecord, query: AuditQuery) -> bool:
    """Whether `record` is one of those that `query` wants."""
    return (
        query.since <= record.at < query.until
        and query.tenant in (None, record.tenant)
        and query.user in (None, record.user)
        and query.outcome in (None, record.outcome)
        and query.kind in (None, record.kind)
        and query.call in (None, record.call)
        and query.writer in (None, record.writer)
    )
