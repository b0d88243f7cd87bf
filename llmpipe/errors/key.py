"""What may not be done with this key: not at all, not for this money, not so fast."""

from __future__ import annotations

from typing import ClassVar

from llmpipe.errors.base import LLMError, Rescue

__all__ = ("AuthenticationFailed", "LimitReached", "PermissionDenied", "QuotaExceeded", "RateLimited")


class AuthenticationFailed(LLMError):
    """The provider does not accept the key."""

    type = "AUTHENTICATION_ERROR"
    wire_type = "authentication_error"
    default_status = 401
    default_rescue: ClassVar[Rescue] = "credential"


class PermissionDenied(AuthenticationFailed):
    """The key is valid and may not do this."""

    wire_type = "permission_error"
    default_status = 403


class QuotaExceeded(LLMError):
    """The account has no money or quota left; waiting a moment does not help."""

    type = "QUOTA_EXCEEDED"
    wire_type = "insufficient_quota"
    default_status = 429
    default_rescue: ClassVar[Rescue] = "credential"


class RateLimited(LLMError):
    """Too many requests or tokens a minute; the provider asks to wait."""

    type = "RATE_LIMIT"
    wire_type = "rate_limit_error"
    default_status = 429
    default_retryable = True
    default_rescue: ClassVar[Rescue] = "any"
    default_throttled = True


class LimitReached(RateLimited):
    """Our own limiter or queue refused; nothing was sent, `retry_after` is exact."""

    default_sent = False
    default_retryable = False
    default_throttled = False
