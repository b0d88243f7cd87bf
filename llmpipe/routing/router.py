"""One of several targets answers, and the next one when it fails.

A `Router` stands where a provider stands: at the core of a chain, or as a target of another router.

**Who is asked.** Those that can do what the request needs, and are not down. The strategy chooses among
those that are well. A degraded target and one on its way back get a share of their calls and stand
behind the others for the rest; one that asked us to wait, or does not take our key, comes last.

**What goes on to the next** is what the error says of itself (`error.rescue`): ``any`` and
``credential`` do; ``context`` goes to targets whose context is larger, or not known; ``policy`` only with
`on_policy`; ``none`` is raised. Each failover is paid from a budget, and none is begun that would go
beyond `attempts` or the deadline.

**When all are down**, the call is refused at once with the shortest wait, or tried all the same at the
one that is soonest back (``when_all_down="try_best"``).

======================  ======================================================================
note                    detail
======================  ======================================================================
``router.picked``       ``target``, ``passed``: who did not stand for choice and why; only if somebody did not
``router.failed_over``  ``from`` and ``to``, ``error`` type
``router.gave_up``      ``reason``: attempts, budget, deadline, all_down; ``error`` type
``router.degraded``     ``target``, ``reason``, ``seconds`` 0
``router.recovered``    ``target``, ``reason``, ``seconds`` 0: it was degraded, and is not any more
``router.down``         ``target``, ``reason``, ``seconds`` it stays so at least
``router.returning``    ``target``, ``reason``, ``seconds`` over which its share grows
``router.readmitted``   ``target``, ``reason``, ``seconds`` 0: it gets its whole share
======================  ======================================================================
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.breaker.board import Board
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.checks import called
from llmpipe.routing.checks import Checks
from llmpipe.routing.circle import once_on_the_way
from llmpipe.routing.desk import Desk, Ward
from llmpipe.routing.explained import RouterExplanation, capabilities_of, explained
from llmpipe.routing.failover import entries, left, most_useful
from llmpipe.routing.fit import Fit, required
from llmpipe.routing.health import Health
from llmpipe.routing.lane import Lane, Meter, chain_of
from llmpipe.routing.lineup import Lineup, line_up, refusal
from llmpipe.routing.route import Route, routes_of
from llmpipe.routing.rules import Change, HealthRules, TargetStatus
from llmpipe.routing.strategies import STRATEGIES, Strategy, strategy_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Middleware
    from llmpipe.pipeline.provider import Capabilities
    from llmpipe.pipeline.reply import Reply
    from llmpipe.pipeline.target import Target
    from llmpipe.runtime import Runtime

__all__ = ("Router", "default_layers")


def default_layers() -> tuple[Middleware, ...]:
    """What a bare provider gets round it: a circuit, and half a minute to its first content.

    Without the latter a target that takes requests and is silent would hold every call until the
    caller's own time is up, with nothing left to ask another.
    """
    _, attempt = Timeout(first=30.0).rings()
    return Breaker(), attempt


class Router:
    """Sends each call to one of several targets: ``Chain(Router(openai, claude), *production())``.

    Args:
        targets: providers, chains and routers, or `Route`s with weight, priority, name, tags. A chain
            is taken as it is; a provider gets `layers` round it.
        strategy: ``round_robin`` (by weights), ``weighted`` (by chance), ``least_busy``,
            ``lowest_latency``, ``cheapest``, ``priority``, ``healthiest``, one of the classes in
            `llmpipe.routing.strategies`, or any function of (candidates, call).
        require: ``"auto"`` asks only targets whose capabilities have all that a request uses; names of
            capabilities look at those alone; ``"none"`` at none.
        when_all_down: ``"refuse"`` or ``"try_best"``.
        on_policy: go on when a content policy refused: another model may answer.
        on_context: go on when the request does not fit the model's context.
        attempts: requests of one call, in all of its chain, beyond which no failover is begun.
        min_attempt: seconds to the deadline, below which none is begun.
        failover_share, failover_floor: how many failovers may fail in a minute: a share of the calls,
            and so many besides.
        cooldown: seconds for which a target comes last that refused the key or has no quota, where it does
            not say how long; 0: none does, whatever they say.
        health: when a target is down and how it comes back.
        checks: how targets are checked that no call tells of; None: they are not.
        layers: middlewares round each provider; by default `default_layers`.
        breaker: the name of the `Breaker` whose circuits are looked at.
        name: names the router as a target, and its health in the runtime.

    Raises: ConfigError for no target, two of one name, one that leads back to itself, a strategy or
    setting that there is not.
    """

    nests = True

    def __init__(  # noqa: PLR0913  settings, each with a default
        self,
        *targets: Target | Route,
        strategy: str | Strategy = "round_robin",
        require: str | Iterable[str] = "auto",
        when_all_down: Literal["refuse", "try_best"] = "refuse",
        on_policy: bool = False,
        on_context: bool = True,
        attempts: int = 4,
        min_attempt: float = 0.5,
        failover_share: float = 0.1,
        failover_floor: int = 20,
        cooldown: float = 30.0,
        health: HealthRules | None = None,
        checks: Checks | None = Checks(),  # noqa: B008  frozen
        layers: Sequence[Middleware] | None = None,
        breaker: str = "breaker",
        name: str = "router",
        model: str = "",
    ) -> None:
        self.routes = routes_of(targets)
        self.strategy = strategy_of(strategy)
        self.name = name
        self.endpoint = ""
        self.model = model
        if when_all_down not in ("refuse", "try_best"):
            raise ConfigError(f"when_all_down is 'refuse' or 'try_best', not {when_all_down!r}")
        numbers: dict[str, Any] = {
            "attempts": attempts,
            "min_attempt": min_attempt,
            "failover_share": failover_share,
            "failover_floor": failover_floor,
            "cooldown": cooldown,
        }
        for what, value in numbers.items():
            least = 1 if what == "attempts" else 0
            if not isinstance(value, int | float) or not value >= least:
                raise ConfigError(f"router {what} is a number, {least} or more, not {value!r}")
        for part, kind in ((health, HealthRules), (checks, Checks)):
            if part is not None and not isinstance(part, kind):
                raise ConfigError(f"a router takes {kind.__name__}(...), not {called(part)}")
        self._looked_at = required(require)
        self._try_best = when_all_down == "try_best"
        self._rescued = {"any", "credential"} | ({"policy"} if on_policy else set())
        self._rescued |= {"context"} if on_context else set()
        self._attempts, self._min_attempt, self._cooldown = attempts, min_attempt, cooldown
        self._share, self._floor = failover_share, failover_floor
        self._rules = health or HealthRules()
        self._checks = checks or Checks(check=None)
        self._breaker = breaker
        around = default_layers() if layers is None else tuple(layers)
        self.chains: tuple[Chain, ...] = tuple(
            chain_of(route, Meter(partial(self._health, route.name), cooldown), around)
            for route in self.routes
        )
        self._desks: dict[Runtime, Desk] = {}
        self._runtime: Runtime | None = None
        self._desk: Desk | None = None

    @property
    def targets(self) -> tuple[Any, ...]:
        """What it leads to."""
        return tuple(route.target for route in self.routes)

    @property
    def capabilities(self) -> Capabilities | None:
        """What at least one of the targets can do; None where one does not say."""
        return capabilities_of(self.routes)

    # ------------------------------------------------------------ a call

    async def __call__(self, call: Call) -> Reply:
        """The reply of the first target that answers. Raises LLMError."""
        runtime = call.runtime
        desk = self._desk
        if desk is None or desk.runtime is not runtime:
            desk = self._enter(runtime)
        elif desk.checker is not None and desk.checker.done():
            desk.begin_checks()
        now = runtime.now()
        desk.budget.window.add(now, False)
        lanes = desk.fit.lanes(call.request)
        if desk.board.troubled or (desk.troubled.names and desk.disturbed):
            lane, spare, there = self._first(call, desk, lanes, now)
        else:
            lane, spare, there = self.strategy(lanes, call), len(lanes) > 1 or call.spare, call
        if not isinstance(lane, Lane):
            raise self._no_candidate(lane)
        try:
            if lane.nests:
                return await self._nested(lane, there, spare)
            return await lane.chain(lane.call(there, spare=spare))
        except LLMError as error:
            failed = error
        return await self._go_on(call, desk, lanes, lane, failed)

    async def _nested(self, lane: Lane, call: Call, spare: bool) -> Reply:
        """Ask a chain or a router, and see that the call does not come back to us through it."""
        with once_on_the_way(self, id(call.ledger)) as once:
            if not once:
                raise ConfigError(
                    f"router {self.name!r} is reached again through its own target {lane.name!r}"
                )
            return await lane.chain(lane.call(call, spare=spare))

    def _first(self, call: Call, desk: Desk, lanes: Sequence[Lane], now: float) -> tuple[Lane, bool, Call]:
        """Whom to ask first when not all are well, whether another stands ready, and the call for it."""
        lineup = line_up(call, lanes, desk.board, now)
        lane = self._choice(call, lineup, now)
        if lane is not None:
            if passed := lineup.passed():
                call.note("router.picked", target=lane.name, passed=passed)
            return lane, len(lineup.ready) + len(lineup.later) > 1 or call.spare, call
        if not self._try_best:
            call.note("router.gave_up", reason="all_down", error="CIRCUIT_OPEN")
            raise refusal(self.name, lineup.out)
        best = min(lineup.out, key=lambda out: (out.wait, -out.lane.health.calls)).lane
        call.note("router.picked", target=best.name, passed=lineup.passed())
        # A circuit that is open would refuse what we have decided to try.
        told = {**call.options.get(Breaker, {}), "mode": "metrics_only"}
        return best, call.spare, call.evolve(options={**call.options, Breaker: told})

    def _choice(self, call: Call, lineup: Lineup, now: float) -> Lane | None:
        among = lineup.choice(now)
        if not among:
            return None
        chosen: Lane = self.strategy(among, call)
        if chosen not in among:  # one that has failed before would be asked for ever
            raise self._no_candidate(chosen)
        return chosen

    def _no_candidate(self, chosen: object) -> ConfigError:
        return ConfigError(f"strategy {self._strategy_name} chose {chosen!r}, none of the candidates")

    async def _go_on(
        self, call: Call, desk: Desk, lanes: Sequence[Lane], lane: Lane, error: LLMError
    ) -> Reply:
        """The reply of the next target that answers, after `lane` failed with `error`."""
        ledger = call.ledger
        failures = [(lane, error)]
        while True:
            now = call.runtime.now()
            failed, last = failures[-1]
            failed.health.heed(now, last, self._cooldown)
            lineup = line_up(call, left(call, lanes, failures, self._rescued), desk.board, now)
            following = self._choice(call, lineup, now)
            reason = self._stops(call, desk, now) if following is not None else ""
            if following is None or reason:
                raise self._told(call, failures, lineup, reason)
            lane = following
            call.note("router.failed_over", **{"from": failed.name, "to": lane.name, "error": last.type})
            begun = len(ledger.attempts)
            spare = len(lineup.ready) + len(lineup.later) > 1 or call.spare
            try:
                reply = await (
                    self._nested(lane, call, spare)
                    if lane.nests
                    else lane.chain(lane.call(call, spare=spare))
                )
            except LLMError as another:
                if len(ledger.attempts) > begun:
                    desk.budget.lose(call.runtime.now())
                failures.append((lane, another))
            except CancelledError:  # the caller's, or its deadline's
                if len(ledger.attempts) > begun and call.remaining() <= 0:
                    desk.budget.lose(call.runtime.now())
                raise
            else:
                for _, failure in failures:
                    failure.survived()
                return reply
            finally:
                desk.budget.settle()

    def _stops(self, call: Call, desk: Desk, now: float) -> str:
        """Why no failover may be begun, or "" and it is paid for."""
        if len(call.ledger.attempts) >= self._attempts:
            return "attempts"
        if call.deadline is not None and call.deadline - now < self._min_attempt:
            return "deadline"
        return "" if desk.budget.take(now) else "budget"

    def _told(
        self, call: Call, failures: Sequence[tuple[Lane, LLMError]], lineup: Lineup, reason: str
    ) -> LLMError:
        """The error to raise when nobody is left, or none may be asked."""
        last = failures[-1][1]
        if not reason and lineup.out:
            reason = "all_down"
        if reason:
            call.note("router.gave_up", reason=reason, error=last.type)
        said = [(lane.name, error) for lane, error in failures]
        passed = [*lineup.passed(), *((lane.name, reason) for lane in lineup.ready)]
        best = most_useful(said)
        if len(said) + len(passed) > 1:
            best.metadata["router"] = entries(said, passed)
        return best

    # ------------------------------------------------------------ looking at it

    def status(self, runtime: Runtime | None = None) -> tuple[TargetStatus, ...]:
        """How each target is doing, on `runtime` or where the router was last at work; within its loop."""
        runtime = runtime or self._runtime
        if runtime is None:
            raise ConfigError("the router has not been asked anything yet; pass the runtime: status(runtime)")
        now = runtime.now()
        return tuple(lane.status(now) for lane in self._lanes(runtime))

    def changes(self, runtime: Runtime | None = None) -> tuple[Change, ...]:
        """The latest changes of its targets' states, oldest first; those that checks made included."""
        runtime = runtime or self._runtime
        return () if runtime is None else (*runtime.state("router", self.name, Ward).troubled.history,)

    def explain(self) -> RouterExplanation:
        """What it does, target by target, with worst cases; print it."""
        return explained(repr(self), self.routes, self.chains, self._attempts)

    def __repr__(self) -> str:
        told = [
            f"{route.name} ×{route.weight:g}" if route.weight != 1 else route.name for route in self.routes
        ]
        return f"<router {self.name}: {self._strategy_name} over {', '.join(told)}>"

    @property
    def _strategy_name(self) -> str:
        chosen: Any = self.strategy
        found = next((name for name, kind in STRATEGIES.items() if isinstance(chosen, kind)), "")
        return found or getattr(chosen, "__name__", type(chosen).__name__)

    # ------------------------------------------------------------ its state

    def _enter(self, runtime: Runtime) -> Desk:
        """Go to work on `runtime`, where another router of this name may have been."""
        desk = self._desks.get(runtime)
        if desk is None:
            ward = runtime.state("router", self.name, Ward)
            ward.budget.share, ward.budget.floor = self._share, self._floor
            lanes = self._lanes(runtime)
            board = runtime.state("breaker", self._breaker, Board)
            fit = Fit(lanes, self._looked_at)
            desk = Desk(lanes, fit=fit, ward=ward, board=board, checks=self._checks, runtime=runtime)
            self._desks[runtime] = desk
            if desk.checks:
                desk.begin_checks()
        self._runtime, self._desk = runtime, desk
        return desk

    def _lanes(self, runtime: Runtime) -> Sequence[Lane]:
        desk = self._desks.get(runtime)
        if desk is not None:
            return desk.lanes
        pairs = zip(self.routes, self.chains, strict=True)
        return [Lane.of(route, chain, self._health(route.name, runtime)) for route, chain in pairs]

    def _health(self, name: str, runtime: Runtime) -> Health:
        return runtime.state("router", self.name, Ward).health(name, self._rules, runtime)

    async def aclose(self) -> None:
        """End the checks and close the targets."""
        with once_on_the_way(self, "closing") as once:
            if not once:
                return  # a chain round this router that is one of its targets is closing already
            async with AsyncExitStack() as stack:  # one that fails to close keeps no other from closing
                for chain in self.chains:
                    stack.push_async_callback(chain.aclose)
                for desk in self._desks.values():
                    stack.push_async_callback(desk.aclose)
                self._desks, self._desk = {}, None  # what is known stays in the runtimes
