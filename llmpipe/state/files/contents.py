"""What the lines of a file say together: where the chains begin, and the records behind that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from llmpipe.errors import StoreDamaged
from llmpipe.state.contracts.audit import Anchor, AuditRecord
from llmpipe.state.files.index import Index
from llmpipe.state.files.lines import VERSION, Unreadable, read_line, read_record

__all__ = ("Said", "lines_in", "standing", "take", "where_chains_begin")

_CHUNK = 1 << 20

Said = Mapping[str, Any]


def where_chains_begin(trails: dict[str, Index], was: Mapping[str, Index] | None = None) -> Iterator[Said]:
    """What a file that is not the first says ahead of its records. `was` is what it said before."""
    for name, index in trails.items():
        for writer, chain in index.chains.items():
            if chain.anchor.seq:
                yield {"trail": name, "anchor": [writer, chain.anchor.seq, chain.anchor.hash]}
        if index.over or (was is not None and name in was and was[name].over):
            yield {"trail": name, "ended": sorted(index.over)}


def standing(descriptor: int, size: int) -> dict[str, Index]:
    """Where chains begin, and which calls are over, as the file says last; no records yet."""
    trails: dict[str, Index] = {}
    for number, (line, ended) in enumerate(lines_in(descriptor, size), 1):
        if number == 1 or not ended or (b',"anchor":[' not in line and b',"ended":[' not in line):
            continue
        try:
            said = read_line(line)
        except Unreadable:
            continue  # whoever enters the records says that it is damaged
        if "record" not in said:
            _begin(trails, said)
    return trails


def _begin(trails: dict[str, Index], said: Said) -> None:
    """Enter a line that is no record. Raises: Unreadable."""
    try:
        index = trails.setdefault(said["trail"], Index())
        if "anchor" in said:
            writer, seq, hash_ = said["anchor"]
            index.begin_at(writer, Anchor(seq, hash_))
        else:
            index.over = {*said["ended"]}
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"says nothing that is known: {error}") from None


def take(trails: dict[str, Index], line: bytes, number: int) -> AuditRecord | None:
    """Enter the record that a line says behind the lines of `standing`; the record.

    Raises: Unreadable; StoreDamaged for a file of a newer version.
    """
    said = read_line(line)
    if number == 1:
        if said.get("llmpipe") != "audit" or "version" not in said:
            raise Unreadable("does not say that this is an audit trail")
        if said["version"] != VERSION:
            raise StoreDamaged(f"an audit trail of version {said['version']}; this reads version {VERSION}")
        return None
    if "record" not in said:
        _begin({}, said)  # `standing` has read it
        return None
    try:
        record = read_record(said)
        trails.setdefault(said["trail"], Index()).add(record)
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"says nothing that is known: {error}") from None
    return record


def lines_in(descriptor: int, size: int, place: int = 0) -> Iterator[tuple[bytes, bool]]:
    """The lines of the first `size` bytes from `place` on, without their ends, and whether they had one."""
    rest = b""
    while place < size:
        chunk = os.pread(descriptor, min(_CHUNK, size - place), place)
        if not chunk:
            break
        place += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line, True
    if rest:
        yield rest, False
