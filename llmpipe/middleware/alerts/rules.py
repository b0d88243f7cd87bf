"""Rules that fire at one sight: an error, an open circuit, a note, a resource that runs out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.alerts.alert import Severity, check_severity
from llmpipe.middleware.names import names
from llmpipe.middleware.numeric import check_numbers

__all__ = ("CircuitOpened", "ErrorSeen", "NoteSeen", "Reading", "ResourceUse", "Rule")


class Reading(NamedTuple):
    """How something is now: a line that says it, the number that was measured, and more."""

    summary: str
    value: float | None = None
    details: Mapping[str, Any] = {}


@frozen(kw_only=True)
class Rule:
    """What all rules have.

    Attributes:
        name: what its alerts are called; by default what it watches. Unique among the rules.
        severity: ``info``, ``warning``, ``error`` or ``critical``.
        repeat: seconds in which the same thing is not told again; None: what `Alerts` says.
    """

    name: str = ""
    severity: Severity = "error"
    repeat: float | None = None

    when: ClassVar[str] = ""

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"alert rule {self.when}:")
        if not self.name:
            object.__setattr__(self, "name", self.when)  # frozen: this is part of the construction
        check_severity(self.severity, f"alert rule {self.name}: severity")
        if self.repeat is not None and self.repeat <= 0:
            raise ConfigError(f"alert rule {self.name}: repeat is seconds above 0, not {self.repeat}")


@frozen(kw_only=True)
class ErrorSeen(Rule):
    """Fires when an attempt, or a call, fails with one of these errors. One alert for each provider.

    Attributes:
        types: `type` of the errors, such as ``AUTHENTICATION_ERROR``.
        quiet: seconds without another one after which it is taken to be over.
    """

    types: tuple[str, ...] = field(default=("AUTHENTICATION_ERROR",), converter=names)
    quiet: float = 600.0

    when: ClassVar[str] = "error"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if not self.types or not all(self.types):
            raise ConfigError(f'alert rule {self.name}: types lists error types, ("QUOTA_EXCEEDED",)')
        if self.quiet <= 0:
            raise ConfigError(f"alert rule {self.name}: quiet is seconds above 0, not {self.quiet}")


@frozen(kw_only=True)
class CircuitOpened(Rule):
    """Fires when a circuit opens or refuses a call; over when it is closed. One alert for each target."""

    severity: Severity = "critical"

    when: ClassVar[str] = "circuit_open"


@frozen(kw_only=True)
class NoteSeen(Rule):
    """Fires when a note of this kind is in a call's ledger, such as ``budget.alert``.

    Attributes:
        kind: of the note.
        key: fields of its detail that make up what the alert is about; none: all are one.
        resolved_by: kind of the note that ends it, with the same key.
        quiet: seconds without another one after which it is taken to be over, and told so; None: it is
            an event, which has no end.
    """

    kind: str = "budget.alert"
    key: tuple[str, ...] = field(default=(), converter=names)
    resolved_by: str = ""
    quiet: float | None = None

    when: ClassVar[str] = "note"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if not self.kind or self.kind == self.resolved_by:
            raise ConfigError(f"alert rule {self.name}: kind names a note, and not the one that resolves it")
        if self.quiet is not None and self.quiet <= 0:
            raise ConfigError(f"alert rule {self.name}: quiet is seconds above 0, or None, not {self.quiet}")


@frozen(kw_only=True)
class ResourceUse(Rule):
    """Fires while a resource of this machine or process is over a threshold.

    Attributes:
        resource: a field of `llmpipe.middleware.metrics.resources.Sample`: ``cpu`` and ``memory`` are
            shares of the machine's, ``process_cpu`` is processors in use, then ``rss_bytes``,
            ``descriptors``, ``threads``; or ``loop_lag``, seconds.
        above: what it may be.
        lasting: seconds for which it must have been over.
    """

    resource: str = "cpu"
    above: float = 0.8
    lasting: float = 60.0
    severity: Severity = "warning"

    when: ClassVar[str] = "resource"

    def __attrs_post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.resource)  # frozen: this is part of the construction
        super().__attrs_post_init__()
        if self.resource not in RESOURCES:
            raise ConfigError(
                f"alert rule {self.name}: resource is one of {', '.join(RESOURCES)}, not {self.resource!r}"
            )
        if self.lasting < 0:
            raise ConfigError(f"alert rule {self.name}: lasting is seconds, not {self.lasting}")


RESOURCES = ("cpu", "memory", "process_cpu", "rss_bytes", "descriptors", "threads", "loop_lag")
