"""Token counts: the wire's, where cached input is not part of `inputTokens`, and ours, where it is."""

from __future__ import annotations

from llmpipe.dialects.jsonbody import leftover
from llmpipe.types import Usage

__all__ = ("decode_usage",)

# The Count fields are an older spelling that comes beside the newer one, with the same numbers.
_READ = ("cacheReadInputTokens", "cacheReadInputTokenCount")
_WRITTEN = ("cacheWriteInputTokens", "cacheWriteInputTokenCount")
_KNOWN = frozenset(("inputTokens", "outputTokens", "totalTokens", *_READ, *_WRITTEN))


def decode_usage(wire: object) -> Usage | None:
    """Our usage, or None where the wire's lacks a valid count of input or of output.

    `inputTokens` counts what was neither read from the cache nor written to it: in every recorded reply
    the total is the sum of all four. Half of a total would be taken for a cheap call, so a count that is
    absent, negative or no integer makes all of it unknown.
    """
    if not isinstance(wire, dict):
        return None
    fresh, output = _count(wire.get("inputTokens")), _count(wire.get("outputTokens"))
    if fresh is None or output is None:
        return None
    read = next((count for name in _READ if (count := _count(wire.get(name))) is not None), 0)
    written = next((count for name in _WRITTEN if (count := _count(wire.get(name))) is not None), 0)
    return Usage(
        input_tokens=fresh + read + written,
        output_tokens=output,
        cached_input_tokens=read,
        cache_write_tokens=written,
        extra=leftover(wire, _KNOWN),
    )


def _count(value: object) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 1_000_000_000 else None  # beyond it, a wire is wrong
