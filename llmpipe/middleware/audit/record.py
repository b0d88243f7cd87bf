"""A record of a call: what is told of it, in a form that any store can keep and any hash can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from attrs import evolve

from llmpipe.middleware.log.fields import MAX_TAG_CHARS, clipped
from llmpipe.pipeline.call import Call
from llmpipe.state import Anchor, AuditRecord
from llmpipe.state.hash_chain import chained

__all__ = ("follow", "record_of", "stripped")

_MAX_TAGS = 100
_MOST_BITS = 63  # of an integer that every reader of JSON and every database takes


def record_of(call: Call, writer: str, kind: str, outcome: str, fields: dict[str, Any]) -> AuditRecord:
    """What is handed to the scribe, who gives it its place: `fields` less what the record itself says."""
    tags = fields.get("tags")
    if tags is not None and len(tags) > _MAX_TAGS:
        fields["tags"], fields["tags_left_out"] = dict([*tags.items()][:_MAX_TAGS]), len(tags) - _MAX_TAGS
    for said in ("call_id", "tenant", "user", "event"):
        fields.pop(said, None)
    return AuditRecord(
        writer=writer,
        seq=0,
        kind=kind,
        at=call.runtime.wall(),
        call=call.id,
        tenant=clipped(call.tenant, MAX_TAG_CHARS) if call.tenant else "",
        user=clipped(call.user, MAX_TAG_CHARS) if call.user else "",
        outcome=outcome,
        body=fields,
    )


def follow(record: AuditRecord, last: AuditRecord | Anchor) -> AuditRecord:
    """`record` as the one after `last`. What JSON cannot say of it is said as near as can be."""
    try:
        return chained(record, last)
    except TypeError:  # half a character, an integer of a hundred digits, a number of a foreign class
        plain = {
            name: _whole(getattr(record, name)) for name in ("writer", "call", "tenant", "user", "outcome")
        }
        body = orjson.loads(orjson.dumps(_whole(record.body), default=str))
        return chained(evolve(record, body=body, **plain), last)


def stripped(record: AuditRecord, why: str) -> AuditRecord:
    """`record` without all that a store could have against it."""
    return evolve(record, tenant="", user="", body={"unkept": why[:200]})


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
