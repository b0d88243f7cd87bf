"""``:countTokens``: what a request would weigh, both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.gemini_generate.errors import error_in
from llmpipe.dialects.gemini_generate.fields import Fields, full_model
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply

__all__ = ("decode_count", "encode_count", "encode_count_request", "unwrapped")

_VERTEX = ("contents", "systemInstruction", "tools", "generationConfig")


def encode_count_request(body: Mapping[str, Any], model: str, *, whole: bool) -> dict[str, Any]:
    """The body for the request that `body` would be.

    Args: whole is for the Gemini API, which counts nothing but contents unless the request stands in
        ``generateContentRequest``, with its model; Vertex AI takes the fields that weigh something.
    """
    if whole:
        return {"generateContentRequest": {"model": full_model(model), **body}}
    return {name: body[name] for name in _VERTEX if name in body}


def unwrapped(body: object) -> dict[str, Any]:
    """The server's side: the request inside a caller's body. Raises InvalidRequest naming the field."""
    fields = Fields(body)
    inner = fields.table("generateContentRequest")
    return fields.rest if inner is None else inner


def decode_count(body: Mapping[str, Any]) -> int:
    """The tokens. Raises: the classified LLMError where the body is one, BadReply where it has no count."""
    count = body.get("totalTokens", 0 if "promptTokensDetails" in body else None)
    if type(count) is int and count >= 0:
        return count
    if says_error(body):
        raise error_in(body, phase="body")
    raise BadReply("the reply has no totalTokens", code="no_count", phase="body")


def encode_count(tokens: int) -> dict[str, Any]:
    """The server's side: the JSON body of a count."""
    return {"totalTokens": tokens}
