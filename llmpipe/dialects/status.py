"""From an HTTP status and a provider's code to the error it means; shared by all dialects.

The status decides, except where a code is more exact than it: a 429 without money left is no
rate limit, a 400 can be the content filter's. Text decides nothing, with one exception that is
kept in one place: `says_context_too_long`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from llmpipe.dialects.headers import lower_case, request_id
from llmpipe.dialects.retry_after import parse_retry_after, should_retry
from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    RequestTooLarge,
    ServiceUnavailable,
)
from llmpipe.secret import scrub

__all__ = ("error_for_status", "says_context_too_long")

# Codes that are more exact than any status they come with. In lower case, "_" for "-" and " ".
_EXACT: dict[str, type[LLMError]] = {
    "context_length_exceeded": ContextTooLong,
    "context_window_exceeded": ContextTooLong,
    "context_length_error": ContextTooLong,
    "exceed_context_size_error": ContextTooLong,  # llama.cpp
    "model_context_window_exceeded": ContextTooLong,
    "prompt_too_long": ContextTooLong,
    "tokens_limit_reached": ContextTooLong,  # GitHub Models, with 413
    "1261": ContextTooLong,  # Z.AI
    "content_filter": ContentFiltered,
    "content_filter_error": ContentFiltered,
    "content_filtered": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "content_policy_violation_error": ContentFiltered,
    "responsibleaipolicyviolation": ContentFiltered,  # Azure, innererror.code
    "data_inspection_failed": ContentFiltered,  # DashScope
    "datainspectionfailed": ContentFiltered,
    "moderation_blocked": ContentFiltered,
    "1301": ContentFiltered,  # Z.AI
    "insufficient_quota": QuotaExceeded,
    "insufficient_credits": QuotaExceeded,
    "insufficient_balance": QuotaExceeded,
    "billing_error": QuotaExceeded,  # Anthropic
    "billing_hard_limit_reached": QuotaExceeded,
    "billing_not_active": QuotaExceeded,
    "exceeded_current_quota_error": QuotaExceeded,  # Moonshot
    "budget_exceeded": QuotaExceeded,  # our own gateway
    "payment_required": QuotaExceeded,
    "quota_exceeded": QuotaExceeded,
    "arrearage": QuotaExceeded,  # DashScope
    "1113": QuotaExceeded,  # Z.AI: in arrears, with 429
    "1304": QuotaExceeded,  # Z.AI: the day's calls
    "1308": QuotaExceeded,  # Z.AI: a plan's limit
    "1310": QuotaExceeded,  # Z.AI: the week's or month's limit
    "3036": QuotaExceeded,  # Cloudflare: the day's free allocation, with 429
    "model_not_found": ModelNotFound,
    "model_not_found_error": ModelNotFound,
    "model_decommissioned": ModelNotFound,  # Groq, with 400
    "deploymentnotfound": ModelNotFound,  # Azure
    "invalid_model": ModelNotFound,  # Mistral, with 400
    "unknown_model": ModelNotFound,
    "1211": ModelNotFound,  # Z.AI
    "3042": ModelNotFound,  # Cloudflare
    "5007": ModelNotFound,  # Cloudflare, with 400
    "invalid_api_key": AuthenticationFailed,
    "incorrect_api_key": AuthenticationFailed,
    "api_key_invalid": AuthenticationFailed,  # Google, with 400
    "overloaded_error": Overloaded,  # Anthropic
    "engine_overloaded": Overloaded,
    "engine_overloaded_error": Overloaded,  # Moonshot, with 429
    "server_overloaded": Overloaded,
    "3040": Overloaded,  # Cloudflare: out of capacity, with 429
}

# Codes and types that say less than a status; they decide where there is none (an error inside
# a 200 or a stream). OpenAI sends type invalid_request_error with 401, 403 and 404 too, and Groq
# code rate_limit_exceeded with 413, so with a status they must not.
_VAGUE: dict[str, int] = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "bad_request": 400,
    "badrequest": 400,
    "invalid_argument": 400,
    "badrequesterror": 400,  # vLLM
    "validation_error": 400,
    "unsupported_value": 400,
    "unsupported_parameter": 400,
    "authentication_error": 401,
    "unauthorized": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "forbidden": 403,
    "not_found_error": 404,
    "not_found": 404,
    "request_too_large": 413,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limited": 429,
    "rate_limit_reached_error": 429,
    "ratelimitreached": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "server_error": 500,
    "internal_server_error": 500,
    "internalservererror": 500,
    "internal_error": 500,
    "internal": 500,
    "api_error": 500,
    "upstream_error": 502,
    "service_unavailable": 502,
    "unavailable": 503,
    "slow_down": 503,  # OpenAI
    "timeout_error": 504,
    "timeout": 504,
    "deadline_exceeded": 504,
}

_BY_STATUS: dict[int, type[LLMError]] = {
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: PermissionDenied,
    404: ModelNotFound,
    # 408, 409, 425: the provider's own timeouts and conflicts. The request is right, so it may be
    # sent again (both SDKs do); 424 is how gateways report the failure of what stands behind them.
    408: ServiceUnavailable,
    409: ServiceUnavailable,
    410: ModelNotFound,
    413: RequestTooLarge,
    414: RequestTooLarge,
    424: ServiceUnavailable,
    425: ServiceUnavailable,
    429: RateLimited,
    431: RequestTooLarge,
    451: PermissionDenied,
    503: Overloaded,
    529: Overloaded,
}

# What OpenAI-compatible servers say without any code, where a prompt is too long: Ollama, vLLM,
# TGI, xAI, Together, Mistral, DeepSeek, Gemini's compatible endpoint, and Anthropic. All other
# decisions are made by status and code; this one cannot be, and rescue by a model with a larger
# context hangs on it.
_TOO_LONG = (
    "context length",
    "context window",
    "context size",
    "context limit",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "maximum prompt length",
    "maximum number of tokens allowed",
    "`max_new_tokens` must be <=",
)


_STATUS = re.compile("[45][0-9][0-9]")


def error_for_status(
    status: int | None,
    *,
    codes: tuple[object, ...] = (),
    message: str = "",
    headers: Mapping[str, str] | None = None,
    now: float | None = None,
    phase: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    retry_after: float | None = None,
) -> LLMError:
    """The classified error of a reply that is none.

    Args:
        status: the HTTP status, or the one an error inside a 200 or a stream carries; None where
            it carries none, so that the codes alone decide.
        codes: what the provider calls it, most exact first (code, inner code, type); None,
            numbers and strings are all right.
        message: the provider's own words; scrubbed here.
        headers: for retry hints and the request id.
        now: Unix time, for retry hints where the response has no ``Date``.
        phase: where it failed, see `LLMError`.
        metadata: what else is worth keeping; must be safe to print.
        retry_after: seconds a body asks to wait; the larger of it and the headers' hint is taken.
    """
    low = lower_case(headers or {})
    words = [str(code) for code in codes if code is not None and code != ""]
    names = [word.strip().lower().replace("-", "_").replace(" ", "_") for word in words]
    message = scrub(message.strip())
    if status is not None and 300 <= status < 400:
        return _redirected(status, low, phase)
    if status is None or status < 400:
        told = next((int(name) for name in names if _STATUS.fullmatch(name)), None)
        status = told or next((_VAGUE[name] for name in names if name in _VAGUE), status)

    kind = next((_EXACT[name] for name in names if name in _EXACT), None) or _by_status(status)
    if kind in (InvalidRequest, RequestTooLarge) and says_context_too_long(message):
        kind = ContextTooLong
    hints = [
        hint for hint in (parse_retry_after(low, status=status, now=now), retry_after) if hint is not None
    ]
    told_to_retry = should_retry(low)
    if status == 501 and told_to_retry is None:
        told_to_retry = False
    return kind(
        message
        or f"the provider {f'answered with status {status}' if status else 'failed'} and gave no message",
        status=status if status is not None and 400 <= status < 600 else None,
        code=next((word for word in words if not word.isdecimal()), words[0] if words else None),
        request_id=request_id(low),
        retryable=told_to_retry,
        retry_after=max(hints, default=None),
        phase=phase,
        metadata=metadata,
        # Whatever was answered before an error inside a stream was work, and may be on the bill.
        billed="unknown" if phase == "stream" else None,
    )


def says_context_too_long(message: str) -> bool:
    """Whether a message without a code says that the prompt does not fit the model's context."""
    message = message.lower()
    return any(phrase in message for phrase in _TOO_LONG)


def _by_status(status: int | None) -> type[LLMError]:
    if status is None:
        return ServiceUnavailable  # it failed to answer, and does not say why
    if status < 400 or status >= 600:
        return BadReply  # not an answer the protocol knows: 204, 206, 999
    return _BY_STATUS.get(status) or (InvalidRequest if status < 500 else ServiceUnavailable)


def _redirected(status: int, low: Mapping[str, str], phase: str | None) -> BadReply:
    """A 3xx is never followed: that would carry the key to a host nobody chose. Names the host only."""
    try:
        host = urlsplit(low.get("location", "")).hostname
    except ValueError:  # such as "http://[": not an address at all
        host = None
    return BadReply(
        f"the provider answered with status {status}, a redirect to "
        f"{scrub(host, max_chars=255) if host else 'no other host'}; redirects are not followed. "
        f"Set base_url to the final address",
        status=status,
        code="redirect",
        retryable=False,
        billed="no",
        request_id=request_id(low),
        retry_after=parse_retry_after(low, status=status),
        phase=phase,
    )
