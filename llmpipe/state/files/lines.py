r"""What a line of the file is, and how one that is not as it was written is known.

Each line is a JSON object in UTF-8, ended by ``\n``, which begins with its own sum: BLAKE2b, eight bytes in
hex, of all that follows the sum's comma, such as ``{"sum":"0123456789abcdef","trail":"audit",…}``.

=========================  ====================================================================
a line with                says
=========================  ====================================================================
``llmpipe``, ``version``   what the file is; always the first
``record``                 a record of the trail
``anchor``                 writer, number and hash of the last record of a chain that was pruned
``ended``                  calls whose begin is left, and whose end was pruned
=========================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

from llmpipe.state.checks import body_json
from llmpipe.state.contracts.audit import AuditRecord

__all__ = (
    "HEAD",
    "Unreadable",
    "VERSION",
    "line_of",
    "read_line",
    "read_record",
    "record_line",
    "torn",
    "torn_head",
)

VERSION = 1
_BEGIN, _MIDDLE = b'{"sum":"', b'",'
_SUM = len(_BEGIN) + 16
_FIELDS = frozenset(
    ("writer", "seq", "kind", "at", "call", "tenant", "user", "outcome", "body", "previous", "hash")
)


def _sum(rest: bytes) -> bytes:
    return blake2b(rest, digest_size=8).hexdigest().encode()


class Unreadable(ValueError):
    """A line is not as it was written."""


def line_of(said: Mapping[str, Any]) -> bytes:
    """The line that says so. Raises: ValueError for what JSON cannot say, such as half a character."""
    try:
        rest = orjson.dumps(said)[1:]
    except TypeError as error:
        raise ValueError(f"a record that JSON cannot say: {error}") from None
    return b"".join((_BEGIN, _sum(rest), _MIDDLE, rest, b"\n"))


HEAD = line_of({"llmpipe": "audit", "version": VERSION})
"""The first line of a file."""


def record_line(trail: str, record: AuditRecord) -> bytes:
    """The line of a record. Raises: as `line_of`."""
    fields = {**record.__dict__, "body": dict(record.body)}
    try:
        return line_of({"trail": trail, "record": fields})
    except ValueError:
        body_json(record)  # says so, if it is the body
        raise


def read_line(line: bytes) -> dict[str, Any]:
    """What a line says, given without its end. Raises: Unreadable."""
    if not line.startswith(_BEGIN) or line[_SUM : _SUM + 2] != _MIDDLE:
        raise Unreadable("does not begin as one")
    if _sum(line[_SUM + 2 :]) != line[len(_BEGIN) : _SUM]:
        raise Unreadable("does not agree with its sum")
    try:
        said: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"is no JSON: {error}") from None
    return said


def read_record(said: Mapping[str, Any]) -> AuditRecord:
    """The record that a line says. Raises: Unreadable."""
    fields = said["record"]
    if not isinstance(fields, dict) or fields.keys() != _FIELDS or not isinstance(fields["body"], dict):
        raise Unreadable("has not the fields of a record")
    return AuditRecord(**fields)


def torn(tail: bytes) -> bool:
    """Whether `tail`, which no line end follows, is the beginning of a line, as a crash leaves it.

    It is not if it was a whole line whose end has been changed. Where the power was cut, a file may have its
    new length without what was written there: zeros, which no line has.
    """
    try:
        read_line(tail[:-1])
    except Unreadable:
        written = tail.rstrip(b"\0")
        return written.startswith(_BEGIN) or _BEGIN.startswith(written)
    return False


def torn_head(tail: bytes) -> bool:
    """As `torn`, of the first line, before which there is nothing to be lost."""
    return len(tail) <= len(HEAD) and HEAD.startswith(tail.rstrip(b"\0"))
