"""Which limits a call of these scopes has, worked out once for all calls of the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from llmpipe.middleware.limits.rule import TOKENS, Limit
from llmpipe.middleware.scopes import Scopes, scopes_of
from llmpipe.pipeline.call import Call
from llmpipe.state import Ask
from llmpipe.state.checks import check_asks
from llmpipe.state.memory.limits import Order

__all__ = ("Plan", "Plans", "plan_for")

_MAX_PLANS = 1024
_NO_TAGS = frozenset(("global", "account", "user", "provider", "model"))


@frozen
class Plan:
    """What calls of some scopes ask: of each ask its unit, and the asks, of which tokens are metered."""

    units: tuple[str, ...]
    order: Order

    @property
    def asks(self) -> tuple[Ask, ...]:
        """The asks, without the amounts of tokens."""
        return self.order.asks


def plan_for(limits: Sequence[Limit], scopes: Scopes) -> Plan:
    """What a call of `scopes` asks of `limits`.

    Raises: ValueError for what no store can reckon with.
    """
    pairs = [pair for one in limits if one.applies(scopes) for pair in one.asks(scopes, 0.0)]
    asks = [ask for _, ask in pairs]
    check_asks(asks)
    units = tuple([unit for unit, _ in pairs])
    return Plan(units, Order(asks, [place for place, unit in enumerate(units) if unit == TOKENS]))


class Plans:
    """The plans of some limits: one for each combination of the scopes that these tell apart.

    Callers choose the values of scopes, so the number of plans that are kept is bounded: of too many all
    are forgotten, and made again as they are needed, in some microseconds each.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = limits
        names: set[str] = set().union(*[limit.scopes for limit in limits])
        self._of_users = "user" in names
        # A project and a key are tags too, see `scopes_of`.
        self._tags = tuple([name.removeprefix("tag:") for name in sorted(names - _NO_TAGS)])
        self._made: dict[tuple[Any, ...], Plan] = {}

    def of(self, call: Call, target: tuple[str, str] | None) -> Plan:
        """The plan of `call`, or of an attempt of it at the provider and model of `target`."""
        user = call.user if self._of_users else ""
        values: tuple[Any, ...] = (call.tenant, user, target)
        if self._tags and call.tags:
            values += tuple([call.tags.get(name, "") for name in self._tags])
        plan = self._made.get(values)
        if plan is None:
            plan = plan_for(self._limits, scopes_of(call, *(target or ("", ""))))
            if len(self._made) >= _MAX_PLANS:
                self._made.clear()
            self._made[values] = plan
        return plan
