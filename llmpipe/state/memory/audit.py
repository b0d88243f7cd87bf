"""The audit trail in this process: for tests, and for those who only want to look at it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from math import isfinite

from attrs import define, field
from orjson import dumps

from llmpipe.state.checks import body_json, check_query, check_records, check_times
from llmpipe.state.contracts.audit import Anchor, AuditQuery, AuditRecord
from llmpipe.state.memory.clock import Clock, loop_time

__all__ = ("MemoryAudit", "matches")


@define
class _Chain:
    """One writer's records by their numbers, and where they begin.

    Of the first `looked_at` it is known which calls they begin and end.
    """

    anchor: Anchor = field(factory=Anchor)
    records: list[AuditRecord] = field(factory=list)
    looked_at: int = 0

    def find(self, seq: int) -> AuditRecord | None:
        if not self.records or self.records[-1].seq < seq:
            return None
        place = bisect_left(self.records, seq, key=_number)
        found = self.records[place] if place < len(self.records) else None
        return found if found is not None and found.seq == seq else None

    def goes_on(self, records: Sequence[AuditRecord]) -> bool:
        """Whether `records` are what a writer hands in: the next of its chain, and as they should be."""
        last = self.records[-1]
        writer, seq = last.writer, last.seq
        try:
            for record in records:
                seq += 1
                if record.seq != seq or type(record.seq) is not int or record.writer != writer:
                    return False
                if not isfinite(record.at):
                    return False
                dumps(dict(record.body))
        except TypeError:  # no JSON
            return False
        return seq < 2**63


class MemoryAudit:
    """Records by writer. Nothing here survives the process, and nothing is dropped before `prune`.

    The methods of the contract check what they are given. `extend` is for a writer in this process, on the
    path of every call, who has just chained what it hands in.
    """

    def __init__(self, clock: Clock = loop_time) -> None:
        self._clock = clock
        self._chains: dict[str, _Chain] = {}
        # What follows is brought up to date by `_look`, when it is asked for: most trails are never asked.
        self._ended: Counter[str] = Counter()  # ends that are there, by call
        self._unended: dict[tuple[str, int], AuditRecord] = {}  # begins, by writer and number
        self._begun: dict[str, list[tuple[str, int]]] = {}  # by call, the begins that are unended
        self._alive: dict[str, float] = {}  # until when

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See `Audit.append`."""
        if records:
            chain = self._chains.get(records[0].writer)
            if chain is not None and chain.records and chain.goes_on(records):
                chain.records.extend(records)
            else:
                self._insert(records)

    def extend(self, records: Sequence[AuditRecord]) -> bool:
        """`append` of records that are chained to one another, and to the last that is here of their writer.

        False if they are not: then nothing is done.
        """
        first = records[0]
        chain = self._chains.get(first.writer)
        if chain is None or not chain.records or chain.records[-1].hash != first.previous:
            return False
        chain.records.extend(records)
        return True

    def _insert(self, records: Sequence[AuditRecord]) -> None:
        """Keep those of any records that are not there yet."""
        check_records(records)
        for record in records:
            body_json(record)  # refuses what is no JSON, as the others do
        new: dict[tuple[str, int], AuditRecord] = {}
        for record in records:
            place = (record.writer, record.seq)
            chain = self._chains.get(record.writer) or _Chain()
            found = new.get(place) or chain.find(record.seq)
            if found is not None and found.hash != record.hash:
                raise ValueError(
                    f"record {record.seq} of writer {record.writer!r} is there, and is another one"
                )
            if found is None and record.seq > chain.anchor.seq:  # else it was pruned
                new[place] = record
        self._look()  # before one comes in between
        for record in new.values():
            chain = self._chains.setdefault(record.writer, _Chain())
            insort(chain.records, record, key=_number)
            chain.looked_at += 1
            self._note(record)

    def _look(self) -> None:
        """See what has begun and ended in the records that came since."""
        for chain in self._chains.values():
            for record in islice(chain.records, chain.looked_at, None):
                self._note(record)
            chain.looked_at = len(chain.records)

    def _note(self, record: AuditRecord) -> None:
        if record.kind == "begin" and not self._ended[record.call]:
            place = (record.writer, record.seq)
            self._unended[place] = record
            self._begun.setdefault(record.call, []).append(place)
        elif record.kind == "end":
            self._ended[record.call] += 1
            for place in self._begun.pop(record.call, ()):
                del self._unended[place]

    async def head(self, writer: str) -> AuditRecord | Anchor:
        """See `Audit.head`."""
        chain = self._chains.get(writer) or _Chain()
        return chain.records[-1] if chain.records else chain.anchor

    async def anchor(self, writer: str) -> Anchor:
        """See `Audit.anchor`."""
        return (self._chains.get(writer) or _Chain()).anchor

    async def writers(self) -> list[str]:
        """See `Audit.writers`."""
        return sorted(self._chains)

    async def unended(self, writer: str | None = None) -> list[AuditRecord]:
        """See `Audit.unended`."""
        self._look()
        return [record for place, record in sorted(self._unended.items()) if writer in (None, place[0])]

    async def beat(self, writer: str, lease: float) -> None:
        """See `Audit.beat`."""
        check_times(lease=lease)
        self._alive[writer] = self._clock() + lease

    async def lost(self) -> list[str]:
        """See `Audit.lost`."""
        self._look()
        now = self._clock()
        writers = {writer for writer, _ in self._unended}
        return sorted(writer for writer in writers if self._alive.get(writer, now) <= now)

    async def query(
        self, query: AuditQuery, *, limit: int = 1000, after: AuditRecord | None = None
    ) -> list[AuditRecord]:
        """See `Audit.query`."""
        check_query(query)
        found = [
            record for chain in self._chains.values() for record in chain.records if matches(record, query)
        ]
        found.sort(key=_order)
        if after is not None:
            found = [record for record in found if _order(record) > _order(after)]
        return found[: max(0, limit)]

    async def prune(self, before: float) -> int:
        """See `Audit.prune`."""
        check_times(before=before)
        self._look()
        gone = 0
        for writer, chain in self._chains.items():
            count = 0
            for record in chain.records:
                if record.at >= before or (writer, record.seq) in self._unended:
                    break
                count += 1
                self._forget(record)
            if count:
                last = chain.records[count - 1]
                chain.anchor = Anchor(last.seq, last.hash)
                del chain.records[:count]
                chain.looked_at -= count
                gone += count
        return gone

    def _forget(self, record: AuditRecord) -> None:
        if record.kind == "end":
            self._ended[record.call] -= 1
            if not self._ended[record.call]:
                del self._ended[record.call]


def _number(record: AuditRecord) -> int:
    return record.seq


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
