"""What the health of targets is judged by, and what is told of it: settings, changes, figures."""

from __future__ import annotations

from math import inf
from typing import Literal, NamedTuple

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.numeric import check_numbers

__all__ = ("Change", "HealthRules", "State", "TargetStatus")

State = Literal["healthy", "degraded", "down", "returning"]


@frozen(kw_only=True)
class HealthRules:
    """When a target is degraded or down, and how it comes back.

    Attributes:
        window: seconds over which the share of failures is counted.
        min_samples: the window says nothing before it holds this many.
        degraded_above: the share of failures above which a target is degraded.
        degraded_share: of the calls that are its own, how many a degraded target still gets: enough to
            see that it has recovered.
        down_after: failures in a row that put a target down.
        rest: seconds a target stays down at first; twice as long each time it fails on its way back.
        max_rest: seconds it stays down at most.
        ramp: seconds over which its share grows from 5 % to all; twice as long each time, too.
        max_ramp: seconds at most.
        slow: seconds to the first content that halve the score.
        latency_window: seconds over which old latencies fade.

    Raises: ConfigError for settings out of range.
    """

    window: float = 60.0
    min_samples: int = 10
    degraded_above: float = 0.1
    degraded_share: float = 0.2
    down_after: int = 3
    rest: float = 5.0
    max_rest: float = 120.0
    ramp: float = 30.0
    max_ramp: float = 120.0
    slow: float = 10.0
    latency_window: float = 10.0

    def __attrs_post_init__(self) -> None:
        check_numbers(self, "health")
        if min(self.min_samples, self.down_after) < 1:
            raise ConfigError("health min_samples and down_after count from 1")
        if not (0 <= self.degraded_above < 1 and 0 < self.degraded_share <= 1):
            raise ConfigError("health degraded_above is a share from 0, degraded_share one above 0 up to 1")
        if not (0 < self.rest <= self.max_rest < inf and 0 <= self.ramp <= self.max_ramp < inf):
            raise ConfigError("health rest and ramp are seconds, up to max_rest and max_ramp")
        if not min(self.window, self.slow, self.latency_window) > 0:
            raise ConfigError("health window, slow and latency_window are seconds above 0")


class Change(NamedTuple):
    """A target's state has changed: degraded, recovered, down, returning or readmitted (`kind`).

    `seconds` is how long it stays down at least, or how long its ramp takes.
    """

    at: float
    target: str
    kind: str
    reason: str
    seconds: float = 0.0


@frozen
class TargetStatus:
    """A target of a router at one moment.

    `score` is 0 (down) to 1. `latency` is seconds to first content, None before the first. `calls` and
    `failures` are totals, `error_rate` is that of the window, `streak` counts failures in a row. `share`
    is the part of its calls that it gets. `retry_after` is seconds until it is asked again; above 0
    also for one that ``rests`` because it asked us to wait or does not take our key.
    """

    name: str
    provider: str
    endpoint: str
    model: str
    state: str
    score: float
    error_rate: float
    latency: float | None
    in_flight: int
    calls: int
    failures: int
    streak: int
    share: float
    last_error: str
    retry_after: float
    since: float
    reason: str
