"""The chain itself ended the call: a breaker, a budget, a switch, a cache, a store, a reader who left."""

from __future__ import annotations

from typing import ClassVar

from llmpipe.errors.base import Billed, LLMError, Rescue

__all__ = (
    "BudgetExceeded",
    "CircuitOpen",
    "FeatureDisabled",
    "NotCached",
    "ReplyClosed",
    "StoreDamaged",
    "StoreUnavailable",
)


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


class StoreUnavailable(LLMError):
    """A store that the call depends on cannot be reached in time, and nothing may be done without it.

    Nothing was sent. No other target helps, for all of them depend on the store.
    """

    type = "STORE_UNAVAILABLE"
    wire_type = "service_unavailable"
    default_status = 503
    default_sent = False


class StoreDamaged(StoreUnavailable):
    """What is kept in a store is damaged, or was written by a newer version; nothing was changed in it."""

    type = "STORE_DAMAGED"


class ReplyClosed(LLMError):
    """The reply was closed while it was being read."""

    type = "CANCELLED"
    default_status = 499
    default_billed: ClassVar[Billed] = "unknown"
