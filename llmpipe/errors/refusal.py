"""The chain itself ended the call: a breaker, a budget, a switch, a cache, a reader who left."""

from __future__ import annotations

from typing import ClassVar

from llmpipe.errors.base import Billed, LLMError, Rescue

__all__ = ("BudgetExceeded", "CircuitOpen", "FeatureDisabled", "NotCached", "ReplyClosed")


class CircuitOpen(LLMError):
    """A breaker refused the call, because the provider has been failing; nothing was sent."""

    type = "CIRCUIT_OPEN"
    wire_type = "service_unavailable"
    default_status = 503
    default_rescue: ClassVar[Rescue] = "any"
    default_sent = False


class BudgetExceeded(LLMError):
    """A budget refused the call; nothing was sent."""

    type = "BUDGET_EXCEEDED"
    wire_type = "budget_exceeded"
    default_status = 402
    default_sent = False
    default_rescue: ClassVar[Rescue] = "any"


class FeatureDisabled(LLMError):
    """The feature is switched off by configuration; nothing was sent."""

    type = "FEATURE_DISABLED"
    wire_type = "invalid_request_error"
    default_status = 403
    default_sent = False


class NotCached(LLMError, LookupError):
    """The call was to be answered from the cache only, and the answer is not there; nothing was sent."""

    type = "NOT_CACHED"
    wire_type = "not_cached"
    default_status = 504  # RFC 9111, 5.2.1.7
    default_sent = False


class ReplyClosed(LLMError):
    """The reply was closed while it was being read."""

    type = "CANCELLED"
    default_status = 499
    default_billed: ClassVar[Billed] = "unknown"
