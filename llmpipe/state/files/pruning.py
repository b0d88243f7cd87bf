"""Dropping what is old, and reading what is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import frozen

from llmpipe.errors import StoreDamaged
from llmpipe.state.contracts.audit import Anchor, AuditRecord
from llmpipe.state.files.contents import lines_in, where_chains_begin
from llmpipe.state.files.index import Index
from llmpipe.state.files.journal import Journal
from llmpipe.state.files.lines import Unreadable, line_of, read_line, read_record

__all__ = ("prune", "records_of")


@frozen
class _Line:
    """A record that is left: its line without the end, and the part that it lies in; None for the newest."""

    part: Path | None
    line: bytes
    trail: str
    record: AuditRecord


def records_of(journal: Journal, trail: str) -> Iterator[AuditRecord]:
    """What is left of the trail, in no order. Raises: StoreDamaged."""
    return (each.record for each in _lines(journal) if each.trail == trail)


def _lines(journal: Journal) -> Iterator[_Line]:
    """Every record in every file that was not pruned when this began. Raises: StoreDamaged."""
    view = journal.view()
    try:
        for part in view.parts:
            try:
                descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                if part in journal.parts:
                    raise StoreDamaged(f"{part} is gone, and its records were not pruned") from None
                continue  # pruned since
            try:
                yield from _lines_of(journal, part, descriptor, os.fstat(descriptor).st_size, view.trails)
            finally:
                os.close(descriptor)
        yield from _lines_of(journal, None, view.descriptor, view.size, view.trails)
    finally:
        os.close(view.descriptor)


def _lines_of(
    journal: Journal, part: Path | None, descriptor: int, size: int, trails: dict[str, Index]
) -> Iterator[_Line]:
    for number, (line, _) in enumerate(lines_in(descriptor, size), 1):
        try:
            said = read_line(line)
            if number == 1 or "record" not in said:
                continue
            record = read_record(said)
        except Unreadable as error:
            raise journal.damaged(number, str(error), part) from None
        trail = said["trail"]
        if record.seq > trails[trail].chain(record.writer).anchor.seq:
            yield _Line(part, line, trail, record)


def prune(journal: Journal, trail: str, before: float) -> int:
    """Drop the oldest records of each chain of `trail`; how many went. See `Audit.prune`."""
    last = _last_to_go(journal, trail, before)
    if not last:
        return 0
    trails = _anchors_after(journal, trail, last)
    gone = 0

    def left(each: _Line) -> bool:
        nonlocal gone
        if each.trail == trail and _goes(each.record, last):
            gone += 1
            return False
        trails[each.trail].add(each.record)
        return True

    def write(put: Callable[[bytes], None]) -> dict[str, Index]:
        for said in where_chains_begin(trails):
            put(line_of(said))
        for each in _lines(journal):
            if left(each):
                put(each.line + b"\n")
        return trails

    if journal.parts:
        kept = {each.part for each in _lines(journal) if left(each)}
        journal.drop(trails, [part for part in journal.parts if part not in kept])
    else:
        journal.replace(write)
    return gone


def _goes(record: AuditRecord, last: dict[str, Anchor]) -> bool:
    return record.writer in last and record.seq <= last[record.writer].seq


def _last_to_go(journal: Journal, trail: str, before: float) -> dict[str, Anchor]:
    """By writer, the last of its oldest records that are all to go."""
    index = journal.trails.get(trail) or Index()
    chains: dict[str, list[tuple[int, float, str]]] = {}
    for record in records_of(journal, trail):
        chains.setdefault(record.writer, []).append((record.seq, record.at, record.hash))
    last: dict[str, Anchor] = {}
    for writer, chain in chains.items():
        for seq, at, hash_ in sorted(chain):
            if at >= before or (writer, seq) in index.unended:
                break
            last[writer] = Anchor(seq, hash_)
    return last


def _anchors_after(journal: Journal, trail: str, last: dict[str, Anchor]) -> dict[str, Index]:
    """Where all chains begin when those records are gone, and no records yet."""
    trails: dict[str, Index] = {}
    for name, each in journal.trails.items():
        fresh = trails[name] = Index()
        fresh.over = _over(journal, name, each, last) if name == trail else {*each.over}
        for writer, chain in each.chains.items():
            anchor = last.get(writer, chain.anchor) if name == trail else chain.anchor
            if anchor.seq:
                fresh.begin_at(writer, anchor)
    return trails


def _over(journal: Journal, trail: str, index: Index, last: dict[str, Anchor]) -> set[str]:
    """Calls whose begin stays and whose ends go, or have gone before."""
    begun: set[str] = set()
    ended: set[str] = set()
    for record in records_of(journal, trail):
        if not _goes(record, last) and record.kind in ("begin", "end"):
            (begun if record.kind == "begin" else ended).add(record.call)
    return begun - ended - {record.call for record in index.unended.values()}
