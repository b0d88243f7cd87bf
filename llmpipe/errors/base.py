"""What every error carries, and the verdicts that strategies act on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("Billed", "ConfigError", "LLMError", "Rescue", "Verdict")

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

    def survived(self) -> None:
        """For who goes on in spite of this error: it lets go of the frames that it has passed.

        The ledger keeps it for as long as the call is kept, and those frames hold the reply that came
        after it, which could then not be told from one that is still being read.
        """
        behind: dict[int, BaseException] = {}  # a time limit's has the cancellation behind it, for one
        left: list[BaseException | None] = [self]
        while left:
            error = left.pop()
            if error is not None and id(error) not in behind:
                behind[id(error)] = error
                error.__traceback__ = None
                left += (error.__cause__, error.__context__)

    def __str__(self) -> str:
        where = "/".join(part for part in (self.provider, self.model) if part)
        return f"{where}: {self.message}" if where else self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r}, status={self.status})"


class ConfigError(ValueError):
    """A wrong argument or configuration: says what, where, and what would be right."""
