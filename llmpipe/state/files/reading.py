"""Reading what is left in the files of a trail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from llmpipe.errors import StoreDamaged
from llmpipe.state.contracts.audit import AuditRecord
from llmpipe.state.files.contents import lines_in
from llmpipe.state.files.journal import Journal, View
from llmpipe.state.files.lines import Unreadable, read_line, read_record

__all__ = ("Line", "lines_since", "records_of")


@frozen
class Line:
    """A record that is left: its line without the end, and the part that it lies in; None for the newest."""

    part: Path | None
    line: bytes
    trail: str
    record: AuditRecord


def records_of(journal: Journal, trail: str) -> Iterator[AuditRecord]:
    """What is left of the trail, in no order. Raises: StoreDamaged."""
    view = journal.view()
    try:
        yield from (each.record for each in lines_since(journal, view) if each.trail == trail)
    finally:
        os.close(view.descriptor)


def lines_since(journal: Journal, view: View, before: View | None = None) -> Iterator[Line]:
    """Every record in every file of `view` that was not pruned then; only those that were not there `before`.

    Raises: StoreDamaged.
    """
    parts, place = view.parts, 0
    if before is not None:  # what was written then may be numbered now
        parts, place = tuple([part for part in parts if part not in before.parts]), before.size
    for part in parts:
        try:
            descriptor = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if part in journal.parts:
                raise StoreDamaged(f"{part} is gone, and its records were not pruned") from None
            continue  # pruned since
        try:
            yield from _lines_of(
                journal, view, part, descriptor, size=os.fstat(descriptor).st_size, place=place
            )
        finally:
            os.close(descriptor)
        place = 0
    yield from _lines_of(journal, view, None, view.descriptor, size=view.size, place=place)


def _lines_of(
    journal: Journal, view: View, part: Path | None, descriptor: int, *, size: int, place: int
) -> Iterator[Line]:
    for number, (line, _) in enumerate(lines_in(descriptor, size, place), 1):
        try:
            said = read_line(line)
            if "record" not in said:
                continue
            record = read_record(said)
        except Unreadable as error:
            raise journal.damaged(number, str(error), part) from None
        if record.seq > view.begins.get((said["trail"], record.writer), 0):
            yield Line(part, line, said["trail"], record)
