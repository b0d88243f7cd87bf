"""Token counts: those of OpenAI's older API under other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.openai_chat import usage as chat
from llmpipe.types import Usage

__all__ = ("decode_usage", "encode_usage")

_NAMES = {
    "input_tokens": "prompt_tokens",
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens": "completion_tokens",
    "output_tokens_details": "completion_tokens_details",
}
_BACK = {theirs: ours for ours, theirs in _NAMES.items()}


def decode_usage(wire: object) -> Usage | None:
    """The usage in a reply's `usage` object, or None where it says nothing that can be true.

    Cached tokens are part of the input, reasoning tokens of the output, as everybody counts here.
    """
    if not isinstance(wire, dict):
        return None
    usage = chat.decode_usage(_renamed(wire, _NAMES))
    if usage is None or usage.extra.keys().isdisjoint(_BACK):
        return usage
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        extra=_renamed(usage.extra, _BACK),
    )


def encode_usage(usage: Usage, *, own: bool) -> dict[str, Any]:
    """The `usage` object OpenAI would send; with what it says besides, where that is this wire's `own`."""
    extra = dict(usage.extra) if own else {}
    inputs, outputs = extra.pop("input_tokens_details", None), extra.pop("output_tokens_details", None)
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            **(inputs if isinstance(inputs, Mapping) else {}),
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            **(outputs if isinstance(outputs, Mapping) else {}),
        },
        "total_tokens": usage.total_tokens,
        **extra,
    }


def _renamed(wire: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in wire.items()}
