"""What a circuit goes by, and what it tells: settings, changes and figures, as plain values."""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Literal, NamedTuple

from attrs import frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.numeric import check_numbers

__all__ = ("CLOSED", "Change", "CircuitRules", "CircuitStats", "HALF_OPEN", "OPEN", "STATES")

CLOSED, HALF_OPEN, OPEN = 0, 1, 2
"""The states, as the gauge ``circuit.state`` shows them."""

STATES: tuple[Literal["closed"], Literal["half_open"], Literal["open"]] = ("closed", "half_open", "open")


@frozen(kw_only=True)
class CircuitRules:
    """When a circuit opens, for how long, and when it closes.

    Attributes:
        window: seconds over which failures are counted, in ten buckets.
        min_calls: the window says nothing before it holds this many calls.
        ratio: the share of failures in the window, above 0 and up to 1, that opens the circuit. None
            leaves that to `consecutive`.
        consecutive: as many failures in a row open it too. None or 0 switches that off.
        base: seconds it stays open at first; twice as long after each failed recovery.
        cap: seconds it stays open at most, whatever the provider asks for. ±10 % jitter is put on.
        probes: calls let through at a time while it is half-open.
        close_after: successful probes that close it.
        max_half_open: seconds after which a probe that has not come back counts as failed. Above what
            a long full reply takes, since that is when its success is known.
        adaptive: judge by what is usual for the target: open at `ratio` / 2 above its share of failures
            over the last twenty or so windows, or three standard deviations above it if that is more, and
            at 95 % at the latest. At 0.5 a target that never failed opens at 25 %; one of which a third
            fails anyway at 58 % with 100 calls in the window, at 78 % with 10, which say less. Source: the
            p-chart of W. Shewhart (NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.3.2), with a
            least distance, because failures come in bursts.

    Raises: ConfigError for settings out of range.
    """

    window: float = 30.0
    min_calls: int = 10
    ratio: float | None = 0.5
    consecutive: int | None = 5
    base: float = 5.0
    cap: float = 120.0
    probes: int = 1
    close_after: int = 2
    max_half_open: float = 120.0
    adaptive: bool = False

    @property
    def enforced(self) -> bool:
        """Whether anybody is refused; False for a dry run."""
        return True

    def __attrs_post_init__(self) -> None:
        check_numbers(self, "breaker")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ConfigError(f"breaker ratio must be above 0 and up to 1, or None, not {self.ratio}")
        if self.ratio is None and not self.consecutive:
            raise ConfigError("a breaker needs ratio or consecutive; without both it never opens")
        if self.ratio is None and self.adaptive:
            raise ConfigError("an adaptive breaker adapts its ratio; give it one")
        if min(self.min_calls, self.probes, self.close_after) < 1 or (self.consecutive or 0) < 0:
            raise ConfigError("breaker min_calls, probes, close_after and consecutive count calls, from 1")
        if not (self.window > 0 and self.max_half_open > 0 and 0 < self.base <= self.cap < inf):
            raise ConfigError("breaker window, max_half_open, base and cap are seconds, above 0, base <= cap")


class Change(NamedTuple):
    """A circuit has changed its state: `kind` is ``opened``, ``half_open`` or ``closed``.

    `seconds` is how long it stays open at least, infinite when isolated; 0 for the others.
    """

    at: float
    key: Hashable
    kind: Literal["opened", "half_open", "closed"]
    reason: str
    seconds: float


@frozen
class CircuitStats:
    """A circuit at one moment.

    `gauge` is 0 closed, 1 half-open, 2 open. `calls` and `failures` are those of the window, `streak`
    the failures in a row. `total` counts who came, of whom `rejected` were refused; `successful`,
    `failed` and `ignored` count outcomes, and a reply that breaks after it began is both of the first
    two. `retry_after` is seconds until it admits again, 0 when it does now.
    """

    key: Hashable
    state: Literal["closed", "half_open", "open"]
    gauge: int
    calls: int
    failures: int
    streak: int
    total: int
    successful: int
    failed: int
    ignored: int
    rejected: int
    retry_after: float
    since: float
    reason: str
