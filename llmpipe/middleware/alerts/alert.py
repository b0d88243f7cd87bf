"""What an alert says: the same for every sink."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from attrs import Factory, frozen

from llmpipe.errors import ConfigError

__all__ = ("Alert", "SEVERITIES", "Severity", "check_severity", "span", "stamp")

Severity = Literal["info", "warning", "error", "critical"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""Mildest first."""


@frozen(kw_only=True)
class Alert:
    """One notice: that something is wrong, still is, or is right again.

    Attributes:
        rule: the name of the rule that raised it.
        key: what it is about: a provider, ``provider/model``, a tenant, a budget; ``all``.
        severity: ``info``, ``warning``, ``error`` or ``critical``.
        state: ``firing`` or ``resolved``.
        summary: one line, without credentials or personal data: what is wrong, or how it is now that it is
            over, and how long it lasted.
        was: what the last firing notice said, in a resolved one; else ``""``.
        value, limit: what was measured and what it may be, where there is a number.
        at, since: seconds of the wall clock: of this notice, and since when it has been wrong, or was.
        count: how often it was seen since the last notice.
        details: more, as plain JSON.
    """

    rule: str
    key: str
    severity: Severity
    state: Literal["firing", "resolved"] = "firing"
    summary: str
    was: str = ""
    value: float | None = None
    limit: float | None = None
    at: float = 0.0
    since: float = 0.0
    count: int = 1
    details: Mapping[str, Any] = Factory(dict)

    @property
    def id(self) -> str:
        """The same for all notices of one trouble: what sinks tell apart by."""
        return f"{self.rule}:{self.key}"

    @property
    def rank(self) -> int:
        """How bad: 0 for ``info`` to 3 for ``critical``."""
        return SEVERITIES.index(self.severity)

    @property
    def lasted(self) -> float:
        """For how many seconds it has been wrong, or was."""
        return max(0.0, self.at - self.since)  # a clock may be set back

    def json(self, source: str) -> dict[str, Any]:
        """Plain JSON, with times as RFC 3339."""
        return {
            "id": self.id,
            "source": source,
            "rule": self.rule,
            "key": self.key,
            "severity": self.severity,
            "state": self.state,
            "summary": self.summary,
            "was": self.was,
            "value": self.value,
            "limit": self.limit,
            "count": self.count,
            "at": stamp(self.at),
            "since": stamp(self.since),
            "lasted": round(self.lasted, 3),
            "details": dict(self.details),
        }


def stamp(seconds: float) -> str:
    """Seconds of the wall clock as RFC 3339, UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def span(seconds: float) -> str:
    """A length of time for people, to its two largest units: ``5 min 3 s``, ``2 d 4 h``; none below 0."""
    left = round(max(0.0, seconds))  # a clock may be set back
    parts = []
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, left = divmod(left, length)
        parts.append((number, unit))
    first = next((at for at, (number, _) in enumerate(parts) if number), len(parts) - 1)
    told = [f"{number} {unit}" for number, unit in parts[first : first + 2] if number]
    return " ".join(told) or "0 s"


def check_severity(severity: object, where: str) -> None:
    """Raises: ConfigError, which begins with `where`, for a word that is no severity."""
    if severity not in SEVERITIES:
        raise ConfigError(f"{where} is {', '.join(SEVERITIES[:-1])} or {SEVERITIES[-1]}, not {severity!r}")
