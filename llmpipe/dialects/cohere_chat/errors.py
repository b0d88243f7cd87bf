"""Errors of Cohere's API, both directions: of a status, in a 200, and at the end of a stream.

A body is ``{"id", "message"}``, of newer servers with ``error_type``; a stream that fails ends with
``message-end``, finish reason ``ERROR`` and ``error`` beside it.

Source: https://docs.cohere.com/reference/errors, the errors of Cohere's Python SDK.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects.jsonbody import excerpt
from llmpipe.dialects.problem import codes_of, message_of, object_of
from llmpipe.dialects.status import error_for_status, says_context_too_long
from llmpipe.errors import ContextTooLong, LLMError
from llmpipe.secret import scrub

__all__ = ("decode_error", "encode_error", "error_in", "error_words")

# Cohere's own words for what `status` knows by others.
_TYPES = {"TOO_MANY_TOKENS": "context_length_exceeded"}
_DENY_LISTED = 498  # "a request or response contains a deny-listed token"; elsewhere it is no capacity
# The one table of texts: a trial key's month comes as the 429 that its minute comes as, and has no code.
_TEXTS = {"api calls / month": "quota_exceeded", "calls per month": "quota_exceeded"}


def decode_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> LLMError:
    """The classified error of a reply that is not a success. Never raises.

    Args: now is the Unix time for retry hints where the response has no ``Date``.
    """
    try:
        wire = orjson.loads(body)
    except orjson.JSONDecodeError:
        wire = {"message": excerpt(body, max_chars=512)}
    return _classify(wire, status=status, headers=headers, now=now, phase="headers")


def error_in(wire: object, *, headers: Mapping[str, str] | None = None, phase: str) -> LLMError:
    """The classified error that stands where a reply, or the end of a stream, should."""
    return _classify(wire, status=None, headers=headers or {}, now=None, phase=phase)


def encode_error(error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers (`retry-after` in whole seconds) and JSON body of an error, as Cohere has them."""
    status = error.status if 400 <= error.status < 600 else error.default_status
    headers: dict[str, str] = {}
    if error.retry_after is not None and math.isfinite(error.retry_after) and error.retry_after >= 0:
        headers["retry-after"] = str(math.ceil(error.retry_after))
    kind, message = error_words(error)
    return status, headers, {"id": error.request_id or "", "message": message, "error_type": kind}


def error_words(error: LLMError) -> tuple[str, str]:
    """``error_type`` and message of an error."""
    message = scrub(error.message)
    if isinstance(error, ContextTooLong):
        # Clients of this API know the case by these words; older servers have no type for it.
        return "TOO_MANY_TOKENS", message if says_context_too_long(message) else f"too many tokens: {message}"
    return error.wire_type.upper(), message


def _classify(
    wire: object, *, status: int | None, headers: Mapping[str, str], now: float | None, phase: str
) -> LLMError:
    error = object_of(wire)
    message = message_of(error)
    kind = error.get("error_type")
    codes: list[object] = []
    if isinstance(kind, str):
        codes += [scrub(kind, max_chars=100), _TYPES.get(kind)]
    if status == _DENY_LISTED:
        codes.append("content_filter")
    if status is None and says_context_too_long(message):
        codes.append("context_length_exceeded")
    if status in (None, 429):
        codes += [code for text, code in _TEXTS.items() if text in message.lower()]
    codes += codes_of(error)
    result = error_for_status(
        status, codes=tuple(codes), message=message, headers=headers, now=now, phase=phase
    )
    if result.request_id is None and isinstance(error.get("id"), str):
        result.request_id = scrub(error["id"], max_chars=100) or None
    return result
