"""Token counts: the wire's, where cached input is not part of `input_tokens`, and ours, where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.jsonbody import leftover
from llmpipe.types import Usage

__all__ = ("decode_usage", "encode_usage", "merge_usage")

_COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
_KNOWN = frozenset(_COUNTS)


def decode_usage(wire: object) -> Usage | None:
    """Our usage, or None where the wire's lacks a valid count of input or of output.

    A count that is absent, negative or no integer is as good as missing; and a total with half of
    it missing would be taken for a cheap call.
    """
    if not isinstance(wire, dict):
        return None
    fresh, written, cached, output = map(_count, map(wire.get, _COUNTS))
    if fresh is None or output is None:
        return None
    extra = {**leftover(wire, _KNOWN)}
    details = extra.get("output_tokens_details")
    thinking = None
    if isinstance(details, dict):
        details = dict(details)
        thinking = _count(details.pop("thinking_tokens", None))
        extra["output_tokens_details"] = details
        if not details:
            del extra["output_tokens_details"]
    return Usage(
        input_tokens=fresh + (written or 0) + (cached or 0),
        output_tokens=output,
        cached_input_tokens=cached or 0,
        cache_write_tokens=written or 0,
        reasoning_tokens=min(thinking or 0, output),
        extra=extra,
    )


def merge_usage(known: dict[str, Any], more: object) -> bool:
    """Put into `known` what a later event of a stream tells; whether it told anything.

    Counts are cumulative, so they replace; what an event does not name, or names as null or with
    an invalid count, stays as it was (Anthropic's SDKs do the same).
    """
    if not isinstance(more, dict):
        return False
    told = {
        name: value
        for name, value in more.items()
        if (_count(value) is not None if name in _COUNTS else value is not None)
    }
    known.update(told)
    return bool(told)


def encode_usage(usage: Usage | None, *, foreign: bool = False) -> dict[str, Any]:
    """The wire's usage, without its `extra` where that is `foreign`, in other words.

    Unknown usage is zeros: the wire has no word for not knowing.
    """
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    extra: Mapping[str, Any] = {} if foreign else usage.extra
    fresh = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    wire: dict[str, Any] = {
        "input_tokens": max(fresh, 0),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        **extra,
    }
    if usage.reasoning_tokens:
        details = extra.get("output_tokens_details")
        more = dict(details) if isinstance(details, Mapping) else {}
        wire["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens, **more}
    return wire


def _count(value: object) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and value >= 0 else None
