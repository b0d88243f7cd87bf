"""The audit trail in a file of lines."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from llmpipe.state.checks import at_most, body_json, check_query, check_records, check_times
from llmpipe.state.contracts.audit import Anchor, AuditQuery, AuditRecord
from llmpipe.state.files.index import Index
from llmpipe.state.files.journal import Journal, lines_in, take
from llmpipe.state.files.lines import Unreadable, line_of, read_line, read_record
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
        for record in records:
            body_json(record)  # refuses what is no JSON, as the others do
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
        """See `Audit.query`. Reads all of the file."""
        check_query(query)
        self._engine.use(self._state)
        beyond = None if after is None else _order(after)

        def read(journal: Journal) -> list[AuditRecord]:
            found = (
                record
                for record in _records(journal, self._name)
                if matches(record, query) and (beyond is None or _order(record) > beyond)
            )
            return heapq.nsmallest(at_most(limit), found, key=_order)

        return await self._engine.read(read, self._state.patience)

    async def prune(self, before: float) -> int:
        """See `Audit.prune`. Writes what is left into a new file, which then takes the place of this one."""
        check_times(before=before)
        self._engine.use(self._state)
        return await self._engine.write(
            partial(_prune, trail=self._name, before=before), self._state.patience
        )


def _order(record: AuditRecord) -> tuple[float, str, int]:
    return (record.at, record.writer, record.seq)


def _said(journal: Journal) -> Iterator[tuple[bytes, dict[str, object]]]:
    """The lines of the file behind the first, and what they say. Raises: StoreDamaged."""
    descriptor, size = journal.snapshot()
    try:
        for number, (line, _) in enumerate(lines_in(descriptor, size), 1):
            try:
                said = read_line(line)
            except Unreadable as error:
                raise journal.damaged(number, str(error)) from None
            if number > 1:
                yield line, said
    finally:
        os.close(descriptor)


def _records(journal: Journal, trail: str) -> Iterator[AuditRecord]:
    for _, said in _said(journal):
        if said["trail"] == trail and "record" in said:
            yield read_record(said)


def _prune(journal: Journal, trail: str, before: float) -> int:
    index = journal.trails.get(trail) or Index()
    last = _last_to_go(journal, trail, before, index)
    if not last:
        return 0
    gone = 0

    def write(put: Callable[[bytes], None]) -> dict[str, Index]:
        nonlocal gone
        trails: dict[str, Index] = {}

        def keep(line: bytes) -> None:
            put(line + b"\n")
            take(trails, line, 2)

        for name, each in journal.trails.items():
            for writer, chain in each.chains.items():
                anchor = last.get(writer, chain.anchor) if name == trail else chain.anchor
                if anchor.seq:
                    keep(line_of({"trail": name, "anchor": [writer, anchor.seq, anchor.hash]})[:-1])
            over = _over(journal, name, index, last) if name == trail else each.over
            if over:
                keep(line_of({"trail": name, "ended": sorted(over)})[:-1])
        for line, said in _said(journal):
            if "record" not in said:
                continue
            record = read_record(said)
            if said["trail"] == trail and _goes(record, last):
                gone += 1
            else:
                keep(line)
        return trails

    journal.replace(write)
    return gone


def _goes(record: AuditRecord, last: dict[str, Anchor]) -> bool:
    return record.writer in last and record.seq <= last[record.writer].seq


def _last_to_go(journal: Journal, trail: str, before: float, index: Index) -> dict[str, Anchor]:
    """By writer, the last of its oldest records that are all to go."""
    chains: dict[str, list[tuple[int, float, str]]] = {}
    for record in _records(journal, trail):
        chains.setdefault(record.writer, []).append((record.seq, record.at, record.hash))
    last: dict[str, Anchor] = {}
    for writer, chain in chains.items():
        for seq, at, hash_ in sorted(chain):
            if at >= before or (writer, seq) in index.unended:
                break
            last[writer] = Anchor(seq, hash_)
    return last


def _over(journal: Journal, trail: str, index: Index, last: dict[str, Anchor]) -> set[str]:
    """Calls whose begin stays and whose ends go, or have gone before."""
    begun: set[str] = set()
    ended: set[str] = set()
    for record in _records(journal, trail):
        if not _goes(record, last) and record.kind in ("begin", "end"):
            (begun if record.kind == "begin" else ended).add(record.call)
    return begun - ended - {record.call for record in index.unended.values()}
