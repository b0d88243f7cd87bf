"""One tree of errors, each carrying what a caller and every strategy acts on.

::

    LLMError                      anything that can end a call
    ├── InvalidRequest            the request is wrong; no retry can help            400
    │   ├── ContextTooLong        more tokens than the model takes                   400
    │   ├── RequestTooLarge       more bytes than the provider takes                 413
    │   ├── ModelNotFound         no such model, or not for this key                 404
    │   └── Unsupported           the target lacks what was asked; nothing was sent  400
    ├── ContentFiltered           refused by a content policy                        400
    ├── AuthenticationFailed      the key is wrong                                   401
    │   └── PermissionDenied      the key is right and may not do this               403
    ├── QuotaExceeded             the account's money or quota is used up            402/429
    ├── RateLimited               too fast; come back after ``retry_after``          429
    │   └── LimitReached          our own limiter says so; nothing was sent          429
    ├── Timeout                   something took longer than it may                  504
    │   ├── ConnectTimeout        no connection; nothing was sent
    │   ├── FirstTokenTimeout     nothing came back in time
    │   ├── IdleTimeout           the stream fell silent
    │   └── DeadlineExceeded      the whole call is out of time
    ├── ServiceUnavailable        the provider failed                                500/502/504
    │   └── Overloaded            the provider is out of capacity                    503/529
    ├── NetworkError              the connection failed                              502
    │   ├── ConnectFailed         no connection; nothing was sent
    │   └── StreamBroken          a reply ended before its end; ``partial`` has the rest
    ├── BadReply                  the provider's bytes are not what its protocol says 502
    ├── CircuitOpen               a breaker refused; nothing was sent                503
    ├── BudgetExceeded            a budget refused; nothing was sent                 402
    ├── FeatureDisabled           switched off by configuration; nothing was sent    403
    ├── ReplyClosed               the reply was closed by another task               499
    └── UnknownError              a failure nobody has classified                    500
    ConfigError (ValueError)      a wrong argument or file; raised at construction

An error is classified once, where it is born (a dialect, a transport, a middleware), and
carries its verdicts as fields. No strategy reads text or keeps a list of error classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = (
    "AuthenticationFailed",
    "BadReply",
    "BudgetExceeded",
    "CircuitOpen",
    "ConfigError",
    "ConnectFailed",
    "ConnectTimeout",
    "ContentFiltered",
    "ContextTooLong",
    "DeadlineExceeded",
    "FeatureDisabled",
    "FirstTokenTimeout",
    "IdleTimeout",
    "InvalidRequest",
    "LLMError",
    "LimitReached",
    "ModelNotFound",
    "NetworkError",
    "Overloaded",
    "PermissionDenied",
    "QuotaExceeded",
    "RateLimited",
    "ReplyClosed",
    "RequestTooLarge",
    "ServiceUnavailable",
    "StreamBroken",
    "Timeout",
    "UnknownError",
    "Unsupported",
)

Verdict = Literal["failure", "success", "ignore"]
Rescue = Literal["any", "context", "credential", "policy", "none"]
Billed = Literal["no", "yes", "unknown"]


class LLMError(Exception):
    """A call ended without its answer.

    Attributes:
        message: what happened and what to do next; never holds a secret.
        type: the stable name of the kind of failure, such as ``"RATE_LIMIT"``.
        status: HTTP status to answer with; the provider's own where it sent one. Also `status_code`.
        code: the provider's own code or error type, where it named one.
        provider, model, request_id: whose failure it is, where known.
        retryable: whether the same request to the same target can succeed later.
        health: how a breaker counts it: ``"failure"``, ``"success"`` (the provider works, the
            request was wrong) or ``"ignore"`` (says nothing about the provider's health).
        throttled: whether the provider asked us to slow down.
        rescue: which other target could help: ``"any"``, ``"context"`` (one with a larger
            context), ``"credential"`` (another key or account), ``"policy"`` (another model
            might answer, which must be asked for) or ``"none"``.
        sent: whether request bytes may have reached the provider.
        billed: whether the provider may charge for it: ``"no"``, ``"yes"`` or ``"unknown"``.
        retry_after: seconds to wait that the refusing side asked for, or None.
        phase: where it failed: ``"validate"``, ``"admit"``, ``"connect"``, ``"request"``,
            ``"headers"``, ``"body"``, ``"stream"``.
        attempt: which attempt of the call this was, from 1; 0 when none was made.
        partial: what had arrived of the reply, or None.
        metadata: anything more, safe to print.
    """

    type: ClassVar[str] = "UNKNOWN_ERROR"
    wire_type: ClassVar[str] = "api_error"
    default_status: ClassVar[int] = 500
    default_retryable: ClassVar[bool] = False
    default_health: ClassVar[Verdict] = "ignore"
    default_rescue: ClassVar[Rescue] = "none"
    default_sent: ClassVar[bool] = True
    default_billed: ClassVar[Billed] = "no"
    default_throttled: ClassVar[bool] = False

    def __init__(  # noqa: PLR0913  each is a verdict that some strategy reads
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        request_id: str | None = None,
        retryable: bool | None = None,
        health: Verdict | None = None,
        rescue: Rescue | None = None,
        sent: bool | None = None,
        billed: Billed | None = None,
        retry_after: float | None = None,
        phase: str | None = None,
        partial: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = self.default_status if status is None else status
        self.code = code
        self.provider = provider
        self.model = model
        self.request_id = request_id
        self.retryable = self.default_retryable if retryable is None else retryable
        self.health: Verdict = self.default_health if health is None else health
        self.rescue: Rescue = self.default_rescue if rescue is None else rescue
        self.sent = self.default_sent if sent is None else sent
        self.billed: Billed = self.default_billed if billed is None else billed
        self.throttled = self.default_throttled
        self.retry_after = retry_after
        self.phase = phase
        self.attempt = 0
        self.partial = partial
        self.metadata: dict[str, Any] = dict(metadata or {})

    @property
    def status_code(self) -> int:
        """The same as `status`."""
        return self.status

    def __str__(self) -> str:
        where = "/".join(part for part in (self.provider, self.model) if part)
        return f"{where}: {self.message}" if where else self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r}, status={self.status})"


class InvalidRequest(LLMError):
    """The request itself is wrong; sending it again changes nothing."""

    type = "INVALID_REQUEST"
    wire_type = "invalid_request_error"
    default_status = 400
    default_health: ClassVar[Verdict] = "success"


class ContextTooLong(InvalidRequest):
    """The prompt and the room asked for do not fit the model's context."""

    type = "CONTEXT_LENGTH"
    wire_type = "context_length_error"
    default_rescue: ClassVar[Rescue] = "context"


class RequestTooLarge(InvalidRequest):
    """The request has more bytes than the provider, or our own limit, takes."""

    default_status = 413


class ModelNotFound(InvalidRequest):
    """No such model, or not one this key may use."""

    type = "MODEL_NOT_FOUND"
    wire_type = "not_found_error"
    default_status = 404


class Unsupported(InvalidRequest):
    """The target cannot do what was asked; known, and said, before anything was sent."""

    default_sent = False
    default_health: ClassVar[Verdict] = "ignore"
    default_rescue: ClassVar[Rescue] = "any"


class ContentFiltered(LLMError):
    """A content policy refused the prompt or the answer."""

    type = "CONTENT_FILTER"
    wire_type = "content_filter_error"
    default_status = 400
    default_health: ClassVar[Verdict] = "success"
    default_rescue: ClassVar[Rescue] = "policy"
    default_billed: ClassVar[Billed] = "unknown"


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


class Timeout(LLMError):
    """Something took longer than it may."""

    type = "TIMEOUT"
    wire_type = "timeout_error"
    default_status = 504
    default_retryable = True
    default_health: ClassVar[Verdict] = "failure"
    default_rescue: ClassVar[Rescue] = "any"
    default_billed: ClassVar[Billed] = "unknown"


class ConnectTimeout(Timeout):
    """No connection within the connect timeout; nothing was sent."""

    default_sent = False
    default_billed: ClassVar[Billed] = "no"


class FirstTokenTimeout(Timeout):
    """The request was sent and no content came back in time."""


class IdleTimeout(Timeout):
    """The stream fell silent: no byte, not even a ping, for longer than it may."""


class DeadlineExceeded(Timeout):
    """The whole call is out of time. Says nothing about the provider."""

    default_retryable = False
    default_health: ClassVar[Verdict] = "ignore"
    default_rescue: ClassVar[Rescue] = "none"


class ServiceUnavailable(LLMError):
    """The provider failed to answer."""

    type = "SERVICE_UNAVAILABLE"
    wire_type = "service_unavailable"
    default_status = 502
    default_retryable = True
    default_health: ClassVar[Verdict] = "failure"
    default_rescue: ClassVar[Rescue] = "any"
    default_billed: ClassVar[Billed] = "unknown"


class Overloaded(ServiceUnavailable):
    """The provider has no capacity at the moment."""

    wire_type = "overloaded_error"
    default_status = 503
    default_billed: ClassVar[Billed] = "no"


class NetworkError(LLMError):
    """The connection failed on the way."""

    type = "NETWORK_ERROR"
    default_status = 502
    default_retryable = True
    default_health: ClassVar[Verdict] = "failure"
    default_rescue: ClassVar[Rescue] = "any"
    default_billed: ClassVar[Billed] = "unknown"


class ConnectFailed(NetworkError):
    """No connection could be made (DNS, TCP or TLS); nothing was sent."""

    default_sent = False
    default_billed: ClassVar[Billed] = "no"


class StreamBroken(NetworkError):
    """A reply ended before its protocol's end. Never taken for a success."""


class BadReply(LLMError):
    """The provider's bytes are not what its protocol says: not JSON, too large, no reply in it."""

    type = "SERVICE_UNAVAILABLE"
    wire_type = "service_unavailable"
    default_status = 502
    default_retryable = True
    default_health: ClassVar[Verdict] = "failure"
    default_rescue: ClassVar[Rescue] = "any"
    default_billed: ClassVar[Billed] = "unknown"


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


class ReplyClosed(LLMError):
    """The reply was closed while it was being read."""

    type = "CANCELLED"
    default_status = 499
    default_billed: ClassVar[Billed] = "unknown"


class UnknownError(LLMError):
    """A failure that could not be classified; its own words are in the message."""

    default_health: ClassVar[Verdict] = "failure"
    default_rescue: ClassVar[Rescue] = "any"
    default_billed: ClassVar[Billed] = "unknown"


class ConfigError(ValueError):
    """A wrong argument or configuration: says what, where, and what would be right."""
