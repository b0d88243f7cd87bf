"""What one call takes from its limits, and gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llmpipe.errors import LimitReached
from llmpipe.middleware.charging import usage_of
from llmpipe.middleware.limits.desk import Desk, QuickDesk
from llmpipe.middleware.limits.headers import Standing, WithLimits, ratelimit_headers
from llmpipe.middleware.limits.plan import Plan, Plans
from llmpipe.middleware.limits.rule import SLOTS
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.state import Ask, Level, Taken
from llmpipe.state.memory.limits import Answer
from llmpipe.types import Request
from llmpipe.types.copying import recharged

if TYPE_CHECKING:
    from llmpipe.middleware.limits import Limits
    from llmpipe.pipeline.outcome import Outcome, Result
    from llmpipe.pipeline.reply import Reply

__all__ = ("Visit",)

_MAX_TOKENS = 2**53  # the most that a store can reckon with
_NOTHING: Mapping[str, float] = {}


class _Ticket:
    """What was taken at one time, and for which attempts: one of `target`, or all of the call.

    `granted` says that it was: until then somebody waits for it, and may do so beside other attempts.
    """

    __slots__ = ("attempt", "granted", "id", "plan", "target", "tokens")

    def __init__(self, id_: Any, plan: Plan, tokens: float, target: tuple[str, str] | None) -> None:
        self.id = id_
        self.plan = plan
        self.tokens = tokens
        self.target = target
        self.attempt: Attempt | None = None
        self.granted = False

    def used(self, attempts: Sequence[Attempt]) -> Mapping[str, float]:
        """Key to units, of what is to be corrected after a call that made `attempts`.

        Nothing was used of what was never tried.
        """
        order = self.plan.order
        if self.target is not None:
            attempts = () if self.attempt is None else (self.attempt,)
        if not attempts:
            return dict.fromkeys(order.increments, 0.0)
        metered = order.metered
        if not metered:
            return _NOTHING
        tokens = 0
        for attempt in attempts:
            usage = usage_of(attempt)
            if usage is not None:
                tokens += usage.input_tokens + usage.output_tokens
        if (
            not 0 <= tokens <= _MAX_TOKENS
        ):  # nonsense of a provider's: the estimate stands, the slots come free
            return _NOTHING
        return {key: float(tokens) for key, _, _ in metered}


class Visit:
    """What one call has taken: a ticket for each time it took something, and by whom."""

    __slots__ = ("begun", "call", "config", "desk", "left", "matched", "standings", "tickets")

    def __init__(self, config: Limits, desk: Desk | QuickDesk, call: Call) -> None:
        self.config = config
        self.desk = desk
        self.call = call
        self.begun = len(call.ledger.attempts)
        self.tickets: list[_Ticket] = []
        self.matched: set[int] = set()  # ids of the attempts that a ticket was found for
        self.standings: list[Standing] = []
        self.left = False

    async def enter(self) -> Call:
        """Take what is taken once for the call; the call that goes on.

        Raises: LimitReached.
        """
        call, config = self.call, self.config
        if config.of_calls is not None:
            await self._take(call, config.of_calls, None)
        if config.of_targets is not None:
            return call.evolve(guards=(*call.guards, self._attempt))
        return call

    async def _attempt(self, call: Call) -> Call:
        plans = self.config.of_targets
        assert plans is not None
        target: Any = call.target or call.provider
        if self.tickets:
            await self._give_back(call)
        await self._take(call, plans, (target.name, call.request.model or target.model))
        return call

    async def _give_back(self, call: Call) -> None:
        """What was taken for attempts that are over: the slot of one must not keep its own retry waiting."""
        attempts = self.call.ledger.attempts[self.begun :]
        if call.ledger is not self.call.ledger:  # a branch that counts its attempts by itself, until it ends
            attempts = attempts + call.ledger.attempts
        self._match(attempts)
        over = [one for one in self.tickets if one.attempt is not None and one.attempt.ended_at is not None]
        if over:
            self.tickets = [one for one in self.tickets if one not in over]
            await self.desk.settle([(one.id, one.used(())) for one in over])

    async def _take(self, call: Call, plans: Plans, target: tuple[str, str] | None) -> None:
        """Take what `plans` say, waiting for room if that is short enough."""
        plan = plans.of(call, target)
        order = plan.order
        if not order.asks:
            return
        tokens = self._tokens(call) if order.metered else 0.0
        desk = self.desk
        ticket = _Ticket(desk.new_id(), plan, tokens, target)
        self.tickets.append(ticket)  # before the wait: who is cancelled there gives back what he may have got
        taken = await desk.take(ticket.id, order, tokens, self.config.lease)
        if taken.refused is not None:
            taken = await self._waited(call, ticket, taken)
        ticket.granted = True
        if self.config.headers:
            self.standings.append((plan, taken))
        if self.left:  # of calls that were sent as one, this has left before; nobody will end it any more
            self.tickets.remove(ticket)
            await desk.settle([(ticket.id, _NOTHING)])

    async def _waited(self, call: Call, ticket: _Ticket, taken: Taken | Answer) -> Taken | Answer:
        """What is taken after waiting for room."""
        now = call.runtime.now()
        until = now + min(self.config.max_wait, call.remaining())
        while taken.refused is not None:
            # Slots come free when they come free: those that wait look again four times a second.
            pause = 0.25 if taken.retry_after is None else taken.retry_after
            if call.runtime.now() + pause > until:
                self.tickets.remove(ticket)
                self.desk.forget(ticket.id)
                place = taken.refused
                plan = ticket.plan
                raise _refusal(call, plan.units[place], plan.asks[place], taken.retry_after)
            await asyncio.sleep(pause)
            if ticket.target is not None:
                await self._give_back(call)
            taken = await self.desk.take(ticket.id, ticket.plan.order, ticket.tokens, self.config.lease)
        call.note("limits.wait", seconds=call.runtime.now() - now)
        return taken

    def _tokens(self, call: Call) -> float:
        """What the call will use, as far as one can tell before."""
        request = call.request
        tokens = call.ledger.estimated_tokens(request)
        if isinstance(request, Request):
            output = self.config.output_tokens
            most = request.max_tokens  # below 1 it is none: to some servers -1 is without end
            tokens += output if most is None or most > output or most < 1 else most
        if not 0 <= tokens <= _MAX_TOKENS:
            raise ValueError(f"limits: a call is of 0 to 2**53 tokens, not {tokens}")
        return float(tokens)

    def told(self, reply: Reply) -> Reply:
        """The reply, which says how the limits stand."""
        if self.standings and not reply.streamed:
            reply.amend(self._with_headers)
        return reply

    def _with_headers(self, result: Result) -> Result:
        return recharged(result, result.charge, WithLimits(result.headers, self.standings))

    def drop(self) -> None:
        """Leave in the background; where no loop runs any more, leases end by themselves."""
        for ticket in self.tickets:
            self.desk.drop(ticket.id)
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            _ = self.call.runtime.spawn(self.leave(), "limits: giving back")

    async def leave(self) -> None:
        """Correct the tokens to what was used, and free the slots."""
        self.left = True
        attempts = self._attempts()
        await self.desk.settle([(ticket.id, ticket.used(attempts)) for ticket in self.tickets])

    def ended(self, _call: Call, _outcome: Outcome) -> None:
        """`leave_now`: the reply is over."""
        self.leave_now()

    def leave_now(self) -> None:
        """`leave`, of limits in memory."""
        assert isinstance(self.desk, QuickDesk)
        self.left = True
        attempts, release = self._attempts(), self.desk.release
        try:
            for ticket in self.tickets:
                release(ticket.id, ticket.used(attempts))
        except RuntimeError:  # dropped when no loop runs any more, nor its clock
            self.desk.later([(ticket.id, ticket.used(attempts)) for ticket in self.tickets])

    def _attempts(self) -> list[Attempt]:
        """What was tried; and each ticket of a target knows its attempt."""
        attempts = self.call.ledger.attempts[self.begun :]
        if self.config.of_targets is not None:
            self._match(attempts)
        return attempts

    def _match(self, attempts: Sequence[Attempt]) -> None:
        """Tell each ticket of a target the attempt that it was taken for: the next one at that target."""
        matched = self.matched
        for attempt in attempts:
            if id(attempt) in matched:
                continue
            target = (attempt.provider, attempt.asked_model)
            for ticket in self.tickets:
                if ticket.target == target and ticket.attempt is None and ticket.granted:
                    ticket.attempt = attempt
                    matched.add(id(attempt))
                    break


def _refusal(call: Call, unit: str, ask: Ask, retry_after: float | None) -> LimitReached:
    call.note("limits.refused", limit=ask.key, retry_after=retry_after)
    when = "when a call ends" if retry_after is None else f"in {retry_after:.3g} s"
    limit = f"{ask.limit:.15g}"
    what = f"{limit} calls at once" if unit == SLOTS else f"{limit} {unit} in {ask.period:g} s"
    error = LimitReached(
        f"limit {ask.key!r} of {what} is reached; there is room {when}",
        retry_after=retry_after,
        phase="admit",
        metadata={"limit": ask.key, "unit": unit},
    )
    error.metadata["headers"] = ratelimit_headers([(unit, ask, Level(0.0, retry_after or 0.0))])
    return error
