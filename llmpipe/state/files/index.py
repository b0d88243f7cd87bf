"""What is known of a trail without reading its file: some sixty bytes for each record, and what is open."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b

from attrs import define, field

from llmpipe.state.contracts.audit import Anchor, AuditRecord

__all__ = ("Index", "mark")

_MARK = 16


def mark(hash_: str) -> bytes:
    """What is kept in memory of a hash: enough to know whether another is the same."""
    return blake2b(hash_.encode("utf-8", "surrogatepass"), digest_size=_MARK).digest()


@define
class _Chain:
    """One writer's numbers, in order, and a mark of each record's hash."""

    anchor: Anchor = field(factory=Anchor)
    numbers: array[int] = field(factory=lambda: array("q"))
    marks: bytearray = field(factory=bytearray)
    last: AuditRecord | None = None

    def find(self, seq: int) -> bytes | None:
        place = bisect_left(self.numbers, seq)
        if place == len(self.numbers) or self.numbers[place] != seq:
            return None
        return bytes(self.marks[place * _MARK : (place + 1) * _MARK])

    def add(self, record: AuditRecord) -> None:
        place = bisect_left(self.numbers, record.seq)
        self.numbers.insert(place, record.seq)
        self.marks[place * _MARK : place * _MARK] = mark(record.hash)
        if place == len(self.numbers) - 1:
            self.last = record

    def cut(self, anchor: Anchor) -> None:
        """Begin behind `anchor`."""
        count = bisect_right(self.numbers, anchor.seq)
        del self.numbers[:count]
        del self.marks[: count * _MARK]
        self.anchor = anchor
        if not self.numbers:
            self.last = None


class Index:
    """One trail."""

    def __init__(self) -> None:
        self.chains: dict[str, _Chain] = {}
        self.unended: dict[tuple[str, int], AuditRecord] = {}  # begins
        self.ended: Counter[str] = Counter()  # ends that are there, by call
        self.over: set[str] = set()  # calls whose ends were pruned, and whose begins are there
        self._begun: dict[str, list[tuple[str, int]]] = {}  # by call, the begins that are unended

    def chain(self, writer: str) -> _Chain:
        """The writer's; an empty one for a new writer, which is not kept."""
        return self.chains.get(writer) or _Chain()

    def add(self, record: AuditRecord) -> None:
        """A record that is there; one that was pruned is passed over."""
        chain = self.chains.get(record.writer)
        if chain is None:
            chain = self.chains[record.writer] = _Chain()
        if record.seq <= chain.anchor.seq:
            return
        chain.add(record)
        if record.kind == "begin":
            if not self.ended[record.call] and record.call not in self.over:
                place = (record.writer, record.seq)
                self.unended[place] = record
                self._begun.setdefault(record.call, []).append(place)
        elif record.kind == "end":
            self.ended[record.call] += 1
            for place in self._begun.pop(record.call, ()):
                del self.unended[place]

    def begin_at(self, writer: str, anchor: Anchor) -> None:
        """The writer's chain begins behind `anchor`: said before its records are entered."""
        self.chains.setdefault(writer, _Chain()).anchor = anchor

    def cut(self, last: Mapping[str, Anchor], ends: Counter[str], over: set[str]) -> None:
        """Forget the records of each chain up to its `last`, and with them so many `ends` of each call."""
        for writer, anchor in last.items():
            self.chain(writer).cut(anchor)
        for call, count in ends.items():
            self.ended[call] -= count
            if self.ended[call] <= 0:
                del self.ended[call]
        self.over = over

    def head(self, writer: str) -> AuditRecord | Anchor:
        """The writer's last record, or its anchor."""
        chain = self.chain(writer)
        return chain.last or chain.anchor
