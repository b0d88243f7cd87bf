"""A closed vocabulary of failures: few words, whose they are first, that a dashboard can be built on.

`LLMError.type` says what happened; this says who should look: the caller, a policy of ours, the provider
or llmpipe itself. The same word stands on metrics (label ``error_type``) and spans
(``llmpipe.error_type``). ``_OTHER`` is what nobody has classified: worth an alarm.

Source: the closed set of Bifrost's gateway, with ``policy_content_blocked`` added.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

__all__ = ("ERROR_TYPES", "error_type_of")

OTHER = "_OTHER"

_BY_CLASS: Mapping[str, str] = {
    "AuthenticationFailed": "provider_auth_failed",
    "BadReply": "provider_server_error",
    "BudgetExceeded": "policy_budget_exceeded",
    "CancelledError": "caller_cancelled",
    "CircuitOpen": "llmpipe_dropped",
    "ConnectTimeout": "provider_connection_failed",
    "ContentFiltered": "policy_content_blocked",
    "Exception": "llmpipe_internal",
    "FeatureDisabled": "policy_access_denied",
    "GeneratorExit": "caller_cancelled",
    "InvalidRequest": "caller_invalid_request",
    "LLMError": OTHER,
    "LimitReached": "policy_rate_limited",
    "ModelNotFound": "caller_model_unknown",
    "NetworkError": "provider_connection_failed",
    "NotCached": "llmpipe_dropped",
    "Overloaded": "provider_overloaded",
    "QuotaExceeded": "provider_billing",
    "RateLimited": "provider_rate_limited",
    "ReplyClosed": "caller_cancelled",
    "ServiceUnavailable": "provider_server_error",
    "StoreUnavailable": "llmpipe_internal",
    "Timeout": "provider_timeout",
    "UnknownError": OTHER,
    "Unsupported": "caller_model_not_available",
}

ERROR_TYPES = frozenset(_BY_CLASS.values())
"""All words there are."""


def error_type_of(error: BaseException) -> str:
    """The word for `error`; a subclass that nobody named has that of what it is derived from."""
    kind: Any = type(error)
    return _word_of(kind)


@lru_cache(maxsize=256)
def _word_of(kind: type[BaseException]) -> str:
    return next((_BY_CLASS[base.__name__] for base in kind.__mro__ if base.__name__ in _BY_CLASS), OTHER)
