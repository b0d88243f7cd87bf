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

from collections.abc import AsyncGenerator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.limits.desk import Desk, Mode, QuickDesk, is_quick
from llmpipe.middleware.limits.plan import Plans, plan_for
from llmpipe.middleware.limits.rule import Limit
from llmpipe.middleware.limits.visit import Visit
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.scopes import asked
from llmpipe.middleware.tables import tables
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.runtime import Runtime, shielded
from llmpipe.secret import shown_url

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Handler, Middleware
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply

__all__ = ("Limit", "LimitState", "Limits")


@frozen(kw_only=True)
class LimitState:
    """How one limit stands: `remaining` of the `burst` that may be had at once, all again in `reset` seconds.

    Below 0 it is in debt. `limit` is how many units come in a period; of slots there are so many, in both.
    """

    key: str
    unit: str
    limit: float
    burst: float
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
        headers: put ``x-ratelimit-*`` into the headers of the reply; see `ratelimit_headers`.
        store: URL of the backend; see `llmpipe.state.open_state`.
        lease: seconds after which a slot is free again if this process dies; while it lives, it renews them.
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
    of_calls: Plans | None = field(init=False, repr=False, eq=False)
    of_targets: Plans | None = field(init=False, repr=False, eq=False)
    _place: str = field(init=False, repr=False, eq=False)

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
        place = f"{self.name} {self.on_store_failure} {self.nodes} {self.store}"
        object.__setattr__(self, "_place", place)  # frozen: part of the construction
        for setting, of_a_target in (("of_calls", False), ("of_targets", True)):
            limits = [limit for limit in self.limits if limit.of_a_target is of_a_target]
            object.__setattr__(self, setting, Plans(limits) if limits else None)  # as above

    def rings(self) -> tuple[Middleware, ...]:
        """The middleware that a chain takes in place of this one, by how its store works."""
        ring = _Quick if is_quick(self.store) else _Durable
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

    def visit(self, call: Call) -> Visit:
        """What `call` takes and gives back. Raises: ConfigError for a call with a store of its own."""
        cfg = call.opt(self) if call.options else self
        if cfg.store != self.store:  # which decides how the chain was linked
            raise ConfigError(f"{self.name}: the store is that of all calls, and cannot be changed for one")
        return Visit(cfg, cfg.desk(call.runtime), call)

    def desk(self, runtime: Runtime) -> Desk | QuickDesk:
        """What all calls on `runtime` share."""
        return runtime.state("limits", self._place, partial(self._open, runtime))

    def _open(self, runtime: Runtime) -> Desk | QuickDesk:
        if is_quick(self.store):
            return QuickDesk(runtime, self.store, self.name)
        return Desk(runtime, self.store, self.name, self.on_store_failure, self.nodes)

    async def status(self, runtime: Runtime, **scopes: str) -> list[LimitState]:
        """How the limits stand of calls of these scopes: ``account="acme", model="gpt-4o"``.

        Tags are scopes called as in a limit: ``**{"tag:team": "search"}``.
        Raises: ConfigError for a scope that there is not; StoreUnavailable.
        """
        plan = plan_for(self.limits, asked(scopes, f"{self.name}: status"))
        taken = await self.desk(runtime).levels(plan.asks)
        return [
            LimitState(
                key=ask.key,
                unit=unit,
                limit=ask.limit,
                burst=ask.burst if ask.period else ask.limit,
                remaining=level.remaining,
                reset=level.reset,
            )
            for unit, ask, level in zip(plan.units, plan.asks, taken.levels, strict=True)
        ]

    async def reset(self, runtime: Runtime, **scopes: str) -> None:
        """Give calls of these scopes all their room again. Raises: as `status`."""
        keys = [state.key for state in await self.status(runtime, **scopes)]
        await self.desk(runtime).reset(keys)


@frozen(kw_only=True)
class _Ring:
    config: Limits
    name: str
    priority: int

    why: ClassVar[str] = Limits.why
    traits: ClassVar[frozenset[str]] = Limits.traits


@frozen(kw_only=True)
class _Quick(_Ring):
    """Of a store in memory, which never waits: so neither does this when the reply is over."""

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        visit = self.config.visit(call)
        try:
            reply = await call_next(await visit.enter())
        except BaseException:  # goes on
            visit.leave_now()
            raise
        return visit.told(reply).when_over(visit.ended, call)


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
