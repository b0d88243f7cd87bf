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

from llmpipe.dialects.codes import BY_STATUS, EXACT, TOO_LONG, VAGUE
from llmpipe.dialects.headers import lower_case, request_id
from llmpipe.dialects.retry_after import parse_retry_after, should_retry
from llmpipe.errors import (
    BadReply,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    RequestTooLarge,
    ServiceUnavailable,
)
from llmpipe.secret import scrub

__all__ = ("error_for_status", "says_context_too_long")

_STATUS = re.compile("[45][0-9][0-9]")
# What some say where they have no code; LiteLLM's proxy writes Python's None.
_NO_CODE = frozenset(("", "about:blank", "error", "none", "null"))


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
    words = [
        word for code in codes if code is not None and (word := str(code).strip()).lower() not in _NO_CODE
    ]
    names = [word.lower().replace("-", "_").replace(" ", "_") for word in words]
    names += [name.partition(".")[0] for name in names if "." in name]  # Throttling.RateQuota
    message = scrub(message.strip())
    if status is not None and 300 <= status < 400:
        return _redirected(status, low, phase)
    if status is None or status < 400:
        told = next((int(name) for name in names if _STATUS.fullmatch(name)), None)
        status = told or next((VAGUE[name] for name in names if name in VAGUE), status)

    kind = next((EXACT[name] for name in names if name in EXACT), None) or _by_status(status)
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
    return any(phrase in message for phrase in TOO_LONG)


def _by_status(status: int | None) -> type[LLMError]:
    if status is None:
        return ServiceUnavailable  # it failed to answer, and does not say why
    if status < 400 or status >= 600:
        return BadReply  # not an answer the protocol knows: 204, 206, 999
    return BY_STATUS.get(status) or (InvalidRequest if status < 500 else ServiceUnavailable)


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
