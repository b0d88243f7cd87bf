"""Errors of OpenAI-compatible servers: from their many spellings to one, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects.jsonbody import excerpt, json_text
from llmpipe.dialects.problem import codes_of, message_of, object_of
from llmpipe.dialects.retry_after import parse_duration
from llmpipe.dialects.status import error_for_status
from llmpipe.errors import BadReply, LLMError
from llmpipe.secret import scrub

__all__ = ("decode_error", "encode_error", "encode_error_body", "error_in")

_MAX_DETAIL_CHARS = 500
# xAI says it so, with 403 or 429 and the code of either; waiting does not help.
_NO_CREDITS = "used all available credits or reached its monthly spending limit"


def decode_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> LLMError:
    """The classified error of a reply whose status is not 200. Never raises.

    The message is the provider's own, scrubbed; for a body that is not JSON (a proxy's HTML
    page), its first 512 characters.
    """
    try:
        wire = orjson.loads(body)
    except orjson.JSONDecodeError:
        return error_for_status(
            status, message=excerpt(body, max_chars=512), headers=headers, now=now, phase="headers"
        )
    return _classify(wire, status=status, headers=headers, now=now, phase="headers")


def error_in(wire: object, *, headers: Mapping[str, str] | None = None, phase: str) -> LLMError:
    """The classified error that stands where a reply should: in a 200, or in a stream."""
    return _classify(wire, status=None, headers=headers, now=None, phase=phase)


def encode_error(error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and JSON body of an error, as OpenAI would send it.

    ``x-should-retry`` is sent where the status alone would mislead: OpenAI's SDKs repeat every
    408, 409, 429 and 5xx without it.
    """
    status = error.status if 400 <= error.status < 600 else error.default_status
    headers: dict[str, str] = {}
    if error.retry_after is not None and math.isfinite(error.retry_after) and error.retry_after >= 0:
        headers["retry-after"] = str(math.ceil(error.retry_after))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    looks_retryable = status in {408, 409, 429} or status >= 500
    if looks_retryable != error.retryable:
        headers["x-should-retry"] = "true" if error.retryable else "false"
    return status, headers, encode_error_body(error)


def encode_error_body(error: LLMError) -> dict[str, Any]:
    """``{"error": {…}}``, the same in a body and in a stream."""
    return {
        "error": {
            "message": scrub(error.message),
            "type": error.wire_type,
            "param": error.metadata.get("param"),
            "code": error.code,
        }
    }


def _classify(
    wire: object, *, status: int | None, headers: Mapping[str, str] | None, now: float | None, phase: str
) -> LLMError:
    error = object_of(wire)
    details = _object(error.get("metadata"))
    upstream = _upstream(details)
    inner = _object(error.get("innererror") or error.get("inner_error"))
    message = message_of(error)
    if upstream:
        # OpenRouter: "Provider returned error" alone helps nobody.
        message = f"{message}: {message_of(upstream) or 'no details'}"
    codes: list[object] = []
    if "flagged_input" in details or "reasons" in details:
        codes.append("content_filter")  # OpenRouter says only 403 when moderation flags the input
    if _NO_CREDITS in message:
        codes.append("insufficient_credits")
    own = codes_of(error)
    codes += own[:1]
    codes += codes_of(inner)[:1]
    codes += own[1:]
    codes += codes_of(upstream)
    return error_for_status(
        status,
        codes=tuple(codes),
        message=message,
        headers=headers,
        now=now,
        phase=phase,
        metadata=_metadata(error, inner, details),
        retry_after=_retry_delay(error.get("details")),
    )


def _upstream(details: Mapping[str, Any]) -> dict[str, Any]:
    """The error of the provider behind OpenRouter, which passes its body on as text."""
    raw = details.get("raw")
    if isinstance(raw, str) and raw:
        try:
            raw = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return {"message": raw}
    return object_of(raw) if isinstance(raw, (dict, list)) else {}


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dump(value: object) -> str:
    try:
        return json_text(value, "a detail")
    except BadReply as error:
        return f"({error.message})"


def _metadata(
    error: Mapping[str, Any], inner: Mapping[str, Any], details: Mapping[str, Any]
) -> dict[str, Any]:
    """What else helps to understand the error: short, scrubbed, safe to print."""
    found = {
        "param": error.get("param"),
        "type": error.get("type"),
        "provider_name": details.get("provider_name"),
        "reasons": details.get("reasons"),
        "content_filter_result": inner.get("content_filter_result"),
        "failed_generation": error.get("failed_generation"),  # Groq: what the model wrote instead
        "n_prompt_tokens": error.get("n_prompt_tokens"),  # llama.cpp
        "n_ctx": error.get("n_ctx"),
    }
    return {
        name: scrub(value if isinstance(value, str) else _dump(value), max_chars=_MAX_DETAIL_CHARS)
        for name, value in found.items()
        if value not in (None, "", [], {})
    }


def _retry_delay(details: object) -> float | None:
    """Google's ``RetryInfo`` in the body: seconds."""
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str):
            return parse_duration(delay)
    return None
