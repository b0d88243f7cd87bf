"""Limit what callers may use: requests, tokens and calls at once, per account, user, key, model, together.

=====================  ==========================================================================
note                   detail
=====================  ==========================================================================
``limits.refused``     ``limit`` that had no room, ``retry_after`` in seconds, or None
``limits.wait``        ``seconds`` waited for room
=====================  ==========================================================================

`RateLimit` keeps us under what a provider allows, and queues; this keeps callers under what we allow them, in
a store that all instances share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define, field, frozen

from llmpipe.errors import ConfigError, LimitReached
from llmpipe.middleware.charging import usage_of
from llmpipe.middleware.limits.desk import Desk, Mode
from llmpipe.middleware.limits.rule import REQUESTS, SLOTS, TOKENS, Limit
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.scopes import scopes_of
from llmpipe.middleware.tables import tables
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.runtime import Runtime, at_once, shielded
from llmpipe.secret import shown_url
from llmpipe.state import Ask, Level, Taken
from llmpipe.tokens import estimate_request
from llmpipe.types import Request
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Handler, Middleware
    from llmpipe.pipeline.outcome import Outcome, Result
    from llmpipe.pipeline.reply import Reply

__all__ = ("Limit", "LimitState", "Limits")


@frozen(kw_only=True)
class LimitState:
    """How one limit stands: `remaining` of `limit` units (below 0 in debt), all again in `reset` seconds."""

    key: str
    unit: str
    limit: float
    remaining: float
    reset: float


def _limits(told: Any) -> tuple[Limit, ...]:
    return tables(Limit, told, "limits: limits")


@frozen(kw_only=True)
class Limits:
    """Admits a call if all limits that apply to it have room, and takes from all of them, or from none.

    Limits per provider or model, or for some of them only, are taken from before each attempt, the others
    once. What was refused further in gives back what it took.
    Tokens are estimated before and corrected to what was used. A hit of a cache further out takes nothing.

    Attributes:
        limits: the sets of limits.
        output_tokens: expected of a reply; of `max_tokens` if the request says less.
        max_wait: seconds to wait for room; who would have to wait longer is refused at once.
        headers: put ``x-ratelimit-*`` into the headers of the reply.
        store: URL of the backend; see `llmpipe.state.open_state`.
        lease: seconds after which a slot is free again if this process dies.
        on_store_failure: ``share``, ``refuse`` or ``allow``; see `Desk`.
        nodes: processes that share the store; each goes on with that part of every limit, in ``share``.

    Raises: LimitReached, with the seconds to wait in `retry_after` where they are known; StoreUnavailable.
    """

    limits: tuple[Limit, ...] = field(default=(), converter=_limits)
    output_tokens: int = 256
    max_wait: float = 0.0
    headers: bool = True
    store: str = field(default="memory://", repr=shown_url)
    lease: float = 600.0
    on_store_failure: Mode = "share"
    nodes: int = 1
    name: str = "limits"
    priority: int = bands.SPEND

    why: ClassVar[str] = (
        "inside the cache, for a hit costs nobody anything; outside the budget, which is dearer to ask"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"rations"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        for setting in ("output_tokens", "lease", "nodes"):
            if not getattr(self, setting) > 0:
                raise ConfigError(f"{self.name}: {setting} must be above 0, not {getattr(self, setting)}")
        if not self.max_wait >= 0:
            raise ConfigError(f"{self.name}: max_wait is seconds, at least 0, not {self.max_wait}")
        if self.on_store_failure not in ("share", "refuse", "allow"):
            raise ConfigError(
                f"{self.name}: on_store_failure is share, refuse or allow, not {self.on_store_failure!r}"
            )
        seen: set[str] = set()
        for limit in self.limits:
            if limit.name in seen:
                raise ConfigError(f"{self.name}: two limits are called {limit.name!r}; name one of them")
            seen.add(limit.name)

    def rings(self) -> tuple[Middleware, ...]:
        """The middleware that a chain takes in place of this one, by how its store works."""
        ring = _Quick if self.store.startswith("memory:") else _Durable
        return (ring(config=self, name=self.name, priority=self.priority),)

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """For those who link it by hand."""
        visit = self.visit(call)
        try:
            reply = await call_next(await visit.enter())
        except GeneratorExit:  # we are being dropped and cannot wait
            visit.drop()
            raise
        except BaseException:  # goes on
            await shielded(visit.leave(), call.runtime, "limits: giving back")
            raise
        yield visit.told(reply)
        await visit.leave()

    def visit(self, call: Call) -> _Visit:
        """What `call` takes and gives back."""
        cfg = call.opt(self)
        return _Visit(cfg, cfg.desk(call.runtime), call, len(call.ledger.attempts))

    def desk(self, runtime: Runtime) -> Desk:
        """What all calls on `runtime` share."""
        return runtime.state(
            "limits",
            self.name,
            lambda: Desk(runtime, self.store, self.name, self.on_store_failure, self.nodes),
        )

    async def status(self, runtime: Runtime, **scopes: str) -> list[LimitState]:
        """How the limits stand of calls of these scopes: ``account="acme", model="gpt-4o"``."""
        known = {"account": scopes.get("tenant", ""), **scopes}
        pairs = [pair for one in self.limits if one.applies(known) for pair in one.asks(known, 0.0)]
        taken = await self.desk(runtime).levels([ask for _, ask in pairs])
        return [_state(unit, ask, level) for (unit, ask), level in zip(pairs, taken.levels, strict=True)]

    async def reset(self, runtime: Runtime, **scopes: str) -> None:
        """Give calls of these scopes all their room again."""
        keys = [state.key for state in await self.status(runtime, **scopes)]
        await self.desk(runtime).reset(keys)


@define(eq=False)
class _Ticket:
    """What was taken at one time, and for which attempts: of one target, or all of the call."""

    id: str
    pairs: list[tuple[str, Ask]]
    target: tuple[str, str] | None
    attempts: list[Attempt] = field(factory=list)

    def used(self) -> dict[str, float]:
        """Key to units, of what can be corrected: nothing of what was never tried."""
        tokens = 0
        for attempt in self.attempts:
            usage = usage_of(attempt)
            tokens += 0 if usage is None else usage.input_tokens + usage.output_tokens
        units = {TOKENS: float(tokens), REQUESTS: 1.0 if self.attempts else 0.0}
        return {ask.key: units[unit] for unit, ask in self.pairs if unit in units}


@define(eq=False)
class _Visit:
    """What one call has taken: a ticket for each time it took something, and by whom."""

    config: Limits
    desk: Desk
    call: Call
    begun: int
    tickets: list[_Ticket] = field(factory=list)
    levels: list[_Standing] = field(factory=list)

    async def enter(self) -> Call:
        """Take what is taken once for the call; the call that goes on."""
        once = [limit for limit in self.config.limits if not limit.of_a_target]
        if once:
            await self.take(self.call, once, whole=True)
        return self.inner()

    def inner(self) -> Call:
        """The call that goes on."""
        if any(limit.of_a_target for limit in self.config.limits):
            return self.call.evolve(guards=(*self.call.guards, self._attempt))
        return self.call

    async def _attempt(self, call: Call) -> Call:
        await self.take(call, [limit for limit in self.config.limits if limit.of_a_target], whole=False)
        return call

    async def take(self, call: Call, limits: Sequence[Limit], *, whole: bool) -> None:
        """Take from `limits`, waiting for room if that is short enough.

        Raises: LimitReached.
        """
        target: Any = call.target or call.provider
        provider, model = target.name, call.request.model or target.model
        scopes = scopes_of(call, provider, model)
        tokens = self._tokens(call)
        pairs = [pair for one in limits if one.applies(scopes) for pair in one.asks(scopes, tokens)]
        if not pairs:
            return
        asks = [ask for _, ask in pairs]
        ticket = _Ticket(call.runtime.new_id("ticket-"), pairs, None if whole else (provider, model))
        self.tickets.append(ticket)  # before the wait: who is cancelled there gives back what he may have got
        taken = await self.desk.take(ticket.id, asks, self.config.lease)
        if taken.refused is not None:
            taken = await self._waited(call, ticket, asks, taken)
        if self.config.headers:
            self.levels += zip(pairs, taken.levels, strict=False)

    async def _waited(self, call: Call, ticket: _Ticket, asks: Sequence[Ask], taken: Taken) -> Taken:
        """What is taken after waiting for room."""
        now = call.runtime.now()
        until = now + min(self.config.max_wait, call.remaining())
        while taken.refused is not None:
            # Slots come free when they come free: those that wait look again four times a second.
            pause = 0.25 if taken.retry_after is None else taken.retry_after
            if call.runtime.now() + pause > until:
                self.tickets.remove(ticket)
                raise self._refusal(call, *ticket.pairs[taken.refused], taken.retry_after)
            await asyncio.sleep(pause)
            taken = await self.desk.take(ticket.id, asks, self.config.lease)
        call.note("limits.wait", seconds=call.runtime.now() - now)
        return taken

    def _tokens(self, call: Call) -> float:
        request = call.request
        output = 0
        if isinstance(request, Request):
            output = self.config.output_tokens
            if request.max_tokens is not None:
                output = min(output, request.max_tokens)
        return float(estimate_request(request) + output)

    @staticmethod
    def _refusal(call: Call, unit: str, ask: Ask, retry_after: float | None) -> LimitReached:
        call.note("limits.refused", limit=ask.key, retry_after=retry_after)
        when = "when a call ends" if retry_after is None else f"in {retry_after:.3g} s"
        what = (
            f"{ask.limit:g} calls at once" if unit == SLOTS else f"{ask.limit:g} {unit} in {ask.period:g} s"
        )
        error = LimitReached(
            f"limit {ask.key!r} of {what} is reached; there is room {when}",
            retry_after=retry_after,
            phase="admit",
            metadata={"limit": ask.key, "unit": unit},
        )
        error.metadata["headers"] = _headers([((unit, ask), Level(0.0, retry_after or 0.0))])
        return error

    def told(self, reply: Reply) -> Reply:
        """The reply, which says how the limits stand."""
        if self.levels and not reply.streamed:
            reply.amend(partial(_with_headers, self.levels))
        return reply

    def drop(self) -> None:
        """Leave in the background; where no loop runs any more, leases end by themselves."""
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            _ = self.call.runtime.spawn(self.leave(), "limits: giving back")

    async def leave(self) -> None:
        """Correct the tokens to what was used, and free the slots."""
        for attempt in self.call.ledger.attempts[self.begun :]:
            target = (attempt.provider, attempt.asked_model)
            for ticket in self.tickets:
                if ticket.target is None:
                    ticket.attempts.append(attempt)
                elif ticket.target == target and not ticket.attempts:
                    ticket.attempts.append(attempt)
                    break
        for ticket in self.tickets:
            await self.desk.settle(ticket.id, ticket.used())


def _state(unit: str, ask: Ask, level: Level) -> LimitState:
    return LimitState(key=ask.key, unit=unit, limit=ask.limit, remaining=level.remaining, reset=level.reset)


_Standing = tuple[tuple[str, Ask], Level]
"""Of one limit: its unit, what was asked of it, and how it stands."""

_NAMES = {
    unit: tuple([f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset")])
    for unit in (REQUESTS, TOKENS)
}


def _headers(levels: Iterable[_Standing]) -> dict[str, str]:
    """How the tightest limits of requests and of tokens stand, as OpenAI's headers say it."""
    tightest: dict[str, tuple[float, Ask, Level]] = {}
    for (unit, ask), level in levels:
        share = level.remaining / ask.limit
        if unit in _NAMES and (unit not in tightest or share < tightest[unit][0]):
            tightest[unit] = (share, ask, level)
    found: dict[str, str] = {}
    for unit, (_, ask, level) in tightest.items():
        limit, remaining, reset = _NAMES[unit]
        found[limit] = f"{ask.limit:g}"
        found[remaining] = str(max(0, int(level.remaining)))
        found[reset] = f"{ceil(level.reset * 1000)}ms"
    return found


def _with_headers(levels: Iterable[_Standing], result: Result) -> Result:
    return replace(result, headers={**result.headers, **_headers(levels)})


@frozen(kw_only=True)
class _Ring:
    config: Limits
    name: str
    priority: int

    why: ClassVar[str] = Limits.why
    traits: ClassVar[frozenset[str]] = Limits.traits


@frozen(kw_only=True)
class _Quick(_Ring):
    """Of a store in memory, which never waits: so this awaits nothing after its yield, which is cheap."""

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        visit = self.config.visit(call)
        try:
            reply = await call_next(await visit.enter())
        except BaseException:  # goes on
            at_once(visit.leave())
            raise
        yield visit.told(reply)
        at_once(visit.leave())


@frozen(kw_only=True)
class _Durable(_Ring):
    """Of any other store."""

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        visit = self.config.visit(call)
        try:
            reply = await call_next(await visit.enter())
        except GeneratorExit:  # we are being dropped and cannot wait
            visit.drop()
            raise
        except BaseException:  # goes on
            await shielded(visit.leave(), call.runtime, "limits: giving back")
            raise
        yield visit.told(reply)
        await visit.leave()
