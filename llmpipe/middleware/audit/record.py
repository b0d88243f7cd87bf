"""A record of a call: what is told of it, in a form that any store can keep and any hash can be made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from attrs import evolve

from llmpipe.middleware.masked_names import masked_name
from llmpipe.pipeline.call import Call
from llmpipe.state import Anchor, AuditRecord
from llmpipe.state.hash_chain import chained, place

__all__ = ("late", "linked", "record_of", "stripped")

_MOST_BITS = 63  # of an integer that every reader of JSON and every database takes

_new, _set = object.__new__, object.__setattr__


def record_of(call: Call, writer: str, kind: str, outcome: str, body: dict[str, Any]) -> AuditRecord:
    """What is handed to the scribe, who gives it its place."""
    fields = {
        "writer": writer,
        "seq": 0,
        "kind": kind,
        "at": call.runtime.wall(),
        "call": call.id,
        "tenant": masked_name(call.tenant) if call.tenant else "",
        "user": masked_name(call.user) if call.user else "",
        "outcome": outcome,
        "body": body,
        "previous": "",
        "hash": "",
    }
    record = _new(AuditRecord)  # not by its `__init__`, as in `chained`: half as long
    _set(record, "__dict__", fields)
    return record


def linked(records: Iterable[AuditRecord], last: AuditRecord | Anchor) -> list[AuditRecord]:
    """`records` as those after `last`; those that have no place yet are given theirs, and not copied.

    What JSON cannot say of one is said as near as can be.
    """
    found: list[AuditRecord] = []
    for record in records:
        try:
            if record.hash:  # it had a place before, where somebody may have seen it
                last = chained(record, last)
            else:
                place(record, last)
                last = record
        except TypeError:  # half a character, an integer of a hundred digits, a number of a foreign class
            last = chained(_plain(record), last)
        found.append(last)
    return found


def late(record: AuditRecord) -> AuditRecord:
    """The end of a call that has one already: what really came of it."""
    return evolve(record, kind="note", outcome="", body={**record.body, "ended_late": record.outcome})


def stripped(record: AuditRecord, why: str) -> AuditRecord:
    """`record` without all that a store could have against it."""
    return evolve(record, tenant="", user="", body={"unkept": why[:200]})


def _plain(record: AuditRecord) -> AuditRecord:
    plain = {name: _whole(getattr(record, name)) for name in ("writer", "call", "tenant", "user", "outcome")}
    return evolve(record, body=orjson.loads(orjson.dumps(_whole(record.body), default=str)), **plain)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {str(_whole(key)): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > _MOST_BITS:
        return hex(value)
    return value
