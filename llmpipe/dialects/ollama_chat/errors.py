"""Errors of Ollama: ``{"error": "words"}``, as a body or as a line of a stream that had begun.

Source: https://docs.ollama.com/api/errors
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from llmpipe.dialects.jsonbody import excerpt
from llmpipe.dialects.problem import codes_of, message_of, object_of
from llmpipe.dialects.status import error_for_status, says_context_too_long
from llmpipe.errors import LLMError

__all__ = ("decode_error", "error_in")


def decode_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> LLMError:
    """The classified error of a reply that is not a success. Never raises."""
    try:
        wire = orjson.loads(body)
    except orjson.JSONDecodeError:
        wire = {"message": excerpt(body, max_chars=512)}
    return _classify(wire, status=status, headers=headers, now=now, phase="headers")


def error_in(wire: object, *, headers: Mapping[str, str] | None = None, phase: str) -> LLMError:
    """The classified error that stands where a reply, or a piece of one, should."""
    return _classify(wire, status=None, headers=headers or {}, now=None, phase=phase)


def _classify(
    wire: object, *, status: int | None, headers: Mapping[str, str], now: float | None, phase: str
) -> LLMError:
    error = object_of(wire)
    message = message_of(error)
    codes = [*codes_of(error), error.get("status_code")]
    if status is None and says_context_too_long(message):  # in a stream there are words and no status
        codes.append("context_length_exceeded")
    return error_for_status(
        status, codes=tuple(codes), message=message, headers=headers, now=now, phase=phase
    )
