"""Errors of Google's APIs, both directions: ``google.rpc.Status``, and what its details tell.

Sources: https://cloud.google.com/apis/design/errors; google.rpc's ``error_details.proto``;
https://ai.google.dev/gemini-api/docs/troubleshooting
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llmpipe.dialects.jsonbody import excerpt
from llmpipe.dialects.problem import codes_of, message_of, object_of
from llmpipe.dialects.retry_after import MAX_WAIT, parse_duration
from llmpipe.dialects.status import error_for_status
from llmpipe.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    Timeout,
)
from llmpipe.secret import scrub

__all__ = ("decode_error", "encode_error", "error_body", "error_in")

_TYPE = "type.googleapis.com/google.rpc."
# Of these the request is right and the service gave up, though 499 looks like the caller's doing.
_GIVEN_UP = {"CANCELLED": 408, "ABORTED": 409}
_STATUS_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
# What an error is in one word, for `ErrorInfo`; most exact first.
_REASONS: tuple[tuple[type[LLMError], str], ...] = (
    (ContextTooLong, "context_length_exceeded"),
    (ContentFiltered, "content_filter"),
    (ModelNotFound, "model_not_found"),
    (QuotaExceeded, "insufficient_quota"),
    (BudgetExceeded, "budget_exceeded"),
    (RateLimited, "rate_limit_exceeded"),
    (PermissionDenied, "permission_denied"),
    (AuthenticationFailed, "API_KEY_INVALID"),
    (Overloaded, "overloaded_error"),
    (Timeout, "timeout"),
    (InvalidRequest, "invalid_request"),
)


def decode_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
) -> LLMError:
    """The classified error of a reply whose status is not 200, whatever its body is. Never raises.

    A 429 for a day's quota, or for one of nothing (the free tier of a model that has none), is
    QuotaExceeded: the delay that comes with it is the minute's. A 400 for a key is AuthenticationFailed.
    """
    try:
        wire = orjson.loads(body)
    except orjson.JSONDecodeError:
        message = excerpt(body, max_chars=512)
        return error_for_status(status, message=message, headers=headers, now=now, phase="headers")
    return _classify(wire, status, headers, now=now, phase="headers")


def error_in(wire: object, *, headers: Mapping[str, str] | None = None, phase: str) -> LLMError:
    """The classified error that stands where a reply should: in a 200, or in a stream."""
    return _classify(wire, None, headers, now=None, phase=phase)


def _classify(
    wire: object, status: int | None, headers: Mapping[str, str] | None, *, now: float | None, phase: str
) -> LLMError:
    error = object_of(wire)
    word = error.get("status")
    violations = list(_violations(error))
    lasting = any(_lasts(one) for one in violations)
    codes = codes_of(error)
    if lasting:
        codes.insert(0, "quota_exceeded")
    given_up = _GIVEN_UP.get(word) if isinstance(word, str) and (status or 499) == 499 else None
    result = error_for_status(
        given_up or status,
        codes=() if given_up else tuple(codes),
        message=message_of(error),
        headers=headers,
        now=now,
        phase=phase,
        metadata=_metadata(violations),
        retry_after=None if lasting else _retry_delay(error),
    )
    if given_up:
        result.status = 499
    if named := next((one for one in codes_of(error) if isinstance(one, str) and not one.isdecimal()), None):
        result.code = named
    if word == "FAILED_PRECONDITION" and type(result) is InvalidRequest:
        result.rescue = "any"  # a country without a free tier, a model that is not enabled: not the request
    return result


def encode_error(error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and JSON body of an error, as Google would send it."""
    status = _status(error)
    headers: dict[str, str] = {}
    if (delay := _delay(error)) is not None:
        headers["retry-after"] = str(math.ceil(delay))
    return status, headers, error_body(error)


def error_body(error: LLMError) -> dict[str, Any]:
    """``{"error": {…}}``, the same in a body and in a stream."""
    status = _status(error)
    reason = next((word for kind, word in _REASONS if isinstance(error, kind)), error.type.lower())
    info: dict[str, Any] = {"@type": f"{_TYPE}ErrorInfo", "reason": reason, "domain": "llmpipe"}
    known = {"code": error.code, "param": error.metadata.get("param")}
    if found := {name: scrub(str(value)) for name, value in known.items() if value is not None}:
        info["metadata"] = found
    details = [info]
    if (delay := _delay(error)) is not None:
        details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{delay:.9g}s"})
    return {
        "error": {
            "code": status,
            "message": scrub(error.message),
            "status": _STATUS_WORDS.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL"),
            "details": details,
        }
    }


def _status(error: LLMError) -> int:
    """Its own, but for those above 499 that Google does not have: its SDK repeats only what it knows."""
    known = 400 <= error.status < 500 or error.status in _STATUS_WORDS
    return error.status if known else error.default_status


def _delay(error: LLMError) -> float | None:
    after = error.retry_after
    return min(after, MAX_WAIT) if after is not None and math.isfinite(after) and after >= 0 else None


def _details(error: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type")).endswith(kind):
            yield detail


def _violations(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for failure in _details(error, "QuotaFailure"):
        found = failure.get("violations")
        for one in found if isinstance(found, list) else ():
            if isinstance(one, Mapping):
                yield one


def _lasts(violation: Mapping[str, Any]) -> bool:
    """Whether waiting a minute does not help: ``GenerateRequestsPerDayPerProjectPerModel-FreeTier``."""
    return "PerDay" in str(violation.get("quotaId")) or str(violation.get("quotaValue")) == "0"


def _retry_delay(error: Mapping[str, Any]) -> float | None:
    """Seconds that ``RetryInfo`` asks to wait."""
    for info in _details(error, "RetryInfo"):
        delay = info.get("retryDelay")
        seconds = parse_duration(delay) if isinstance(delay, str) else None
        if seconds is not None:
            return min(seconds, MAX_WAIT)
    return None


def _metadata(violations: list[Mapping[str, Any]]) -> dict[str, Any]:
    quotas = [str(one.get("quotaId") or one.get("subject")) for one in violations]
    return {"quotas": scrub(", ".join(quotas), max_chars=500)} if quotas else {}
