"""The hashes that chain audit records, so that what was changed, moved or cut out is found.

A record's hash is SHA-256, in hex, over the JSON (sorted keys, no spaces, UTF-8) of all its fields but
`hash` itself; `previous` is among them. So a chain shows by itself that something inside it was changed,
removed or moved. That its end was cut off shows only against something kept elsewhere: a hash noted
before, which `verify` takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from math import isfinite
from typing import Any

from orjson import OPT_SORT_KEYS, dumps

from llmpipe.state.contracts.audit import Anchor, AuditRecord

__all__ = ("chained", "digest", "fault", "place")

_new, _set = object.__new__, object.__setattr__


def digest(record: AuditRecord) -> str:
    """The hash that `record` should have, 64 hex digits.

    Raises: TypeError for a body that is no JSON, such as an integer of more than 64 bits; ValueError for a
    time that is not finite. (A NaN within a body is null to JSON, here as in every store.)
    """
    fields = {**record.__dict__, "body": dict(record.body)}
    del fields["hash"]
    return _hash(fields)


def _hash(fields: dict[str, Any]) -> str:
    """The hash of the record with those fields, which are all but itself."""
    at = fields["at"]
    if not isfinite(at):
        raise ValueError(f"a record's time is {at}")
    # A time in whole seconds comes back from most stores as a float, and JSON tells the two apart.
    fields["at"] = float(at)
    return sha256(dumps(fields, option=OPT_SORT_KEYS)).hexdigest()


def chained(record: AuditRecord, after: AuditRecord | Anchor) -> AuditRecord:
    """`record` as the next one of its writer's chain: with its number, and both hashes.

    Raises: as `digest`.
    """
    placed = _new(AuditRecord)  # not by `evolve`, which takes four times as long
    _set(placed, "__dict__", {**record.__dict__})
    place(placed, after)
    return placed


def place(record: AuditRecord, after: AuditRecord | Anchor) -> None:
    """As `chained`, of a `record` that nobody else has yet: it is given its place itself, and not copied.

    Raises: as `digest`.
    """
    fields = record.__dict__
    fields["seq"], fields["previous"] = after.seq + 1, after.hash
    if type(record.body) is not dict:
        fields["body"] = dict(record.body)
    del fields["hash"]
    try:
        fields["hash"] = _hash(fields)
    except BaseException:  # goes on; a record without the field is none
        fields["hash"] = ""
        raise


def fault(records: Iterable[AuditRecord], anchor: Anchor, *, known: Anchor | None = None) -> str | None:
    """What is wrong with one writer's chain, from its anchor on; None if nothing is.

    Names the first record that does not fit. `known` is a record noted earlier, as (seq, hash): it
    must be there as it was, unless it was pruned since.
    """
    seq, previous = anchor.seq, anchor.hash
    seen = known is None or known.seq <= anchor.seq
    if known is not None and known.seq == anchor.seq and known.hash != anchor.hash:
        return f"record {anchor.seq}, the last that was pruned, is not the one that was noted"
    for record in records:
        where = f"record {record.seq} of {record.writer!r}"
        if record.seq != seq + 1:
            return f"{where} follows record {seq}: {abs(record.seq - seq - 1)} are missing or out of order"
        if record.previous != previous:
            return f"{where} does not follow the record before it"
        if not _intact(record):
            return f"{where} was changed"
        seq, previous = record.seq, record.hash
        if known is not None and record.seq == known.seq:
            if record.hash != known.hash:
                return f"{where} is not the one that was noted"
            seen = True
    if not seen and known is not None:
        return f"the chain ends at record {seq}, and record {known.seq} had been written"
    return None


def _intact(record: AuditRecord) -> bool:
    try:
        return digest(record) == record.hash
    except (TypeError, ValueError):  # no hash was ever made of that
        return False
