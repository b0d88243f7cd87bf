"""Counting the tokens of a request before it is sent: ``POST /v1/responses/input_tokens``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.errors import BadReply

__all__ = ("decode_count", "encode_count")

# What that endpoint takes. Source: OpenAI's API reference, "Get input token counts".
_FIELDS = frozenset(
    (
        "conversation",
        "input",
        "instructions",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "reasoning",
        "text",
        "tool_choice",
        "tools",
        "truncation",
    )
)


def encode_count(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a count, of that of the request itself."""
    return {name: value for name, value in body.items() if name in _FIELDS}


def decode_count(body: Mapping[str, Any]) -> int:
    """The input tokens that a reply tells. Raises BadReply where it does not."""
    count = body.get("input_tokens")
    if type(count) is not int or count < 0:
        raise BadReply("the reply has no count of input tokens", code="no_count", phase="body")
    return count
