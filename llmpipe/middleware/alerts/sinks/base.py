"""What a sink is, and how it says that it failed."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from llmpipe.middleware.alerts.alert import Alert, Severity

__all__ = ("Sink", "Undelivered")


@runtime_checkable
class Sink(Protocol):
    """Takes alerts somewhere. Each has a queue of its own, so one that hangs delays no other."""

    @property
    def name(self) -> str:
        """Unique among the sinks; used in figures and in the log. Never a secret."""
        ...

    @property
    def at_least(self) -> Severity:
        """The mildest severity it is given."""
        ...

    async def send(self, alert: Alert) -> None:
        """Deliver `alert`, or raise. It is cancelled when it takes too long."""
        ...


class Undelivered(Exception):
    """A sink did not take an alert. Its text is logged, so it never holds an address or a key.

    Attributes:
        retryable: whether it may take it later.
        retry_after: seconds that it asked to wait, or None.
    """

    def __init__(self, message: str, *, retryable: bool = True, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after = retry_after
