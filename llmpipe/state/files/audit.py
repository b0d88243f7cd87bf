"""The audit trail in a file of lines."""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from llmpipe.state.checks import at_most, check_query, check_records, check_times
from llmpipe.state.contracts.audit import Anchor, AuditQuery, AuditRecord
from llmpipe.state.files.index import Index
from llmpipe.state.files.journal import Journal
from llmpipe.state.files.pruning import prune
from llmpipe.state.files.reading import records_of
from llmpipe.state.memory.audit import matches

if TYPE_CHECKING:
    from llmpipe.state.files import FileState

__all__ = ("FileAudit",)


class FileAudit:
    """See `Audit`. Signs of life are kept in memory: who holds the file's lock has outlived all others."""

    def __init__(self, state: FileState, name: str) -> None:
        self._state, self._name = state, name
        self._engine, self._timeout = state.engine, state.timeout

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See `Audit.append`."""
        check_records(records)
        self._engine.use(self._state)
        if records:
            await self._engine.append(self._name, [*records], self._timeout)

    async def _index(self) -> Index:
        self._engine.use(self._state)
        journal = await self._engine.journal(self._timeout)
        return journal.trails.get(self._name) or Index()

    async def head(self, writer: str) -> AuditRecord | Anchor:
        """See `Audit.head`."""
        return (await self._index()).head(writer)

    async def anchor(self, writer: str) -> Anchor:
        """See `Audit.anchor`."""
        return (await self._index()).chain(writer).anchor

    async def writers(self) -> list[str]:
        """See `Audit.writers`."""
        return sorted([*(await self._index()).chains])

    async def unended(self, writer: str | None = None) -> list[AuditRecord]:
        """See `Audit.unended`."""
        found = sorted((await self._index()).unended.copy().items())
        return [record for place, record in found if writer in (None, place[0])]

    async def beat(self, writer: str, lease: float) -> None:
        """See `Audit.beat`."""
        check_times(lease=lease)
        self._engine.use(self._state)
        self._engine.alive[self._name, writer] = self._now() + lease

    async def lost(self) -> list[str]:
        """See `Audit.lost`."""
        index, now, alive = await self._index(), self._now(), self._engine.alive
        writers = {writer for writer, _ in index.unended.copy()}
        return sorted(writer for writer in writers if alive.get((self._name, writer), now) <= now)

    def _now(self) -> float:
        return time.monotonic() + self._state.ahead

    async def query(
        self, query: AuditQuery, *, limit: int = 1000, after: AuditRecord | None = None
    ) -> list[AuditRecord]:
        """See `Audit.query`. Reads all files."""
        check_query(query)
        self._engine.use(self._state)
        beyond = None if after is None else _order(after)

        def read(journal: Journal) -> list[AuditRecord]:
            found = (
                record
                for record in records_of(journal, self._name)
                if matches(record, query) and (beyond is None or _order(record) > beyond)
            )
            return heapq.nsmallest(at_most(limit), found, key=_order)

        return await self._engine.read(read, self._state.patience)

    async def prune(self, before: float) -> int:
        """See `Audit.prune`.

        Of a trail in one file, what is left is written into a new one, which then takes its place. Of one in
        several, those are deleted that nothing is left of.
        """
        check_times(before=before)
        self._engine.use(self._state)
        return await self._engine.prune(partial(prune, trail=self._name, before=before), self._state.patience)


def _order(record: AuditRecord) -> tuple[float, str, int]:
    return (record.at, record.writer, record.seq)
