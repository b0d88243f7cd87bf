"""Token counts: the wire's, where thoughts are no part of the candidates' tokens, and ours, where they are.

Source: ``UsageMetadata`` in the API references; recorded replies for what they leave unsaid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.jsonbody import leftover
from llmpipe.types import Usage

__all__ = ("decode_usage", "encode_usage")

_TOOLS = "toolUsePromptTokenCount"
_KNOWN = frozenset(
    (
        "promptTokenCount",
        "candidatesTokenCount",
        "thoughtsTokenCount",
        "cachedContentTokenCount",
        "totalTokenCount",
    )
)
_ABSURD = 1_000_000_000
"""Tokens. No count reaches it; a wire that says so is wrong, and its usage is no usage."""


def decode_usage(wire: object) -> Usage | None:
    """Our usage, or None where the wire's says nothing: Vertex AI tells a stream's only at its end.

    What a tool's results took of the prompt is input, as it is billed as such; its count stays in
    `extra`. The total tells where thoughts were counted with the candidates (or nowhere) after all.
    """
    if not isinstance(wire, Mapping):
        return None
    prompt, made, thought, cached, total, tools = (
        _count(wire.get(name))
        for name in (
            "promptTokenCount",
            "candidatesTokenCount",
            "thoughtsTokenCount",
            "cachedContentTokenCount",
            "totalTokenCount",
            _TOOLS,
        )
    )
    if prompt is None and (total is None or made is None):
        return None
    if prompt is None:
        prompt = max((total or 0) - (made or 0) - (thought or 0) - (tools or 0), 0)
    made, thought, given = made or 0, thought or 0, prompt + (tools or 0)
    inside = thought > 0 and thought <= made and total == given + made
    output = made if inside else made + thought
    if total is not None and not thought and total > given + output:
        thought = total - given - output  # they are in the total and nowhere else
        output += thought
    return Usage(
        input_tokens=given,
        output_tokens=output,
        cached_input_tokens=min(cached or 0, given),
        reasoning_tokens=min(thought, output),
        extra=leftover(wire, _KNOWN),
    )


def encode_usage(usage: Usage, *, native: bool = True) -> dict[str, Any]:
    """The ``usageMetadata`` that Google would send. Not `native`: `extra` is in another wire's words."""
    extra: Mapping[str, Any] = usage.extra if native else {}
    tools = min(_count(extra.get(_TOOLS)) or 0, usage.input_tokens)
    wire: dict[str, Any] = {
        "promptTokenCount": usage.input_tokens - tools,
        "candidatesTokenCount": max(usage.output_tokens - usage.reasoning_tokens, 0),
        "totalTokenCount": usage.total_tokens,
    }
    if usage.cached_input_tokens:
        wire["cachedContentTokenCount"] = usage.cached_input_tokens
    if usage.reasoning_tokens:
        wire["thoughtsTokenCount"] = usage.reasoning_tokens
    return {**wire, **extra}


def _count(value: object) -> int | None:
    """A token count, or None: not a number, negative, absurd. JSON has 64-bit integers as strings."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = float(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < _ABSURD else None
