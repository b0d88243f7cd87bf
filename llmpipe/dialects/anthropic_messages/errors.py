"""Errors of the wire, both directions: of a status, inside a 200, inside a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects.headers import lower_case
from llmpipe.dialects.jsonbody import excerpt
from llmpipe.dialects.problem import codes_of, message_of, object_of
from llmpipe.dialects.status import error_for_status, says_context_too_long
from llmpipe.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    CircuitOpen,
    ContentFiltered,
    ContextTooLong,
    FeatureDisabled,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    ReplyClosed,
    RequestTooLarge,
    Timeout,
)
from llmpipe.secret import scrub

__all__ = ("decode_error", "encode_error", "error_body", "error_in_body")

# The one table of texts. Anthropic sends all of these as a plain invalid_request_error with 400,
# and neither type nor status nor code tells them from a malformed request; but another account,
# or another model, can answer them. (A prompt that is too long is the case `status` knows.)
_TEXTS = {
    "credit balance is too low": "insufficient_quota",
    "specified api usage limits": "insufficient_quota",
    "specified workspace api usage limits": "insufficient_quota",
    "blocked by content filtering policy": "content_filter",
}

# Most exact first. Statuses and types are those of https://platform.claude.com/docs/en/api/errors
_WIRE: tuple[tuple[type[LLMError] | tuple[type[LLMError], ...], int, str], ...] = (
    (RequestTooLarge, 413, "request_too_large"),
    (ModelNotFound, 404, "not_found_error"),
    ((InvalidRequest, ContentFiltered), 400, "invalid_request_error"),
    ((PermissionDenied, FeatureDisabled), 403, "permission_error"),
    (AuthenticationFailed, 401, "authentication_error"),
    ((QuotaExceeded, BudgetExceeded), 402, "billing_error"),
    (RateLimited, 429, "rate_limit_error"),
    (Timeout, 504, "timeout_error"),
    ((Overloaded, CircuitOpen), 529, "overloaded_error"),
    (ReplyClosed, 499, "api_error"),
)


def decode_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> LLMError:
    """The classified error of a reply that is not a success, whatever its body is. Never raises.

    Besides Anthropic's own shape it reads those of the places that serve Claude too: Google's
    ``{"error": {code, message, status}}``, also in a list, Azure's ``{"error": {code, message}}``,
    AWS's ``{"message": …}`` with the type in ``x-amzn-errortype``.

    Args: now is the Unix time for retry hints where the response has no ``Date``.
    """
    parsed = _parse(body)
    if parsed is None:
        message = excerpt(body, max_chars=512)
        return error_for_status(status, message=message, headers=headers, now=now, phase="headers")
    return _classify(status, parsed, headers, phase="headers", now=now)


def _parse(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`, also as the first of a list or as the data of a stream's event."""
    if body.startswith((b"event:", b"data:")):
        lines = body.split(b"\n")
        body = next((line[5:] for line in lines if line.startswith(b"data:")), b"")
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    return parsed if isinstance(parsed, dict) else None


def error_in_body(
    body: Mapping[str, Any], headers: Mapping[str, str] | None = None, *, phase: str = "body"
) -> LLMError:
    """The classified error that a 200, or an event of its stream, turned out to be."""
    return _classify(None, body, headers or {}, phase=phase)


def _classify(
    status: int | None,
    body: Mapping[str, Any],
    headers: Mapping[str, str],
    *,
    phase: str,
    now: float | None = None,
) -> LLMError:
    error = object_of(body)
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, Mapping) else None
    said = message_of(error)
    codes: list[object] = [code, *codes_of(error)]
    codes.append(lower_case(headers).get("x-amzn-errortype", "").partition(":")[0])
    codes = [one for one in codes if one and one != "error"]
    exact = _by_text(said, status)
    result = error_for_status(
        status,
        codes=(exact, *codes) if exact else tuple(codes),
        message=said,
        headers=headers,
        now=now,
        phase=phase,
    )
    named = next((one for one in codes if isinstance(one, str)), None)
    if named is not None:
        result.code = named
    if result.request_id is None and isinstance(body.get("request_id"), str):
        result.request_id = body["request_id"]
    return result


def _by_text(message: str, status: int | None) -> str | None:
    if status not in (None, 400):
        return None
    low = message.lower()
    return next((code for text, code in _TEXTS.items() if text in low), None)


def encode_error(error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers (`retry-after` in whole seconds, `request-id`) and JSON body of `error`.

    The status is the one this API has for such a failure, not the one another provider sent;
    failures it has no word for keep their own 5xx, or are a 500 ``api_error``.
    """
    status, _ = _status_and_type(error)
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(math.ceil(error.retry_after), 0))
    if error.request_id is not None:
        headers["request-id"] = error.request_id
    return status, headers, error_body(error)


def error_body(error: LLMError) -> dict[str, Any]:
    """``{"type": "error", …}``: the body of an error reply, and the data of an ``error`` event."""
    _, kind = _status_and_type(error)
    message = scrub(error.message)
    code = error.code
    if isinstance(error, ContextTooLong):
        code = code or "context_length_exceeded"
        if not says_context_too_long(message):
            # Clients of this API know the case by these words; there is no type for it.
            message = f"prompt is too long: {message}"
    elif isinstance(error, ContentFiltered):
        code = code or "content_filter"
    wire: dict[str, Any] = {"type": kind, "message": message}
    if code is not None and code != kind:
        wire["details"] = {"error_code": code}
    return {"type": "error", "error": wire, "request_id": error.request_id}


def _status_and_type(error: LLMError) -> tuple[int, str]:
    for classes, status, kind in _WIRE:
        if isinstance(error, classes):
            return status, kind
    return (error.status if 500 <= error.status < 600 else 500), "api_error"
