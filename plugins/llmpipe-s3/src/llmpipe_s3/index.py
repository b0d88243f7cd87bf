"""What is known of a trail without asking: where its objects are, the heads, and which calls are open.

Some thirty bytes for each object, and no record but the last of each writer and the begins of open calls.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from attrs import define, field

from llmpipe.state import Anchor, AuditRecord
from llmpipe_s3.batches import Beginning

__all__ = ("Chain", "Index")

Place = tuple[str, int]


@define
class Chain:
    """One writer's objects, by the numbers of their first records, with the times that each spans."""

    writer: str
    beginning: Beginning
    head: AuditRecord | None = None
    firsts: array[int] = field(factory=lambda: array("q"))
    earliest: array[float] = field(factory=lambda: array("d"))
    latest: array[float] = field(factory=lambda: array("d"))
    whole: int = 0
    """Objects that begin before this number hold nothing but what was pruned."""

    @property
    def anchor(self) -> Anchor:
        """Where it begins."""
        return self.beginning.anchor

    @property
    def last(self) -> AuditRecord | Anchor:
        """The last record, or the anchor."""
        return self.head or self.anchor

    def knows(self, first: int) -> bool:
        """Whether the object that begins there has been read, or need not be."""
        place = bisect_left(self.firsts, first)
        return first < self.whole or (place < len(self.firsts) and self.firsts[place] == first)

    def holder(self, seq: int) -> int | None:
        """Where the object begins that would hold that record."""
        place = bisect_right(self.firsts, seq)
        return self.firsts[place - 1] if place else None

    def cut(self) -> list[int]:
        """Forget the objects that hold only what was pruned; where they began."""
        count, firsts, seq = 0, self.firsts, self.anchor.seq
        while count < len(firsts) and (
            firsts[count + 1] <= seq + 1
            if count + 1 < len(firsts)
            else self.head is None or self.head.seq <= seq
        ):
            count += 1
        gone = [*firsts[:count]]
        for numbers in (firsts, self.earliest, self.latest):
            del numbers[:count]
        if count:
            self.whole = firsts[0] if firsts else seq + 1
        if self.head is not None and self.head.seq <= seq:
            self.head = None
        return gone


class Index:
    """One trail, as far as it has been read. Chains are known by the folder of their writer."""

    def __init__(self) -> None:
        self.chains: dict[str, Chain] = {}
        self.unended: dict[Place, AuditRecord] = {}  # begins
        self.early: dict[str, set[Place]] = {}  # ends of calls that have not begun yet
        self._begun: dict[str, list[Place]] = {}  # by call, the begins that are unended
        self._over: set[str] = set()  # calls whose end was pruned, and whose begin may be there

    def enter(self, folder: str, first: int, records: Sequence[AuditRecord]) -> None:
        """An object that is there; its records by their numbers, some of which may be pruned."""
        chain = self.chains.get(folder)
        if chain is None:
            chain = self.chains[folder] = Chain(records[0].writer, Beginning(records[0].writer, Anchor()))
        if chain.knows(first):
            return
        place = bisect_left(chain.firsts, first)
        chain.firsts.insert(place, first)
        chain.earliest.insert(place, min(record.at for record in records))
        chain.latest.insert(place, max(record.at for record in records))
        for record in records:
            if record.seq > chain.anchor.seq:
                self._add(chain, record)

    def _add(self, chain: Chain, record: AuditRecord) -> None:
        if chain.head is None or chain.head.seq < record.seq:
            chain.head = record
        place, call = (record.writer, record.seq), record.call
        if record.kind == "begin":
            if call not in self._over and self.early.pop(call, None) is None:
                self.unended[place] = record
                self._begun.setdefault(call, []).append(place)
        elif record.kind == "end" and not self._end(call) and call not in self._over:
            self.early.setdefault(call, set()).add(place)

    def _end(self, call: str) -> bool:
        begun = self._begun.pop(call, ())
        for place in begun:
            self.unended.pop(place, None)
        return bool(begun)

    def begin_at(self, folder: str, beginning: Beginning) -> list[int]:
        """The chain begins there; where the objects began that hold nothing any more."""
        chain = self.chains.setdefault(folder, Chain(beginning.writer, beginning))
        if beginning.anchor.seq < chain.anchor.seq:
            return []
        chain.beginning = beginning
        for call in beginning.ended:
            _ = self._end(call)
        self._over |= beginning.ended
        seq, writer = beginning.anchor.seq, chain.writer
        for place in [each for each in self.unended if each[0] == writer and each[1] <= seq]:
            del self.unended[place]  # it had ended, or it would not have been pruned
        for call, places in [*self.early.items()]:
            places -= {each for each in places if each[0] == writer and each[1] <= seq}
            if not places:
                del self.early[call]
        return chain.cut()
