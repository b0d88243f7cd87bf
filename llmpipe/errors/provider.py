"""The provider, or the way to it, failed."""

from __future__ import annotations

from typing import ClassVar

from llmpipe.errors.base import Billed, LLMError, Rescue, Verdict

__all__ = (
    "BadReply",
    "ConnectFailed",
    "ConnectTimeout",
    "DeadlineExceeded",
    "FirstTokenTimeout",
    "IdleTimeout",
    "NetworkError",
    "Overloaded",
    "ServiceUnavailable",
    "StreamBroken",
    "Timeout",
    "UnknownError",
)


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


class UnknownError(LLMError):
    """A failure that could not be classified; its own words are in the message."""

    default_health: ClassVar[Verdict] = "failure"
    default_rescue: ClassVar[Rescue] = "any"
    default_billed: ClassVar[Billed] = "unknown"
