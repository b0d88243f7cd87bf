"""Whom to ask first: small pure objects, and any function of the same shape.

A strategy is called with those who can be asked, at least one, and the call; it gives the one to ask.
When that one fails, it is called again with those that are left, so its choices are an order of
preference. It keeps nothing itself: what it goes by stands on the candidates, chance comes from
``call.runtime.random``::

    def nearest(candidates, call):
        region = call.tags.get("region")
        return next((one for one in candidates if one.tags.get("region") == region), candidates[0])

    Router(a, b, strategy=nearest)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.pipeline.checks import called, nearest
from llmpipe.pricing import PriceTable, cost_of, prices
from llmpipe.tokens import estimate_request
from llmpipe.types import Request, Usage

if TYPE_CHECKING:
    from random import Random

    from llmpipe.pipeline.call import Call
    from llmpipe.routing.health import Health

__all__ = (
    "Candidate",
    "Cheapest",
    "Healthiest",
    "LeastBusy",
    "LowestLatency",
    "Priority",
    "RoundRobin",
    "STRATEGIES",
    "Strategy",
    "Weighted",
    "strategy_of",
)

_UNKNOWN_BUSY = 1e6  # seconds: one whose speed nobody knows is tried by one call at a time


def _table(value: Any) -> PriceTable | None:
    return value if value is None or isinstance(value, PriceTable) else PriceTable(value)


class Candidate(Protocol):
    """A target as a strategy sees it. `turn` is a number that belongs to the strategy."""

    turn: float

    @property
    def name(self) -> str: ...  # noqa: D102  as in Route
    @property
    def weight(self) -> float: ...  # noqa: D102  as in Route
    @property
    def priority(self) -> int: ...  # noqa: D102  as in Route
    @property
    def tags(self) -> Mapping[str, str]: ...  # noqa: D102  as in Route
    @property
    def health(self) -> Health: ...  # noqa: D102  its own docstring
    @property
    def priced_as(self) -> str: ...  # noqa: D102  what the price table calls its provider
    @property
    def model(self) -> str: ...  # noqa: D102  "" where the caller names it


Strategy = Callable[[Sequence[Any], "Call"], Any]
"""Takes candidates and the call, gives one of the candidates."""


@frozen
class RoundRobin:
    """Each in turn, in proportion to the weights and without bursts.

    Source: smooth weighted round robin, nginx 1.3.1 (2012): each gains its weight, the highest is taken
    and pays the sum.
    """

    def __call__(self, candidates: Sequence[Candidate], call: Call) -> Candidate:
        """The one whose turn it is."""
        total = 0.0
        best = candidates[0]
        most = -inf
        for one in candidates:
            weight = one.weight
            total += weight
            one.turn = turn = one.turn + weight
            if turn > most:
                best, most = one, turn
        best.turn = most - total
        return best


@frozen
class Weighted:
    """By chance, in proportion to the weights: without memory, so many processes need not agree."""

    def __call__(self, candidates: Sequence[Candidate], call: Call) -> Candidate:
        """One, drawn."""
        ticket = call.runtime.random.random() * sum([one.weight for one in candidates])
        for one in candidates:
            ticket -= one.weight
            if ticket < 0:
                return one
        return candidates[-1]


@frozen
class LeastBusy:
    """The less busy of two that are drawn: calls under way, in proportion to the weights.

    Two draws are nearly as even as asking all, and many processes that see the same do not all go to
    the same. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.
    """

    def __call__(self, candidates: Sequence[Candidate], call: Call) -> Candidate:
        """The less busy of two."""
        one, other = _two(candidates, call.runtime.random)
        return one if _load(one) <= _load(other) else other


@frozen
class LowestLatency:
    """The quicker of two that are drawn, by time to first content and calls under way.

    The time is a peak-sensitive moving average (see `Health.latency`). One that nobody knows is tried,
    by one call at a time.
    """

    def __call__(self, candidates: Sequence[Candidate], call: Call) -> Candidate:
        """The quicker of two."""
        one, other = _two(candidates, call.runtime.random)
        now = call.runtime.now()
        return one if _delay(one, now) <= _delay(other, now) else other


@frozen
class Cheapest:
    """The one for which this request costs least; where the price is not known, last.

    The estimate: the request's tokens, and an answer of `output_tokens` or of its `max_tokens` where
    that is less. Among equals the least busy is taken.

    Attributes:
        prices: a table, or overrides for the packaged one (see `PriceTable`).
        output_tokens: how long an answer is taken to be.
    """

    prices: Any = field(default=None, converter=_table, repr=False)
    output_tokens: int = 500

    def __call__(self, candidates: Sequence[Candidate], call: Call) -> Candidate:
        """The cheapest."""
        if len(candidates) == 1:
            return candidates[0]
        request = call.request
        output = 0
        if isinstance(request, Request):
            most = request.max_tokens
            output = self.output_tokens if most is None else max(0, min(most, self.output_tokens))
        usage = Usage(estimate_request(request), output)
        return min(candidates, key=lambda one: (self._nano(one, request.model, usage), _load(one)))

    def _nano(self, one: Candidate, model: str, usage: Usage) -> float:
        table: PriceTable = self.prices or prices()
        cost = cost_of(usage, table.find(one.priced_as, one.model or model))
        return inf if cost is None else cost.total_nano


@frozen
class Healthiest:
    """The one with the highest health score, and among equals the least busy.

    One that has been asked and has not answered anything yet counts for half.
    """

    def __call__(self, candidates: Sequence[Candidate], call: Call) -> Candidate:
        """The healthiest."""
        now = call.runtime.now()
        return max(candidates, key=lambda one: (_promise(one.health, now), -_load(one)))


@frozen
class Priority:
    """Those of the lowest `Route.priority` as long as one of them can be asked; `within` chooses there."""

    within: Any = "round_robin"

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "within", strategy_of(self.within))

    def __call__(self, candidates: Sequence[Candidate], call: Call) -> Candidate:
        """One of the most preferred."""
        first = min([one.priority for one in candidates])
        chosen: Candidate = self.within([one for one in candidates if one.priority == first], call)
        return chosen


STRATEGIES: Mapping[str, type] = {
    "cheapest": Cheapest,
    "healthiest": Healthiest,
    "least_busy": LeastBusy,
    "lowest_latency": LowestLatency,
    "priority": Priority,
    "round_robin": RoundRobin,
    "weighted": Weighted,
}
"""The strategies that have a name."""


def strategy_of(value: Any) -> Strategy:
    """A strategy from its name, or anything that can be called as one.

    Raises: ConfigError for an unknown name, with the nearest one, and for what is no strategy.
    """
    if isinstance(value, str):
        if value not in STRATEGIES:
            hint = nearest(value, STRATEGIES) or f"; there are {', '.join(STRATEGIES)}"
            raise ConfigError(f"there is no routing strategy {value!r}{hint}")
        made: Strategy = STRATEGIES[value]()
        return made
    if isinstance(value, type):
        raise ConfigError(f"strategy {value.__name__} is a class; make one of it: {value.__name__}()")
    if not callable(value):
        raise ConfigError(f"a strategy is a name or a function of (candidates, call), not {called(value)}")
    chosen: Strategy = value
    return chosen


def _two(candidates: Sequence[Candidate], random: Random) -> tuple[Candidate, Candidate]:
    """Two different ones, drawn; twice the same where there is only one."""
    count = len(candidates)
    if count == 1:
        return candidates[0], candidates[0]
    at = int(random.random() * count)
    other = int(random.random() * (count - 1))
    return candidates[at], candidates[other + (other >= at)]


def _promise(health: Health, now: float) -> float:
    waiting = health.in_flight and health.latency(now) is None
    return health.score(now) * (0.5 if waiting else 1.0)


def _load(one: Candidate) -> float:
    return (one.health.in_flight + 1) / one.weight


def _delay(one: Candidate, now: float) -> float:
    busy, latency = one.health.in_flight, one.health.latency(now)
    if latency is None:
        return _UNKNOWN_BUSY + busy if busy else 0.0
    return latency * (busy + 1)
