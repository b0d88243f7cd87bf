"""What one call may spend: held before each of its attempts, settled when the call is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmpipe.middleware.budget.journal import line_of, nano_of
from llmpipe.middleware.budget.plan import Plan, most_of
from llmpipe.middleware.budget.refusal import refusal, unknown_price
from llmpipe.middleware.budget.worst import capped, output_cap, worst
from llmpipe.middleware.charging import charge_for, tier_of, usage_of
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.pricing.estimate import answers_of
from llmpipe.runtime import at_once
from llmpipe.state import Draw, Shortage
from llmpipe.state.spends import Values, spend_of
from llmpipe.tokens import bound_tokens, estimate_request
from llmpipe.types import AnyRequest, Request
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.middleware.budget import Budget
    from llmpipe.middleware.budget.desk import Desk
    from llmpipe.middleware.budget.plan import Line
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pricing import Price

__all__ = ("Purse",)

_Cost = tuple[Plan, int]
"""What an attempt cost, nano-USD, and the budgets that pay for it."""


class _Pass:
    """An attempt that may be made: what it may cost at most and likely; once it is over, what it did.

    The attempt has `mark` among its `holds`. `asker` is the task that asks for it, until nobody behind us can
    refuse it any more; None where nobody could.
    """

    __slots__ = ("admitted", "asker", "known", "likely", "mark", "nano", "plan", "request")

    def __init__(self, mark: str, plan: Plan, request: AnyRequest, nano: int, likely: int) -> None:
        self.mark, self.plan, self.request = mark, plan, request
        self.nano, self.likely = nano, likely
        self.admitted = self.known = False
        self.asker: asyncio.Task[Any] | None = None

    async def made(self, _call: Call) -> None:
        """All guards have let it pass."""
        self.asker = None


class Purse:
    """The money of one call. Its budgets are those of the time at which it began."""

    __slots__ = (
        "_at",
        "_begun",
        "_call",
        "_config",
        "_desk",
        "_id",
        "_marks",
        "_may_be_held",
        "_passes",
        "over",
    )

    def __init__(self, config: Budget, desk: Desk, call: Call) -> None:
        runtime = call.runtime
        self._config, self._desk, self._call = config, desk, call
        self._id = runtime.new_id(desk.prefix)
        self._at = runtime.wall()
        self._begun = len(call.ledger.attempts)  # what there was before is somebody else's
        self._passes: list[_Pass] = []
        self._marks = 0
        self._may_be_held = False
        self.over = False

    def is_of(self, config: Budget) -> bool:
        """Whether it pays from the budgets of `config`."""
        own = self._config
        return (own.name, own.store) == (config.name, config.store) and own.rules == config.rules

    def guarded(self) -> Call:
        """The call, with this purse asked before each of its attempts."""
        call = self._call
        return call.evolve(guards=(*call.guards, self.admit), holds=(*call.holds, self._id))

    # ------------------------------------------------------------ before an attempt

    async def admit(self, call: Call) -> Call:
        """Hold what the attempt that `call` is about to make may cost; the call, with what had to change.

        Raises: BudgetExceeded; StoreUnavailable where the budget cannot be looked at.
        """
        config = self._config
        target: Any = call.target or call.provider
        followed: tuple[str, ...] = ()
        asked = call.request
        while True:
            request = call.request
            model = request.model or target.model
            plan = config.plans.of(self._call, target.name, model, self._at)
            price = self._price(target, model, request)
            limiter = plan.limiter
            if (
                limiter is not None
                and isinstance(request, Request)
                and (request.max_tokens is None or request.max_tokens < 1)
            ):
                request = capped(request, config.output_tokens)
                call = call.evolve(request=request)
            nano = likely = 0
            if plan.lines:
                tokens = (
                    estimate_request(asked, count=bound_tokens)
                    if config.strict
                    else call.ledger.estimated_tokens(asked)
                )
                most = worst(request, price, tokens, config.output_tokens)
                if most is not None:
                    nano, likely = most
                elif limiter is not None and config.unknown_price == "refuse":
                    raise unknown_price(target.name, model, limiter)
            # The first has the call's own mark, which the call brings along anyway.
            first = not self._marks and not self.over
            self._marks += 1
            mark = self._id if first else f"{self._id}+{self._marks}"
            made = _Pass(mark, plan, request, nano, likely)
            if first and self._taken(made):
                return call if call.guards[-1] == self.admit else self._followed(call, made)
            short = await self._hold(made)
            if short is None:
                made.admitted = True
                call = call if first else call.evolve(holds=(*call.holds, mark))
                return call if call.guards[-1] == self.admit else self._followed(call, made)
            line = plan.lines[short.index]
            rule = line.rule
            if rule.action != "downgrade" or rule.name in followed or not isinstance(request, Request):
                needed = self._needed(line.key)[0] + nano
                error = refusal(line, needed, short, plan.scopes, call.runtime.wall())
                call.note("budget.refused", rule=rule.name, code=error.code)
                raise error
            followed += (rule.name,)  # two that send to each other's model would go on for ever
            call.note("budget.downgrade", rule=rule.name, model=model, to=rule.downgrade_to)
            call = call.evolve(request=replace(request, model=rule.downgrade_to))

    def _followed(self, call: Call, made: _Pass) -> Call:
        """The call, which others are still asked about; so that a pass is known that they made worthless."""
        made.asker = asyncio.current_task()
        return call.evolve(barriers=(*call.barriers, made.made))

    def _drop_refused(self) -> None:
        """Forget the passes of attempts that were never made: whoever asked for one asks for another now."""
        asker = asyncio.current_task()
        for one in [one for one in self._passes if one.asker is not None and one.asker is asker]:
            self._passes.remove(one)

    def _price(self, target: Any, model: str, request: AnyRequest) -> Price | None:
        tier = tier_of(request) if request.extra else ""
        sold_as = getattr(target, "sold_as", "")
        return self._config.table.find(target.name, model, tier=tier, sold_as=sold_as)

    def _taken(self, made: _Pass) -> bool:
        """Hold what the first attempt needs, in a store in memory that has room for it. Nearly all calls."""
        memory, nano, plan = self._desk.memory, made.nano, made.plan
        if memory is None or type(nano) is not int or not 0 <= nano <= plan.most:
            return False
        if not memory.reserve_at_once(self._id, plan.accounts, nano, made.likely):
            return False
        self._passes.append(made)
        self._may_be_held = made.admitted = True
        return True

    async def _hold(self, made: _Pass) -> Shortage | None:
        """Hold what `made` needs, in all its budgets or in none; what was short, if any was.

        It counts from the first moment, for another attempt may be made beside this one.
        """
        passes, config = self._passes, self._config
        if passes:
            self._drop_refused()
            self._learn()
        draws = self._draws(made)
        passes.append(made)
        if not draws:
            return None
        # Of several calls that were sent as one, the first of which has left, that one is settled. What is
        # tried for the others is held under an id of its own, and charged as likely when its lease ends.
        late = self.over
        hold = made.mark if late else self._id
        try:
            short = await self._desk.reserve(
                hold, draws, config.lease, made.nano, config.slack_usd, ends=late
            )
        except BaseException:  # goes on; whether the store has done it nobody knows
            passes.remove(made)
            self._may_be_held = True
            raise
        if short is None:
            self._may_be_held = True
        else:
            passes.remove(made)
        return short

    def _draws(self, made: _Pass) -> Sequence[Draw]:
        """What is to be held of each balance, for all attempts so far and `made`."""
        plan = made.plan
        if not self._passes and made.nano <= plan.most:
            return plan.draws(made.nano, made.likely)
        draws = []
        for line in plan.lines:
            nano, likely = self._needed(line.key)
            most = most_of(line)
            nano, likely = min(nano + made.nano, most), min(likely + made.likely, most)
            draws.append(Draw(*line.key, nano, line.limit, likely, line.period.end))
        return draws

    def _needed(self, key: tuple[str, int]) -> tuple[int, int]:
        """What all attempts so far need of that balance, and what of it is likely."""
        paid = [one for one in self._passes if one.plan.pays(key)]
        return sum([one.nano for one in paid]), sum([one.likely for one in paid])

    def _learn(self) -> None:
        """Of attempts that are over, what they cost takes the place of what they might have."""
        for attempt in self._call.ledger.attempts[self._begun :]:
            one = self._pass_of(attempt)
            if (
                one is not None
                and not one.known
                and (attempt.outcome is not None or attempt.error is not None)
            ):
                one.known = True
                charge = attempt.charge
                if charge is None:
                    charge = charge_for(self._config.table, attempt, attempt.model, usage_of(attempt))
                if charge is not None:
                    one.nano = one.likely = nano_of(charge)

    def _pass_of(self, attempt: Attempt) -> _Pass | None:
        """The pass that `attempt` was made with; None for one of a branch beside this one.

        There several targets are asked at once, and each may have a budget of its own.
        """
        for one in reversed(self._passes):  # the mark of the first is the call's, and so all have that
            if one.mark in attempt.holds:
                return one
        return None

    # ------------------------------------------------------------ while it streams

    def allowed(self) -> int:
        """Tokens of output that all attempts so far may bring."""
        return sum([self._tokens(one) for one in self._passes])

    @property
    def meters(self) -> bool:
        """Whether a stream is to be cut that goes far beyond what is held."""
        return any(self._tokens(one) for one in self._passes)

    def _tokens(self, one: _Pass) -> int:
        request, config = one.request, self._config
        if not (
            one.admitted and config.cut and one.plan.limiter is not None and isinstance(request, Request)
        ):
            return 0
        return output_cap(request, config.output_tokens) * answers_of(request.extra)

    # ------------------------------------------------------------ when the call is over

    async def settle(self) -> None:
        """Charge what the attempts really cost, free the rest, and write each into the journal."""
        bill = self._bill()
        if bill is not None:
            await self._pay(*bill)

    def ended(self, _call: Call, _outcome: Outcome) -> None:
        """Settle: the reply is over, in a store in memory."""
        self.settle_at_once()

    def settle_at_once(self) -> None:
        """The same, in a store in memory."""
        bill = self._bill()
        if bill is None:
            return
        (costs, rows), desk = bill, self._desk
        if len(costs) == 1 and desk.memory is not None:  # nearly all calls
            ((plan, nano),) = costs
            if type(nano) is int and desk.memory.settle_at_once(self._id, plan.accounts, nano, rows):
                if due := desk.risen(plan.watched, nano):
                    at_once(self._tell(due))
                return
        at_once(self._pay(costs, rows))

    async def _pay(self, costs: Sequence[_Cost], rows: Sequence[Values]) -> None:
        desk = self._desk
        await desk.settle(self._id, _charges(costs), [*map(spend_of, rows)])
        if due := [line for plan, nano in costs for line in desk.risen(plan.watched, nano)]:
            await self._tell(due)

    def leave(self) -> None:
        """The same, later: nobody can wait for it here."""
        bill = self._bill()
        if bill is not None:
            costs, rows = bill
            self._desk.owe(self._id, _charges(costs), [*map(spend_of, rows)])

    def _bill(self) -> tuple[list[_Cost], list[Values]] | None:
        """What the attempts cost whose price is known, and their lines in the journal.

        None where nothing was held, nor spent, and the second time.
        """
        if self.over:
            return None
        self.over = True
        call, config = self._call, self._config
        costs: list[_Cost] = []
        rows: list[Values] = []
        for attempt in call.ledger.attempts[self._begun :]:
            one = self._pass_of(attempt)
            if one is None:
                continue
            charge, usage = attempt.charge, usage_of(attempt)
            if charge is None:
                charge = charge_for(config.table, attempt, attempt.model, usage)
            if charge is None:
                rows.append(line_of(self._id, call, attempt, usage, None, False, config.digests))
            else:
                nano = nano_of(charge)
                rows.append(line_of(self._id, call, attempt, usage, nano, charge.estimated, config.digests))
                costs.append((one.plan, nano))
        return (costs, rows) if rows or self._may_be_held else None

    async def _tell(self, due: Sequence[Line]) -> None:
        """Note which of these budgets have come to a share that somebody wants to hear of."""
        balances = await self._desk.balances([line.key for line in due])
        for line, balance in zip(due, balances, strict=False):
            rule = line.rule
            resets = rule.resets_at(line.period)
            for share in self._desk.reached(line.key, balance, rule):
                self._call.note(
                    "budget.alert",
                    rule=rule.name,
                    account=line.key[0],
                    share=share,
                    spent_usd=f"{balance.spent / 1e9:.4f}",
                    limit_usd=str(rule.usd),
                    resets_at=None if resets is None else resets.isoformat(),
                )


def _charges(costs: Sequence[_Cost]) -> Sequence[Draw]:
    if len(costs) == 1:  # nearly all calls
        ((plan, nano),) = costs
        return plan.draws(nano)
    return [Draw(*line.key, nano, None, 0, line.period.end) for plan, nano in costs for line in plan.lines]
