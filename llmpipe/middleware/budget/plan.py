"""Which budgets one kind of call is paid from: worked out once, and remembered for as long as it holds."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from attrs import define, field, frozen

from llmpipe.middleware.budget.periods import Period
from llmpipe.middleware.budget.rule import Rule
from llmpipe.middleware.scopes import scopes_of
from llmpipe.pipeline.call import Call
from llmpipe.state import Draw
from llmpipe.state.draws import Accounts, EvenDraws

__all__ = ("Line", "Plan", "Plans", "most_of")

_MOST_HELD = 10**12  # nano-USD; so that sums stay exact everywhere
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
        begins, ends: seconds since the epoch from and until which this holds.
        limiter: the first rule that limits, or None.
        watched: the lines of which somebody wants to hear.
        most: nano-USD up to which all lines can hold the same amount; see `most_of`.
        accounts: the balances of all lines.
    """

    scopes: dict[str, str]
    lines: tuple[Line, ...]
    begins: float
    ends: float
    limiter: Rule | None = field(init=False)
    watched: tuple[Line, ...] = field(init=False)
    most: int = field(init=False)
    accounts: Accounts = field(init=False)

    def __attrs_post_init__(self) -> None:
        lines = self.lines
        self.limiter = next((line.rule for line in lines if line.limit is not None), None)
        self.watched = tuple([line for line in lines if line.rule.alert_at])
        self.most = min([most_of(line) for line in lines], default=_MOST_HELD)
        self.accounts = Accounts([Draw(*line.key, 0, line.limit, 0, line.period.end) for line in lines])

    def draws(self, nano: int, likely: int = 0) -> EvenDraws:
        """`nano`, nano-USD, of each of these budgets."""
        return EvenDraws(self.accounts, nano, likely)

    def pays(self, key: tuple[str, int]) -> bool:
        """Whether that balance is one of these."""
        return any(line.key == key for line in self.lines)


def most_of(line: Line) -> int:
    """Nano-USD of which no more need be held: more than fits is more than fits.

    And so much more might not fit the store's numbers. On what only tells nothing depends.
    """
    return _MOST_HELD if line.limit is None else line.limit + 1


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
        return Plan(scopes, tuple(lines), begins, ends)
