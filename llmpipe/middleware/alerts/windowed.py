"""Rules over a sliding window: share of failures, latency, money."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from math import inf
from typing import Any, ClassVar, Literal

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.alerts.alert import Severity
from llmpipe.middleware.alerts.rules import Reading, Rule

__all__ = ("CostRate", "Counts", "ErrorRate", "Latency", "Windowed")

Counts = tuple[int, int, float]
"""Of a window: calls, the bad ones among them, and what is summed."""

_GROUPS = ("all", "provider", "target", "tenant")


@frozen(kw_only=True)
class Windowed(Rule, ABC):
    """What rules over a window have.

    Attributes:
        above: what the measured may be; it fires beyond.
        window: seconds. It is kept in steps, so it covers up to a twentieth more.
        minimum: calls in the window below which nothing is judged.
        per: what is counted together: ``provider``, ``target`` (provider and model asked), ``tenant``
            or ``all``.
    """

    above: float = 1.0
    window: float = 300.0
    minimum: int = 20
    per: Literal["all", "provider", "target", "tenant"] = "provider"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.above <= 0 or self.window <= 0 or self.minimum < 1:
            raise ConfigError(
                f"alert rule {self.name}: above is above 0, window seconds above 0, minimum counts from 1"
            )
        if self.per not in _GROUPS:
            raise ConfigError(f"alert rule {self.name}: per is one of {', '.join(_GROUPS)}, not {self.per!r}")

    def counts_as(self, other: Windowed) -> bool:
        """Whether it counts what `other` does, whatever it makes of that."""
        return type(self) is type(other) and self.per == other.per

    @property
    def trip(self) -> float:
        """What the sum of a window may grow to before somebody looks."""
        return inf

    @abstractmethod
    def judge(self, window: Counts) -> float | None:
        """What was measured, if it is over; else None."""

    @abstractmethod
    def measured(self, window: Counts) -> float:
        """What was measured, of a window in which there was something."""

    @abstractmethod
    def says(self, key: str, window: Counts, value: float) -> tuple[str, dict[str, Any]]:
        """How it is, and more of it."""

    @property
    @abstractmethod
    def limit(self) -> str:
        """What is allowed, in words."""

    def told(self, key: str, window: Counts, value: float) -> tuple[str, dict[str, Any]]:
        """The summary of an alert, and its details."""
        summary, details = self.says(key, window, value)
        return f"{summary}, more than {self.limit}", details

    def now(self, key: str, window: Counts) -> Reading:
        """How it is, over or not."""
        if not window[0]:
            return Reading(f"{key}: no attempts in {self.window:g} s", None, {"attempts": 0})
        value = self.measured(window)
        summary, details = self.says(key, window, value)
        return Reading(summary, value, details)


@frozen(kw_only=True)
class ErrorRate(Windowed):
    """Fires when more than a share of the attempts fail; `Alerts.degraded` then names the provider.

    What the caller's own request was the reason for (`error.health` says so) is no failure here, and
    what was cancelled or abandoned says nothing.
    """

    above: float = 0.1

    when: ClassVar[str] = "error_rate"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.above >= 1:
            raise ConfigError(f"alert rule {self.name}: above is a share below 1, not {self.above}")

    def judge(self, window: Counts) -> float | None:
        """The share of failures, if it is over."""
        calls, bad, _ = window
        return bad / calls if calls >= self.minimum and bad > self.above * calls else None

    def measured(self, window: Counts) -> float:
        """The share of failures."""
        return window[1] / window[0]

    def says(self, key: str, window: Counts, value: float) -> tuple[str, dict[str, Any]]:
        """How many of how many failed."""
        calls, bad, _ = window
        summary = f"{key}: {value:.1%} of {calls} attempts failed in {self.window:g} s"
        return summary, {"attempts": calls, "failed": bad}

    @property
    def limit(self) -> str:
        """A share."""
        return f"{self.above:.1%}"


@frozen(kw_only=True)
class Latency(Windowed):
    """Fires when attempts take too long to their first content; a full reply is its own first content.

    Attributes:
        above: seconds.
        statistic: ``mean``, or a percentile such as ``p95``. That one is exact: the 95th percentile is
            over a threshold when more than 5 % of the attempts are.
    """

    above: float = 5.0
    statistic: str = "p95"
    severity: Severity = "warning"

    when: ClassVar[str] = "latency"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.statistic != "mean" and not re.fullmatch(r"p[1-9]\d?", self.statistic):
            raise ConfigError(f"alert rule {self.name}: statistic is mean, or p1 to p99: {self.statistic!r}")

    def counts_as(self, other: Windowed) -> bool:
        """Whether it counts the same: how many are slow, it knows by its own threshold only."""
        if not isinstance(other, Latency) or not super().counts_as(other):
            return False
        return (self.above, self.statistic) == (other.above, other.statistic)

    def judge(self, window: Counts) -> float | None:
        """The mean in seconds, or the share of attempts that took longer, if it is over."""
        calls, slow, seconds = window
        if calls < self.minimum:
            return None
        if self.statistic == "mean":
            return seconds / calls if seconds > self.above * calls else None
        return slow / calls if 100 * slow > (100 - int(self.statistic[1:])) * calls else None

    def measured(self, window: Counts) -> float:
        """The mean in seconds, or the share of attempts that took longer."""
        calls, slow, seconds = window
        return (seconds if self.statistic == "mean" else slow) / calls

    def says(self, key: str, window: Counts, value: float) -> tuple[str, dict[str, Any]]:
        """How slow how many were."""
        calls, slow, _ = window
        if self.statistic == "mean":
            summary = f"{key}: {value:.2f} s on average of {calls} attempts in {self.window:g} s"
        else:
            summary = (
                f"{key}: {value:.1%} of {calls} attempts in {self.window:g} s took over {self.above:g} s"
            )
        return summary, {"attempts": calls, "slow": slow}

    @property
    def limit(self) -> str:
        """Seconds, or the share that may take longer."""
        if self.statistic == "mean":
            return f"{self.above:g} s"
        return f"the {100 - int(self.statistic[1:])}% of {self.statistic}"


@frozen(kw_only=True)
class CostRate(Windowed):
    """Fires when a window's attempts cost more than this, by the prices that `Cost` knows.

    Attributes:
        above: USD.
    """

    above: float = 100.0
    window: float = 3600.0
    minimum: int = 1
    per: Literal["all", "provider", "target", "tenant"] = "all"

    when: ClassVar[str] = "cost"

    @property
    def trip(self) -> float:
        """Nano-USD, which is what charges are kept in."""
        return self.above * 1e9

    def judge(self, window: Counts) -> float | None:
        """USD, if it is too much."""
        calls, _, nano = window
        return nano / 1e9 if calls >= self.minimum and nano > self.trip else None

    def measured(self, window: Counts) -> float:
        """USD."""
        return window[2] / 1e9

    def says(self, key: str, window: Counts, value: float) -> tuple[str, dict[str, Any]]:
        """How much was spent in how long."""
        return f"{key}: {value:.2f} USD in {self.window:g} s", {"attempts": window[0], "cost_usd": value}

    @property
    def limit(self) -> str:
        """USD."""
        return f"{self.above:.2f}"
