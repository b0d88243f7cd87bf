"""What one call may spend: held before each of its attempts, settled when the call is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmpipe.middleware.budget.journal import MOST_CHARGED, line_of
from llmpipe.middleware.budget.plan import Line, Plan
from llmpipe.middleware.budget.refusal import refusal, unknown_price
from llmpipe.middleware.budget.worst import answers, capped, output_cap, worst
from llmpipe.middleware.charging import charge_for, price_for, tier_of, usage_of
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.state import Draw, Shortage, Spend
from llmpipe.tokens import bound_tokens, estimate_tokens
from llmpipe.types import AnyRequest, EmbeddingRequest, Request
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.middleware.budget import Budget
    from llmpipe.middleware.budget.desk import Desk
    from llmpipe.pricing import Price

__all__ = ("Purse",)

_MOST_HELD = 10**12  # nano-USD, of what only tells: no more depends on it, and sums stay exact everywhere
_Bill = tuple[Sequence[Draw], Sequence[Spend]]


def _pays(plan: Plan, key: tuple[str, int]) -> bool:
    return any(line.key == key for line in plan.lines)


class _Pass:
    """One attempt that was admitted: what it may cost, and once it is over, what it did.

    `place` is where the ledger was to have it next; `own` whether that ledger is the call's own, for
    several calls may be sent as one.
    """

    __slots__ = ("attempt", "likely", "nano", "own", "place", "plan", "provider", "request", "tokens")

    def __init__(self, plan: Plan, provider: str, request: AnyRequest, nano: int, likely: int) -> None:
        self.plan, self.provider, self.request = plan, provider, request
        self.nano, self.likely = nano, likely
        self.tokens = 0
        self.place = -1  # not admitted yet
        self.own = True
        self.attempt: Attempt | None = None


class Purse:
    """The money of one call. Its budgets are those of the time at which it began."""

    __slots__ = (
        "_at",
        "_begun",
        "_call",
        "_charged",
        "_config",
        "_desk",
        "_id",
        "_late",
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
        self._charged: Sequence[Line] = ()
        self._may_be_held = False
        self._late = 0
        self.over = False

    # ------------------------------------------------------------ before an attempt

    async def admit(self, call: Call) -> Call:
        """Hold what the attempt that `call` is about to make may cost; the call, with what had to change.

        Raises: BudgetExceeded; StoreUnavailable where the budget cannot be looked at.
        """
        config = self._config
        followed: set[str] = set()
        while True:
            target: Any = call.target or call.provider
            request = call.request
            provider, model = target.name, request.model or target.model
            plan = config.plans.of(self._call, provider, model, self._at)
            limiter = plan.limiter
            price = self._price(target, model, request)
            if limiter is not None:
                if price is None and config.unknown_price == "refuse":
                    raise unknown_price(provider, model, limiter)
                if isinstance(request, Request) and (request.max_tokens is None or request.max_tokens < 1):
                    request = capped(request, config.output_tokens)
                    call = call.evolve(request=request)
            count = bound_tokens if config.strict else estimate_tokens
            nano, likely = worst(request, price, config.output_tokens, count) if plan.lines else (0, 0)
            made = _Pass(plan, provider, request, nano, likely)
            short = await self._hold(made)
            if short is None:
                self._admitted(made, call)
                return call
            line = plan.lines[short.index]
            rule = line.rule
            if rule.action != "downgrade" or rule.name in followed or not isinstance(request, Request):
                needed = self._needed(line.key) + nano
                error = refusal(line, needed, short, plan.scopes, call.runtime.wall())
                call.note("budget.refused", rule=rule.name, code=error.code)
                raise error
            followed.add(rule.name)  # two that send to each other's model would go on for ever
            call.note("budget.downgrade", rule=rule.name, model=model, to=rule.downgrade_to)
            call = call.evolve(request=replace(request, model=rule.downgrade_to))

    def _price(self, target: Any, model: str, request: AnyRequest) -> Price | None:
        tier = tier_of(request) if request.extra else ""
        found = self._config.table.find(target.name, model, tier=tier)
        if found is None and (sold_as := getattr(target, "sold_as", "")):
            found = price_for(self._config.table, target.name, sold_as, model, model, tier=tier)
        return found

    def _admitted(self, made: _Pass, call: Call) -> None:
        """Note where the attempt will stand: nothing happens between this and its being written there."""
        made.own = call.ledger is self._call.ledger
        made.place = len(call.ledger.attempts)
        if self._config.cut and made.plan.limiter is not None and isinstance(made.request, Request):
            cap = output_cap(made.request, self._config.output_tokens)
            made.tokens = cap * answers(made.request)

    async def _hold(self, made: _Pass) -> Shortage | None:
        """Hold what `made` needs, in all its budgets or in none; what was short, if any was.

        It counts from the first moment, for another attempt may be made beside this one.
        """
        if self._passes:
            self._learn()
        draws = self._draws(made)
        self._passes.append(made)
        if not draws:
            return None
        config, short = self._config, None
        slack = int(config.slack_usd * 10**9)
        try:
            short = await self._desk.reserve(self._hold_id(), draws, config.lease, made.nano, slack)
        except BaseException:  # goes on; whether the store has done it nobody knows
            self._passes.remove(made)
            self._may_be_held = True
            raise
        if short is None:
            self._may_be_held = True
        else:
            self._passes.remove(made)
        return short

    def _hold_id(self) -> str:
        """That of the call; once that is settled, a new one for each attempt made all the same.

        Such as one of several calls that were sent as one, the first of which has left. What it holds is
        charged as likely when the lease ends.
        """
        if not self.over:
            return self._id
        self._late += 1
        return f"{self._id}+{self._late}"

    def _draws(self, made: _Pass) -> list[Draw]:
        """What is to be held of each balance, for all attempts so far and `made`."""
        draws = []
        for line in made.plan.lines:
            nano, likely, limit = made.nano, made.likely, line.limit
            key = line.key
            if self._passes:
                nano += self._needed(key)
                likely += sum([one.likely for one in self._passes if _pays(one.plan, key)])
            # More than fits is more than fits; that much more might not fit the store's numbers.
            most = _MOST_HELD if limit is None else limit + 1
            draws.append(Draw(key[0], key[1], min(nano, most), limit, min(likely, most), line.period.end))
        return draws

    def _needed(self, key: tuple[str, int]) -> int:
        """What all attempts so far need of that balance."""
        return sum([one.nano for one in self._passes if _pays(one.plan, key)])

    def _learn(self) -> None:
        """Of attempts that are over, what they cost takes the place of what they might have."""
        for one in self._passes:
            if one.attempt is None and one.own and one.place >= 0:
                attempt = self._attempt_of(one)
                if attempt is not None and (attempt.outcome is not None or attempt.error is not None):
                    one.attempt = attempt
                    charge = attempt.charge
                    if charge is None:
                        charge = charge_for(self._config.table, attempt, attempt.model, usage_of(attempt))
                    if charge is not None:
                        one.nano = one.likely = min(charge.input_nano + charge.output_nano, MOST_CHARGED)

    def _attempt_of(self, one: _Pass) -> Attempt | None:
        """The attempt that `one` is of: the next in the ledger, unless a guard further in waited."""
        attempts = self._call.ledger.attempts
        if one.place < len(attempts) and attempts[one.place].request is one.request:
            return attempts[one.place]
        taken = {id(other.attempt) for other in self._passes if other.attempt is not None}
        free = [attempt for attempt in attempts[max(0, one.place) :] if id(attempt) not in taken]
        same = [attempt for attempt in free if attempt.request is one.request]
        return next((attempt for attempt in same or free if attempt.provider == one.provider), None)

    # ------------------------------------------------------------ while it streams

    def allowed(self) -> int:
        """Tokens of output that all attempts so far may bring."""
        return sum([one.tokens for one in self._passes])

    @property
    def meters(self) -> bool:
        """Whether a stream is to be cut that goes far beyond what is held."""
        return any(one.tokens for one in self._passes)

    # ------------------------------------------------------------ when the call is over

    async def settle(self) -> None:
        """Charge what the attempts really cost, free the rest, and write each into the journal."""
        bill = self._bill()
        if bill is not None:
            await self._desk.settle(self._id, *bill)
            if bill[0]:
                await self._tell(bill[0])

    def leave(self) -> None:
        """The same, later: nobody can wait for it here."""
        bill = self._bill()
        if bill is not None:
            self._desk.owe(self._id, *bill)

    def _bill(self) -> _Bill | None:
        """The charges and the lines of the journal; None where nothing was held, nor spent."""
        if self.over:
            return None
        self.over = True
        attempts = self._own()
        if not attempts and not self._may_be_held:
            return None
        config, call = self._config, self._call
        charges: dict[tuple[str, int], list[Any]] = {}
        rows: list[Spend] = []
        for attempt, plan in attempts:
            charge, usage = attempt.charge, usage_of(attempt)
            if charge is None:
                charge = charge_for(config.table, attempt, attempt.model, usage)
            rows.append(line_of(self._id, call, attempt, usage, charge, digests=config.digests))
            if charge is None:
                continue
            nano = min(charge.input_nano + charge.output_nano, MOST_CHARGED)
            if len(attempts) == 1:  # nearly all calls
                self._charged = plan.lines
                return [Draw(*one.key, nano, None, 0, one.period.end) for one in plan.lines], rows
            for line in plan.lines:
                entry = charges.get(line.key)
                if entry is None:
                    charges[line.key] = [nano, line]
                else:
                    entry[0] += nano
        self._charged = [line for _, line in charges.values()]
        return [Draw(*key, nano, None, 0, line.period.end) for key, (nano, line) in charges.items()], rows

    def _own(self) -> list[tuple[Attempt, Plan]]:
        """The attempts that this pays for, with the budgets they are paid from.

        Not those of a branch beside this one, where several targets are asked at once and each has a
        budget of its own. Attempts that were made for several calls are copied into each one's ledger.
        """
        ledger, plans = self._call.ledger.attempts, self._config.plans
        found = []
        if all(one.own for one in self._passes):
            for one in self._passes:
                attempt = one.attempt
                if attempt is None:
                    attempt = self._attempt_of(one)
                    if attempt is None:  # refused by a guard further in
                        continue
                    one.attempt = attempt
                found.append((attempt, one.plan))
            if found or not isinstance(self._call.request, EmbeddingRequest):
                return found
        return [
            (attempt, plans.of(self._call, attempt.provider, attempt.asked_model, self._at))
            for attempt in ledger[self._begun :]
        ]

    async def _tell(self, charges: Sequence[Draw]) -> None:
        """Note which budgets have come to a share that somebody wants to hear of."""
        desk = self._desk
        due = [
            line
            for line, draw in zip(self._charged, charges, strict=True)
            if line.rule.alert_at and desk.rises(line.key, draw.nano)
        ]
        if not due:
            return
        balances = await desk.balances([line.key for line in due])
        for line, balance in zip(due, balances, strict=False):
            rule = line.rule
            resets = rule.resets_at(line.period)
            for share in desk.reached(line.key, balance, rule):
                self._call.note(
                    "budget.alert",
                    rule=rule.name,
                    account=line.key[0],
                    share=share,
                    spent_usd=f"{balance.spent / 1e9:.4f}",
                    limit_usd=str(rule.usd),
                    resets_at=None if resets is None else resets.isoformat(),
                )
