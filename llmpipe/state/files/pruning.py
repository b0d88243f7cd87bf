"""Dropping what is old.

All of the trail is gone through for that beside the thread that appends, for a long one takes a minute. What
was appended meanwhile is looked at in that thread, and there the files are changed: nobody waits for more.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

from attrs import define, field

from llmpipe.state.contracts.audit import Anchor, AuditRecord
from llmpipe.state.files.contents import where_chains_begin
from llmpipe.state.files.engine import Change
from llmpipe.state.files.index import Index
from llmpipe.state.files.journal import PRUNED, Beside, Journal, View, closed
from llmpipe.state.files.lines import HEAD, line_of
from llmpipe.state.files.reading import Line, lines_since

__all__ = ("prune",)

_AT_ONCE = 1 << 16  # bytes that are written in one step


def prune(journal: Journal, change: Change, trail: str, before: float) -> int:
    """Drop the oldest records of each chain of `trail`; how many went. See `Audit.prune`.

    Args: change does something in the thread that appends.
    """
    while True:
        view = journal.view()
        try:
            last = _last_to_go(journal, view, trail, before)
            if not last:
                return 0
            # What is left of several files stays where it is.
            with nullcontext() if view.parts else journal.beside(PRUNED) as fresh:
                pruning = _Pruning(journal, view, trail, last, fresh)
                pruning.take(lines_since(journal, view))
                if change(pruning.finish):
                    return pruning.gone
        finally:
            os.close(view.descriptor)


def _while_open(journal: Journal, lines: Iterable[Line]) -> Iterator[Line]:
    """`lines`; the lock on the file is not given back before they are left."""
    for each in lines:
        if journal.descriptor < 0:
            raise closed(journal.path)
        yield each


def _last_to_go(journal: Journal, view: View, trail: str, before: float) -> dict[str, Anchor]:
    """By writer, the last of its oldest records that are all to go."""
    index = journal.trails.get(trail) or Index()
    chains: dict[str, list[tuple[int, float, str]]] = {}
    for each in _while_open(journal, lines_since(journal, view)):
        if each.trail == trail:
            record = each.record
            chains.setdefault(record.writer, []).append((record.seq, record.at, record.hash))
    last: dict[str, Anchor] = {}
    for writer, chain in chains.items():
        for seq, at, hash_ in sorted(chain):
            if at >= before or (writer, seq) in index.unended:
                break
            last[writer] = Anchor(seq, hash_)
    return last


@define
class _Pruning:
    """What goes of a trail, the last of each writer in `last`, and what is left.

    Attributes:
        fresh: where what is left is written, if that is not to stay where it is.
        gone: how many records go, among them so many `ends` of each call.
        kept: parts of which something is left.
        begun, ended: calls whose begins and ends are left.
    """

    journal: Journal
    view: View
    trail: str
    last: dict[str, Anchor]
    fresh: Beside | None
    gone: int = 0
    ends: Counter[str] = field(factory=Counter)
    kept: set[Path | None] = field(factory=set)
    begun: set[str] = field(factory=set)
    ended: set[str] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        if self.fresh is not None:
            self.fresh.write(HEAD)

    def take(self, lines: Iterable[Line]) -> None:
        """Look at `lines`, and copy those that are left."""
        copied: list[bytes] = []
        size = 0
        for each in _while_open(self.journal, lines):
            if each.trail == self.trail and self._goes(each.record):
                continue
            self.kept.add(each.part)
            copied += (each.line, b"\n")
            size += len(each.line)
            if size > _AT_ONCE:
                self._copy(copied)
                copied, size = [], 0
        self._copy(copied)

    def _goes(self, record: AuditRecord) -> bool:
        """Whether it goes. It is of the trail."""
        kind, call = record.kind, record.call
        goes = record.writer in self.last and record.seq <= self.last[record.writer].seq
        if goes:
            self.gone += 1
            if kind == "end":
                self.ends[call] += 1
        elif kind == "begin":
            self.begun.add(call)
        elif kind == "end":
            self.ended.add(call)
        return goes

    def _copy(self, lines: list[bytes]) -> None:
        if self.fresh is not None and lines:
            self.fresh.write(b"".join(lines))
            self.fresh.filled = True

    def finish(self) -> bool:
        """In the thread that appends: take what came since, and drop what goes. False to begin anew."""
        journal, gone = self.journal, self.gone
        view = journal.view()
        try:
            if self.fresh is not None and view.parts:
                return False  # what was one file is several now
            self.take(lines_since(journal, view, self.view))
        finally:
            os.close(view.descriptor)
        if self.gone != gone:
            return False  # somebody has filled a gap in what was to go
        index = journal.trails[self.trail]
        over = self.begun - self.ended - {record.call for record in index.unended.values()}
        begins = b"".join([line_of(said) for said in where_chains_begin(self._anchors(over), journal.trails)])
        if self.fresh is not None:
            self.fresh.write(begins)
            journal.replace(self.fresh)
            index.cut(self.last, self.ends, over)
        else:
            journal.say(begins)
            index.cut(self.last, self.ends, over)
            journal.drop([part for part in self.view.parts if part not in self.kept])
        return True

    def _anchors(self, over: set[str]) -> dict[str, Index]:
        """Where all chains begin when that is gone, and no records."""
        trails: dict[str, Index] = {}
        for name, each in self.journal.trails.items():
            fresh = trails[name] = Index()
            fresh.over = over if name == self.trail else each.over
            for writer, chain in each.chains.items():
                anchor = self.last.get(writer, chain.anchor) if name == self.trail else chain.anchor
                if anchor.seq:
                    fresh.begin_at(writer, anchor)
        return trails
