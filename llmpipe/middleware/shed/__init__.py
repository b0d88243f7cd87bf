"""Refuse the least important calls while the process has more to do than it can.

The load is the largest of its signals, each as a share of its setting: 1 is where ordinary calls are
refused. A process that refuses early answers the rest in time; one that takes everything answers nobody.
Refusing by importance is the load shedding of "Handling Overload", Site Reliability Engineering (2016),
chapter 21, and of Stripe's "Scaling your API with rate limiters" (2017).

=====================  =====================================================================
note                   detail
=====================  =====================================================================
``shed.refused``       ``signal`` that is highest, ``load``, ``retry_after`` seconds
=====================  =====================================================================
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from itertools import pairwise
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import field, frozen

from llmpipe.errors import ConfigError, Overloaded
from llmpipe.middleware.lag import Lag
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.shed.load import Load
from llmpipe.pipeline import bands

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply
    from llmpipe.runtime import Runtime

__all__ = ("Shed", "ShedStatus")

_NO_SIGNALS: Mapping[str, Any] = MappingProxyType({})


@frozen
class ShedStatus:
    """The load of one moment: each signal as a share of its setting, and priorities that are refused."""

    load: float
    signals: Mapping[str, float]
    in_flight: int
    refused: tuple[int, ...]


@frozen(kw_only=True)
class Shed:
    """Refuses calls by priority while this process is overloaded.

    Attributes:
        in_flight: calls at a time, each to the end of its reply, that are a load of 1. None: not counted.
        lag: seconds by which the event loop is late that are a load of 1. None: not measured.
        queue_age: seconds the longest waiting call of all rate limits has waited that are a load of 1. None:
            not looked at. One limited tenant is enough to raise it.
        levels: pairs of a priority and the load from which calls of it, up to the next priority named, are
            refused. Calls below all of them are refused as the lowest.
        calm: once refused, a level is refused until the load is below this share of its threshold.
        retry_after: seconds after which refused callers are told to come back, spread up to twice that.
        signals: more signals by name, each a function of the runtime that gives a load. Asked every tenth of
            a second at most, like `queue_age`. One that raises is reported, and counts as 0.

    Raises: Overloaded with code ``shed``: nothing was sent, and it says nothing about the provider.
    """

    in_flight: int | None = None
    lag: float | None = 0.25
    queue_age: float | None = None
    levels: tuple[tuple[int, float], ...] = ((-1, 0.8), (0, 1.0), (1, 1.25))
    calm: float = 0.8
    retry_after: float = 1.0
    signals: Mapping[str, Any] = field(default=_NO_SIGNALS, repr=False)
    name: str = "shed"
    priority: int = bands.OBSERVE + 50
    _slow: bool = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = "before any work is done for the call, and inside observers, which see refusals"

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        for setting in ("in_flight", "lag", "queue_age"):
            value = getattr(self, setting)
            if value is not None and not 0 < value < inf:
                raise ConfigError(f"{self.name}: {setting} must be above 0, or None, not {value}")
        if self.in_flight is None and self.lag is None and self.queue_age is None and not self.signals:
            raise ConfigError(
                f"{self.name}: no signal is given; there are in_flight, lag, queue_age, signals"
            )
        if not 0 < self.calm <= 1:
            raise ConfigError(f"{self.name}: calm must be above 0 and up to 1, not {self.calm}")
        if not 0 < self.retry_after < inf:
            raise ConfigError(f"{self.name}: retry_after is seconds above 0, not {self.retry_after}")
        if taken := {"in_flight", "lag", "queue_age"} & {*self.signals}:
            raise ConfigError(f"{self.name}: signals: {min(taken)!r} is the name of a built-in one")
        _check_levels(self.name, self.levels)
        object.__setattr__(self, "_slow", self.queue_age is not None or bool(self.signals))

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """The reply, unless there is too much to do for a call of this priority."""
        load = self._load(call.runtime)
        if load.level >= load.lowest or load.shedding:
            self._admit(call, load)
        load.in_flight += 1
        try:
            yield await call_next(call)
        finally:
            load.in_flight -= 1

    def _load(self, runtime: Runtime) -> Load:
        """The load as it is now."""
        load = runtime.state("shed", self.name, Load)
        if load.levels is not self.levels:
            load.adopt(self.levels)
        level = 0.0 if self.in_flight is None else load.in_flight / self.in_flight
        if self.lag is not None:
            late = Lag.of(runtime).seconds / self.lag
            level = level if level > late else late  # noqa: FURB136  the hot path: less than max
        if self._slow:
            others = load.others(runtime, self.queue_age, self.signals)
            level = max(level, *others.values())
        load.level = level
        return load

    def _admit(self, call: Call, load: Load) -> None:
        """Refuse the call, if its priority is refused at this load."""
        if not load.refuses(call.priority, self.calm):
            return
        shares = self._shares(call.runtime, load)
        signal = max(shares, key=lambda name: shares[name])
        seconds = self.retry_after * (1.0 + call.runtime.random.random())
        call.note("shed.refused", signal=signal, load=load.level, retry_after=seconds)
        raise Overloaded(
            f"this process is overloaded ({signal} at {load.level:.0%}), and calls of priority "
            f"{call.priority} are refused; come back in {seconds:.2g} s",
            code="shed",
            retryable=False,  # not from within: it would come back to the same process
            health="ignore",
            rescue="none",
            sent=False,
            retry_after=seconds,
            phase="admit",
            metadata={"signal": signal, "load": load.level},
        )

    def _shares(self, runtime: Runtime, load: Load) -> dict[str, float]:
        shares: dict[str, float] = {}
        if self.in_flight is not None:
            shares["in_flight"] = load.in_flight / self.in_flight
        if self.lag is not None:
            shares["lag"] = Lag.of(runtime).seconds / self.lag
        if self._slow:
            shares |= load.others(runtime, self.queue_age, self.signals)
        return shares

    def status(self, runtime: Runtime) -> ShedStatus:
        """The load, and who is refused."""
        load = self._load(runtime)
        load.settle(self.calm)
        return ShedStatus(
            load.level, self._shares(runtime, load), load.in_flight, tuple(sorted(load.shedding))
        )


def _check_levels(name: str, levels: Any) -> None:
    right = "pairs of a priority and a load above 0, both rising, such as [[-1, 0.8], [0, 1.0]]"
    pairs = all(isinstance(level, tuple | list) and len(level) == 2 for level in levels)
    if not (levels and pairs and all(0 < load < inf for _, load in levels)):
        raise ConfigError(f"{name}: levels are {right}, not {levels!r}")
    for (below, load), (above, more) in pairwise(levels):
        if not (below < above and load <= more):
            raise ConfigError(f"{name}: levels are {right}, not {levels!r}")
