"""What one call may spend: held before each of its attempts, settled when the call is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from llmpipe.middleware.budget.refusal import refusal, unknown_price
from llmpipe.middleware.budget.rule import Rule
from llmpipe.middleware.charging import charge_for, price_for, tier_of, usage_of
from llmpipe.middleware.scopes import Scopes, scopes_of
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.pricing import Price, worst_case
from llmpipe.state import Draw, Shortage, Spend
from llmpipe.tokens import bound_tokens, estimate_request, estimate_tokens
from llmpipe.types import AnyRequest, Request
from llmpipe.types import Cost as Charge

if TYPE_CHECKING:
    from llmpipe.middleware.budget import Budget
    from llmpipe.middleware.budget.desk import Desk

__all__ = ("Purse",)

_Key = tuple[str, int]


@define(eq=False)
class Purse:
    """The money of one call. Its budgets are those of the time at which it began.

    Attributes:
        begun: attempts there were before; they are somebody else's.
        totals: what is held of each balance: what all attempts may cost.
        passes: of each attempt that was admitted: provider, model, and the worst that it may cost.
    """

    config: Budget
    desk: Desk
    call: Call
    id: str
    at: float
    begun: int
    totals: dict[_Key, int] = field(factory=dict)
    rules: dict[_Key, Rule] = field(factory=dict)
    passes: list[tuple[str, str, int]] = field(factory=list)
    free: set[int] = field(factory=set)

    # ------------------------------------------------------------ before an attempt

    async def admit(self, call: Call) -> Call:
        """Hold what the attempt that `call` is about to make may cost; the call, with what had to change.

        Raises: BudgetExceeded; StoreUnavailable where the budget cannot be looked at.
        """
        while True:
            target: Any = call.target or call.provider
            provider, model = target.name, call.request.model or target.model
            scopes = scopes_of(self.call, provider, model)
            rules = [rule for rule in self.config.rules if rule.applies(scopes, self.at)]
            if not rules:
                return call
            limited = [rule for rule in rules if _limit(rule, model) is not None]
            price = self._price(target, model, call.request)
            if price is None and limited and self.config.unknown_price == "refuse":
                raise unknown_price(provider, model, limited[0])
            call = self._capped(call, limited)
            worst, likely = self._worst(call.request, price)
            draws = self._draws(rules, scopes, model, worst - self._freed(call), likely)
            short = await self._hold(rules, draws, worst)
            if short is None:
                self.passes.append((provider, model, worst))
                return call
            rule = short[0]
            if rule.action != "downgrade":
                error = refusal(*short, scopes, call.runtime.wall())
                call.note("budget.refused", rule=rule.name, code=error.code)
                raise error
            call.note("budget.downgrade", rule=rule.name, model=model, to=rule.downgrade_to)
            call = call.evolve(request=evolve(call.request, model=rule.downgrade_to))

    def _price(self, target: Any, model: str, request: AnyRequest) -> Price | None:
        sold_as = getattr(target, "sold_as", "")
        return price_for(self.config.table, target.name, sold_as, model, model, tier=tier_of(request))

    def _capped(self, call: Call, limited: list[Rule]) -> Call:
        """With `max_tokens`, where a budget limits: without it nobody knows what the worst is."""
        request = call.request
        if not limited or not isinstance(request, Request) or request.max_tokens is not None:
            return call
        return call.evolve(request=evolve(request, max_tokens=self.config.output_tokens))

    def _worst(self, request: AnyRequest, price: Price | None) -> tuple[int, int]:
        """The most that `request` may cost, and what of it is likely if nobody ever hears of it again."""
        tokens = estimate_request(request, count=bound_tokens if self.config.strict else estimate_tokens)
        worst = worst_case(
            request, price, input_tokens=tokens, default_output_tokens=self.config.output_tokens
        )
        return (0, 0) if worst is None else (worst.input_nano + worst.output_nano, worst.input_nano)

    def _draws(self, rules: list[Rule], scopes: Scopes, model: str, more: int, likely: int) -> list[Draw]:
        """What is to be held of each rule's balance, with `more` for this attempt; noted at once.

        At once, for another attempt may be made beside this one.
        """
        draws = []
        for rule in rules:
            period = rule.period_at(self.at)
            key = rule.account(scopes), period.start
            self.totals[key] = wanted = self.totals.get(key, 0) + more
            self.rules[key] = rule
            draws.append(Draw(*key, max(0, wanted), _limit(rule, model), likely, period.end))
        return draws

    async def _hold(
        self, rules: list[Rule], draws: list[Draw], worst: int
    ) -> tuple[Rule, Draw, Shortage] | None:
        """Hold `draws`, all or none; what was short, if any was."""
        held = False
        try:
            short = await self.desk.reserve(self.id, draws, worst)
            held = short is None
        finally:
            if not held:
                for draw in draws:
                    self.totals[draw.account, draw.period] -= worst
        return None if short is None else (rules[short.index], draws[short.index], short)

    def _freed(self, call: Call) -> int:
        """What was held for attempts that are over, and cost nothing."""
        freed = 0
        if self.passes:
            for attempt in call.ledger.attempts:
                if id(attempt) not in self.free and _is_free(attempt):
                    self.free.add(id(attempt))
                    freed += self._take_back(attempt)
        return freed

    def _take_back(self, attempt: Attempt) -> int:
        for place, (provider, model, worst) in enumerate(self.passes):
            if provider == attempt.provider and model == attempt.asked_model:
                del self.passes[place]
                return worst
        return 0

    # ------------------------------------------------------------ when the call is over

    async def settle(self) -> None:
        """Charge what the attempts really cost, free the rest, and write each into the journal."""
        attempts = self.call.ledger.attempts[self.begun :]
        if not attempts and not self.totals:
            return
        charges: dict[_Key, Draw] = {}
        rows = []
        for attempt in attempts:
            charge = attempt.charge
            if charge is None:
                charge = charge_for(self.config.table, attempt, attempt.model, usage_of(attempt))
            rows.append(self._row(attempt, charge))
            if charge is not None:
                self._charge(attempt, charge.input_nano + charge.output_nano, charges)
        await self.desk.settle(self.id, list(charges.values()), rows)
        if charges:
            await self._tell(charges)

    def _charge(self, attempt: Attempt, nano: int, charges: dict[_Key, Draw]) -> None:
        scopes = scopes_of(self.call, attempt.provider, attempt.asked_model)
        for rule in self.config.rules:
            if rule.applies(scopes, self.at):
                period = rule.period_at(self.at)
                key = rule.account(scopes), period.start
                before = charges[key].nano if key in charges else 0
                charges[key] = Draw(*key, before + nano, ends=period.end)
                self.rules[key] = rule

    def _row(self, attempt: Attempt, charge: Charge | None) -> Spend:
        call, request, usage = self.call, attempt.request, usage_of(attempt)
        outcome, tags = attempt.outcome, self.call.tags
        ended = attempt.ended_at if attempt.ended_at is not None else call.runtime.now()
        completion: Any = None if outcome is None else outcome.completion
        return Spend(
            id=f"{self.id}/{attempt.number}",
            at=call.runtime.wall(),
            nano=None if charge is None else charge.input_nano + charge.output_nano,
            estimated=charge is not None and charge.estimated,
            call=call.id,
            tenant=call.tenant,
            user=call.user,
            project=str(tags.get("project", "")),
            key=str(tags.get("key", "")),
            use_case=str(tags.get("use_case", "")),
            provider=attempt.provider,
            model=attempt.model,
            status=attempt.status,
            input_tokens=0 if usage is None else usage.input_tokens,
            output_tokens=0 if usage is None else usage.output_tokens,
            cached_input_tokens=0 if usage is None else usage.cached_input_tokens,
            cache_write_tokens=0 if usage is None else usage.cache_write_tokens,
            reasoning_tokens=0 if usage is None else usage.reasoning_tokens,
            asked_tokens=getattr(request, "max_tokens", None),
            seconds=ended - attempt.started_at,
            request_id=str(getattr(completion, "request_id", "") or ""),
        )

    async def _tell(self, charges: dict[_Key, Draw]) -> None:
        """Note which budgets have come to a share that somebody wants to hear of."""
        now = self.call.runtime.now()
        keys = [key for key in charges if self.rules[key].alert_at and self.desk.look(key[0], now)]
        if not keys:
            return
        balances = await self.desk.balances(keys)
        for key, balance in zip(keys, balances, strict=False):
            rule = self.rules[key]
            for share in self._passed(rule, balance.spent):
                if self.desk.tell(*key, share):
                    resets = rule.resets_at(rule.period_at(self.at))
                    self.call.note(
                        "budget.alert",
                        rule=rule.name,
                        account=key[0],
                        share=share,
                        spent_usd=f"{balance.spent / 1e9:.4f}",
                        limit_usd=str(rule.usd),
                        resets_at=None if resets is None else resets.isoformat(),
                    )

    @staticmethod
    def _passed(rule: Rule, spent: int) -> Iterator[float]:
        return (share for share in rule.alert_at if spent >= share * rule.nano)


def _limit(rule: Rule, model: str) -> int | None:
    """What the rule lets a call of that model spend: no end where it already asks for the cheaper one."""
    return None if model == rule.downgrade_to else rule.limit


def _is_free(attempt: Attempt) -> bool:
    error = attempt.error
    if error is None or isinstance(error, asyncio.CancelledError):
        return False
    return not getattr(error, "sent", True) or getattr(error, "billed", "unknown") == "no"
