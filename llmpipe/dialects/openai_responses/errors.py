"""Errors of the Responses API: those of OpenAI's other API, and two of its own.

A reply can say that it failed (``response.error``), in a 200, in a stream, or when it is fetched later;
and a stream can hold an ``error`` event, flat as documented or with the object that OpenAI really sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.openai_chat.errors import decode_error, encode_error, error_in
from llmpipe.errors import LLMError, ServiceUnavailable
from llmpipe.secret import scrub

__all__ = ("decode_error", "encode_error", "error_event", "error_of_event", "error_of_reply")

# What `response.error.code` says, in words that everybody uses; the other codes are everybody's already.
# Source: OpenAI's API reference, "The response object", `error`.
_MEANING = {
    "bio_policy": "content_filter",
    "data_residency_mismatch": "invalid_request_error",
    "image_content_policy_violation": "content_filter",
    "invalid_prompt": "content_filter",  # "flagged as potentially violating our usage policy"
    "misalignment_policy_violation": "content_filter",
    "vector_store_timeout": "timeout",
}
_ABOUT_IMAGES = ("image", "unsupported_image")


def error_of_reply(
    response: Mapping[str, Any], *, headers: Mapping[str, str] | None = None, phase: str
) -> LLMError:
    """The classified error of a response that failed or was cancelled."""
    error = response.get("error")
    if isinstance(error, dict) and error:
        return error_in({"error": _explained(error)}, headers=headers, phase=phase)
    if error:
        return error_in({"message": error}, headers=headers, phase=phase)
    status = str(response.get("status"))[:40]
    return ServiceUnavailable(
        f"the response has status {scrub(status)} and gives no reason",
        code=f"response_{status}" if status in ("cancelled", "failed") else None,
        retryable=status != "cancelled",
        phase=phase,
    )


def error_of_event(event: Mapping[str, Any], *, phase: str) -> LLMError:
    """The classified error of an ``error`` event."""
    error = event.get("error")
    if isinstance(error, dict) and error:
        return error_in({"error": _explained(error)}, phase=phase)
    flat = {name: value for name, value in event.items() if name not in ("sequence_number", "type")}
    return error_in(_explained(flat) if not error else flat, phase=phase)


def error_event(error: LLMError, sequence: int) -> dict[str, Any]:
    """The ``error`` event, flat as documented, and with the object for which OpenAI's SDK raises."""
    message, param = scrub(error.message), error.metadata.get("param")
    told = {"type": error.wire_type, "code": error.code, "message": message, "param": param}
    return {
        "type": "error",
        "sequence_number": sequence,
        "code": error.code or error.wire_type,
        "message": message,
        "param": param,
        "error": told,
    }


def _explained(error: Mapping[str, Any]) -> dict[str, Any]:
    """The error with a type, where its code is one that only this API has."""
    code = error.get("code")
    if error.get("type") or not isinstance(code, str):
        return dict(error)
    kind = _MEANING.get(code)
    if kind is None and any(word in code for word in _ABOUT_IMAGES):
        kind = "invalid_request_error"
    return {**error, "type": kind} if kind else dict(error)
