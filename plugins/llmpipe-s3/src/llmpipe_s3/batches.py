"""What objects hold: lines as in a trail in a file, the first of which says what it is.

So the objects of a trail, put one behind the other, are read with the same tools.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from attrs import frozen

from llmpipe.errors import StoreDamaged
from llmpipe.state import Anchor, AuditRecord
from llmpipe.state.files.lines import (
    HEAD,
    VERSION,
    Unreadable,
    line_of,
    read_line,
    read_record,
    record_line,
)

__all__ = ("Beginning", "anchor_data", "batch_data", "read_anchor", "read_batch")


@frozen
class Beginning:
    """Where a chain begins, and what is to be known of records that are gone.

    Attributes:
        writer, anchor: whose chain, and behind what.
        open: calls whose begin is gone, and whose end was not.
        ended: calls whose end is gone, and whose begin stands elsewhere.
    """

    writer: str
    anchor: Anchor
    open: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()


def batch_data(trail: str, records: Iterable[AuditRecord]) -> bytes:
    """An object of these records. Raises: ValueError for what JSON cannot say."""
    return b"".join((HEAD, *[record_line(trail, record) for record in records]))


def read_batch(key: str, data: bytes, writer: str | None = None) -> list[AuditRecord]:
    """The records of an object, by their numbers. Raises: StoreDamaged."""
    try:
        records = [read_record(said) for said in _read(key, data)]
    except (Unreadable, KeyError) as error:
        raise _damaged(key, str(error)) from None
    if not records or any(record.writer != records[0].writer for record in records):
        raise _damaged(key, "is not of one writer")
    if writer is not None and records[0].writer != writer:
        raise _damaged(key, "is of another writer")
    return sorted(records, key=lambda record: record.seq)


def anchor_data(trail: str, beginning: Beginning) -> bytes:
    """An object that says where a chain begins."""
    place = beginning.anchor
    said = [{"trail": trail, "anchor": [beginning.writer, place.seq, place.hash]}]
    calls: Sequence[tuple[str, Collection[str]]] = (("open", beginning.open), ("ended", beginning.ended))
    return b"".join(
        (HEAD, *map(line_of, said), *[line_of({"trail": trail, name: sorted(each)}) for name, each in calls])
    )


def read_anchor(key: str, data: bytes) -> Beginning:
    """Where an object says that a chain begins. Raises: StoreDamaged."""
    said = {name: value for line in _read(key, data) for name, value in line.items()}
    try:
        writer, seq, hash_ = said["anchor"]
        return Beginning(writer, Anchor(seq, hash_), frozenset(said["open"]), frozenset(said["ended"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(key, f"says nothing that is known: {error}") from None


def _read(key: str, data: bytes) -> list[dict[str, Any]]:
    try:
        head, *lines = [read_line(line) for line in data.removesuffix(b"\n").split(b"\n")]
    except Unreadable as error:
        raise _damaged(key, str(error)) from None
    if not data.endswith(b"\n") or head.get("llmpipe") != "audit":
        raise _damaged(key, "is not of an audit trail")
    if head.get("version") != VERSION:
        raise _damaged(key, f"is of version {head.get('version')}; this reads version {VERSION}")
    return lines


def _damaged(key: str, why: str) -> StoreDamaged:
    return StoreDamaged(
        f"the object {key} of an audit trail {why}. Nothing was changed. Put a copy in its place"
    )
