"""Dropping what is old: the anchor is put first, and then whole objects go."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from llmpipe.state import Anchor, AuditRecord
from llmpipe_s3.batches import Beginning, anchor_data
from llmpipe_s3.index import Chain, Index
from llmpipe_s3.trail import Trail

__all__ = ("prune",)


@define
class _Going:
    """What goes of one chain."""

    anchor: Anchor
    open: set[str]
    ended: set[str]
    count: int = 0
    begun: set[str] = field(factory=set)

    def take(self, record: AuditRecord, index: Index) -> None:
        """The next record that goes."""
        self.anchor, self.count = Anchor(record.seq, record.hash), self.count + 1
        call = record.call
        if record.kind == "begin":
            self.open.add(call)
        elif record.kind == "end" and call in self.open:
            self.open.remove(call)
        elif record.kind == "end" and (record.writer, record.seq) not in index.early.get(call, ()):
            self.ended.add(call)  # its begin stands in another chain, and may stay


async def prune(trail: Trail, before: float) -> int:
    """Drop the oldest records of each chain; how many went. See `Audit.prune`.

    The object that a new anchor lies in stays until the rest of its records may go too: they are passed over.
    """
    gone = 0
    for name, chain in [*trail.index.chains.items()]:
        going = await _going(trail, name, chain, before)
        if going.count:
            beginning = Beginning(chain.writer, going.anchor, frozenset(going.open), frozenset(going.ended))
            was = chain.anchor.seq
            key = trail.keys.anchor(name, going.anchor.seq)
            # If it is there, another prunes at the same time, and says the same.
            _ = await trail.store.put_new(key, anchor_data(trail.name, beginning))
            gone += going.count
            objects = trail.index.begin_at(name, beginning)
            if was:
                await trail.store.delete(trail.keys.anchor(name, was))
        else:
            objects = chain.cut()  # what a crash has left
        await _delete(trail, [trail.keys.batch(name, first) for first in objects])
    return gone


async def _going(trail: Trail, name: str, chain: Chain, before: float) -> _Going:
    going = _Going(chain.anchor, {*chain.beginning.open}, {*chain.beginning.ended})
    async for _, records in trail.read([(name, first) for first in chain.firsts]):
        for record in records:
            if record.seq <= chain.anchor.seq:
                continue
            if record.at >= before or (record.writer, record.seq) in trail.index.unended:
                return going
            going.take(record, trail.index)
    return going


async def _delete(trail: Trail, keys: Sequence[str]) -> None:
    for key in keys:
        await trail.store.delete(key)
