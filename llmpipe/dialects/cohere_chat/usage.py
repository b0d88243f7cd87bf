"""Token counts: what Cohere bills, which is our usage, and what the model read and wrote besides.

The wire has both. ``billed_units`` leaves out what Cohere adds to every prompt (a request of 8 billed
tokens reads 1394), so prices apply to it and to nothing else; ``tokens`` and ``cached_tokens``, which
counts among ``tokens``, then stay in `extra` under their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.types import Usage

__all__ = ("count_of", "decode_usage", "encode_usage")

_COUNTS = ("input_tokens", "output_tokens", "reasoning_tokens")


def decode_usage(wire: object) -> Usage | None:
    """The billed usage in a reply's `usage`, or None where it tells neither kind of count.

    A server that bills nobody (vLLM) has ``tokens`` alone, which are the usage then.
    """
    if not isinstance(wire, dict):
        return None
    extra = dict(wire)
    billed, tokens = _table(extra.pop("billed_units", None)), _table(extra.pop("tokens", None))
    counts = _pair(billed) or _pair(tokens)
    if counts is None:
        return None
    rest = {name: value for name, value in billed.items() if name not in _COUNTS and value is not None}
    if rest:
        extra["billed_units"] = rest
    cached = 0
    if _pair(tokens) in (counts, None) and not tokens.keys() - set(_COUNTS):
        cached = count_of(extra.get("cached_tokens")) or 0
        if cached <= counts[0]:
            extra.pop("cached_tokens", None)
        else:
            cached = 0
    if tokens and (_pair(tokens) != counts or tokens.keys() - set(_COUNTS)):
        extra["tokens"] = tokens
    thought = count_of(tokens.get("reasoning_tokens")) or 0
    return Usage(
        counts[0],
        counts[1],
        cached_input_tokens=cached,
        reasoning_tokens=min(thought, counts[1]),
        extra={name: value for name, value in extra.items() if value is not None},
    )


def encode_usage(usage: Usage | None, *, own: bool = True) -> dict[str, Any]:
    """The `usage` Cohere would send: what is billed and, where nobody told, the same as what was read.

    Args: own says whether `usage.extra` is in Cohere's words; else nothing of it is shown.
    """
    if usage is None:
        return {}
    extra: Mapping[str, Any] = usage.extra if own else {}
    billed = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    tokens: dict[str, Any] = dict(billed)
    if usage.reasoning_tokens:
        tokens["reasoning_tokens"] = usage.reasoning_tokens
    wire = {
        "billed_units": {**billed, **_table(extra.get("billed_units"))},
        "tokens": _table(extra.get("tokens")) or tokens,
    }
    if usage.cached_input_tokens:
        wire["cached_tokens"] = usage.cached_input_tokens  # type: ignore[assignment]  # a count beside tables
    return {**extra, **wire}


def count_of(value: object) -> int | None:
    """A count, or None: not a whole number, negative, absurd. The wire's counts may be floats."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 1_000_000_000 else None


def _pair(table: Mapping[str, Any]) -> tuple[int, int] | None:
    given, made = count_of(table.get("input_tokens")), count_of(table.get("output_tokens"))
    if given is None and made is None:
        return None
    # Cohere leaves out a count that is 0.
    return (given or 0, made or 0)


def _table(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
