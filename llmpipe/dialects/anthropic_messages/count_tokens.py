"""``POST /v1/messages/count_tokens``: what a request would weigh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.errors import BadReply

__all__ = ("decode_count", "encode_count_request")

# Fields of a message request that say nothing about its input; the API refuses them here.
_OUTPUT_ONLY = frozenset(
    (
        "container",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "max_tokens",
        "metadata",
        "service_tier",
        "stop_sequences",
        "stream",
        "temperature",
        "thread",
        "top_k",
        "top_p",
    )
)


def encode_count_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a message request without what count_tokens does not take."""
    return {name: value for name, value in body.items() if name not in _OUTPUT_ONLY}


def decode_count(body: Mapping[str, Any]) -> int:
    """The count in a reply. Raises BadReply where there is none."""
    count = body.get("input_tokens")
    if type(count) is not int or count < 0:
        raise BadReply("the reply has no input_tokens", code="no_count", phase="body")
    return count
