"""A router's way to one target: its chain, its health, and the meter that sees how each call ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import define

from llmpipe.errors import LLMError
from llmpipe.middleware.breaker.board import Board
from llmpipe.middleware.breaker.circuit import Circuit
from llmpipe.middleware.breaker.rules import OPEN
from llmpipe.pipeline.chain import Chain
from llmpipe.routing.health import Health
from llmpipe.routing.route import Named, Route, innermost
from llmpipe.routing.rules import Change, TargetStatus
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler, Middleware
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply
    from llmpipe.runtime import Runtime

__all__ = ("Lane", "Meter", "chain_of", "tell")


class Meter:
    """Counts what goes to a target and judges how it ended: outermost in the chain round it.

    What is counted is taken back exactly once, however the call ends, for it is a frame of the reply.
    """

    why: ClassVar[str] = "sees how each call to this target really ended"
    traits: ClassVar[frozenset[str]] = frozenset({"counts"})

    def __init__(self, health_of: Callable[[Runtime], Health], cooldown: float = 0.0) -> None:
        self.name = "router.meter"
        self.priority = 0  # outside of every band
        self._health_of = health_of
        self._cooldown = cooldown
        self._known: tuple[Runtime | None, Any] = None, None  # one value, for threads

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """The reply, counted."""
        runtime = call.runtime
        known = self._known
        if runtime is not known[0]:
            known = self._known = runtime, self._health_of(runtime)
        health: Health = known[1]
        health.in_flight += 1
        health.calls += 1
        try:
            begun = runtime.now()
            try:
                reply = await call_next(call)
            except LLMError as error:
                if error.health == "failure":
                    tell(call, health.failed(runtime.now(), begun, error.type, error.retry_after))
                elif error.health == "success":
                    health.streak = 0
                raise
            change = health.answered(runtime.now(), begun)
            if change is not None:
                tell(call, change)
            outcome = yield reply
            broke = outcome.error
            if isinstance(broke, LLMError):
                health.heed(outcome.ended_at, broke, self._cooldown)
                if broke.health == "failure":
                    tell(call, health.failed(outcome.ended_at, begun, broke.type, counted=True))
            elif outcome.ok:
                health.breaks = 0
        finally:
            health.in_flight -= 1


def tell(call: Call, change: Change | None) -> None:
    """Note `change`, if there is one."""
    if change is not None:
        call.note(f"router.{change.kind}", target=change.target, reason=change.reason, seconds=change.seconds)


def chain_of(route: Route, meter: Meter, layers: Sequence[Middleware]) -> Chain:
    """The chain that calls to the target of `route` go through.

    A provider gets `layers` round it, a chain or a router nothing but the meter.
    """
    target = route.target
    if isinstance(target, Chain) or getattr(target, "nests", False):
        return Chain(target, meter, *(route.layers or ()))
    if route.name != target.name:
        target = Named(target, route.name)
    return Chain(target, meter, *(layers if route.layers is None else route.layers))


@define(eq=False)
class Lane:
    """A target as strategies see it, on one runtime. `turn` is a number that belongs to the strategy."""

    route: Route
    chain: Chain
    health: Health
    name: str
    weight: float
    priority: int
    model: str
    nests: bool
    turn: float = 0.0

    @classmethod
    def of(cls, route: Route, chain: Chain, health: Health) -> Lane:
        """The lane of `route` through `chain`."""
        nests = isinstance(route.target, Chain) or getattr(route.target, "nests", False)
        return cls(
            route, chain, health, route.name, route.weight, route.priority, route.asked_model, bool(nests)
        )

    @property
    def tags(self) -> Mapping[str, str]:
        """The route's labels."""
        return self.route.tags

    @property
    def priced_as(self) -> str:
        """What the price table calls its provider."""
        core = innermost(self.route.target)
        name: str = getattr(getattr(core, "profile", None), "prices", "") or core.name
        return name

    @property
    def context(self) -> int | None:
        """How many tokens its context holds: as the route says, its capabilities, or its list of models."""
        can = self.route.can
        told = None if can is None else can.context_tokens
        return self.route.context_tokens or told or self.health.context_tokens

    def call(self, call: Call, *, spare: bool) -> Call:
        """`call` as it goes to this target: with the target's own model, where it has one."""
        request, model = call.request, self.model
        provider = self.chain.provider
        if model and request.model != model and (request.model or model != provider.model):
            request = replace(request, model=model)
        return call.evolve(target=None, provider=provider, request=request, spare=spare)

    def key(self, call: Call) -> tuple[str, str, str]:
        """What its circuit is called."""
        target = self.chain.provider
        return target.name, target.endpoint, self.model or call.request.model

    def circuit(self, call: Call, board: Board, now: float) -> tuple[float, Change | None]:
        """Seconds until its circuit lets a call through, 0 when it does, and the change this makes."""
        found: Circuit | None = board.troubled.get(self.key(call))
        wait = found.peek(now) if found is not None and found.rules.enforced else 0.0
        if not self.model:  # the circuit is that of the caller's model, the health that of all
            return wait, None
        if wait and found is not None and found.state != OPEN:
            return wait, None  # a probe is out; its end will tell
        return wait, self.health.circuit_open(now, wait)

    def status(self, now: float) -> TargetStatus:
        """How it is doing at `now`."""
        health, target = self.health, self.chain.provider
        health.look(now)
        rests = health.state != "down" and health.rests_until > now
        return TargetStatus(
            self.name,
            innermost(self.route.target).name,
            target.endpoint,
            self.model,
            "resting" if rests else health.state,
            health.score(now),
            health.error_rate(now),
            health.latency(now),
            health.in_flight,
            health.calls,
            health.failures,
            health.failed_in_a_row,
            health.share(now),
            health.last_error,
            health.wait(now),
            health.since,
            health.rests_because if rests else health.reason,
        )
