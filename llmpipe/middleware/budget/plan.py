"""Which budgets one kind of call is paid from: worked out once, and remembered for as long as it holds."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from attrs import define, frozen

from llmpipe.middleware.budget.periods import Period
from llmpipe.middleware.budget.rule import Rule
from llmpipe.middleware.scopes import scopes_of
from llmpipe.pipeline.call import Call

__all__ = ("Line", "Plan", "Plans")

_MAX_PLANS = 4096  # scopes come from callers; what is remembered of them must have an end


@frozen
class Line:
    """One budget that a call is paid from. `limit` is nano-USD, None where the rule only tells."""

    rule: Rule
    key: tuple[str, int]
    period: Period
    limit: int | None


@define(eq=False)
class Plan:
    """The budgets of calls to one model of one provider with the same scopes.

    Attributes:
        scopes: what the call is of, by which errors name a balance.
        limiter: the first rule that limits, or None.
        begins, ends: seconds since the epoch from and until which this holds.
    """

    scopes: dict[str, str]
    lines: tuple[Line, ...]
    limiter: Rule | None
    begins: float
    ends: float


class Plans:
    """The plans of one `Budget`. Rules are asked again when a period ends, or one of them begins or does."""

    __slots__ = ("_found", "_rules", "_tags")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._tags = tuple(sorted({tag for rule in rules for tag in rule.tags}))
        self._found: dict[tuple[str, ...], Plan] = {}

    def of(self, call: Call, provider: str, model: str, at: float) -> Plan:
        """The budgets of an attempt of `call` at that model, at `at` seconds since the epoch."""
        key: tuple[str, ...] = (provider, model, call.tenant, call.user)
        if self._tags:
            tags = call.tags
            key += tuple([str(tags.get(name, "")) for name in self._tags])
        plan = self._found.get(key)
        if plan is None or not plan.begins <= at < plan.ends:
            if len(self._found) >= _MAX_PLANS:
                self._found.clear()
            plan = self._found[key] = self._made(scopes_of(call, provider, model), model, at)
        return plan

    def _made(self, scopes: dict[str, str], model: str, at: float) -> Plan:
        lines = []
        begins, ends = -inf, inf
        for rule in self._rules:
            for moment in rule.holds:
                if moment <= at:
                    begins = max(begins, moment)
                else:
                    ends = min(ends, moment)
            if not rule.applies(scopes, at):
                continue
            period = rule.period_at(at)
            begins = max(begins, period.start)
            ends = min(ends, inf if period.end is None else period.end)
            # No end to what one may spend on the model that it sends calls to when it is used up.
            limit = None if model == rule.downgrade_to else rule.limit
            lines.append(Line(rule, (rule.account(scopes), period.start), period, limit))
        limiter = next((line.rule for line in lines if line.limit is not None), None)
        return Plan(scopes, tuple(lines), limiter, begins, ends)
