"""When a target fails, ask the next one.

The chain's own target comes first, then the alternatives in order. Each runs through the inner chain
(retry, limits, breaker, timeout) with its own model; an alternative that is a `Chain` is asked
directly and brings its own. While another target stands ready `call.spare` is set, so that `Retry`
does not wait for this one.

Who is asked: every target that is ready, in order. A target whose circuit is open is never asked. A
target that lately refused its key, has no quota or wants us to wait rests until it said, or for
`cooldown` seconds, and is asked only when none is ready, the one that rests shortest first. When all
circuits are open, `CircuitOpen` is raised at once, with the shortest wait among them.

What goes on to the next: each error says so itself (`error.rescue`). ``any`` and ``credential`` do,
``context`` and ``policy`` where the settings say so, ``none`` does not; but where an alternative says
``none``, it may be alone with that, and the next is still asked.

What is raised when all have failed: the error that tells the caller most about a later try: first one
that may be retried, then one that says when, then one of a target that was really asked; among
equals the first; a circuit that was open says when. Its ``metadata["fallback"]`` lists them all, those
that were not asked included.

======================  =====================================================================
note                    detail
======================  =====================================================================
``fallback.switched``   ``from`` and ``to`` (provider/model), ``error`` type
``fallback.skipped``    ``target``, ``reason``: circuit or resting
``fallback.gave_up``    ``reason``: deadline or circuits
======================  =====================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, Unpack

from attrs import evolve, field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.breaker.board import Board
from llmpipe.pipeline import bands
from llmpipe.pipeline.chain import Chain

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply
    from llmpipe.pipeline.target import Target

__all__ = ("Fallback", "ask")

_LONGEST_REST = 3600.0  # seconds; a server's hint may be nonsense, and an hour later it can be asked again

_Key = tuple[int, tuple[str, str, str]]
_Rest = tuple[float, str]
"""Until when, in loop time, and after which type of error."""
_Failure = tuple[str, LLMError | str]
"""A target and its error, or why it was not asked."""
_asking: ContextVar[frozenset[tuple[int, int]]] = ContextVar("llmpipe_fallback_asking", default=frozenset())


class _Settings(TypedDict, total=False):
    on_policy: bool
    on_context: bool
    cooldown: float
    min_attempt: float
    breaker: str
    name: str
    priority: int


def _targets(value: Any) -> tuple[Any, ...]:
    targets = tuple(value)
    if not targets:
        raise ConfigError("a fallback needs at least one target: Fallback(other_provider)")
    for place, target in enumerate(targets):
        if not callable(target) or not all(hasattr(target, part) for part in ("name", "endpoint", "model")):
            raise ConfigError(
                f"fallback target {place + 1} is a {type(target).__name__}, not a provider or chain"
            )
        if any(target is other for other in targets[:place]):
            raise ConfigError(
                f"fallback target {target.name!r} is given twice; asking it again is what Retry does"
            )
        _refuse_circles(target, ())
    return targets


def _refuse_circles(target: Any, path: tuple[Any, ...]) -> None:
    if not isinstance(target, Chain):
        return
    if any(target is above for above in path):
        raise ConfigError(f"the chain round {target.name!r} falls back on itself")
    path = (*path, target)
    _refuse_circles(target.provider, path)
    for middleware in target.middleware:
        for inner in getattr(middleware, "targets", ()):
            _refuse_circles(inner, path)


@frozen(init=False, kw_only=True)
class Fallback:
    """Asks the next target when one fails: ``Fallback(claude)``, ``Fallback(a, b, on_policy=True)``.

    Attributes:
        targets: providers or chains, in the order in which they are asked. Each answers with its own
            `model`; one that has none gets the caller's.
        on_policy: also when a content policy refused: another model may answer.
        on_context: also when the request does not fit the model's context.
        cooldown: seconds for which a target that refused the key or has no quota is passed over where
            it does not say how long; 0 passes over nobody, whatever they say.
        min_attempt: seconds an alternative needs at the least; none is asked with less to the deadline.
        breaker: the name of the `Breaker` whose circuits are looked at.

    Raises: an LLMError, see the module; ConfigError for no target, one given twice, or a circle.
    """

    targets: tuple[Any, ...] = field(converter=_targets)
    on_policy: bool = False
    on_context: bool = True
    cooldown: float = 30.0
    min_attempt: float = 0.5
    breaker: str = "breaker"
    name: str = "fallback"
    priority: int = bands.ROUTE

    why: ClassVar[str] = "outside retry and limits, so that each target gets its own"
    traits: ClassVar[frozenset[str]] = frozenset({"routes"})

    def __init__(
        self,
        *alternatives: Target,
        targets: Iterable[Target] = (),
        **settings: Unpack[_Settings],
    ) -> None:
        # People list the targets; a configuration, and `evolve`, name the field.
        self.__attrs_init__(targets=(*alternatives, *targets), **settings)

    def __attrs_post_init__(self) -> None:
        if self.cooldown < 0 or self.min_attempt < 0:
            raise ConfigError("fallback cooldown and min_attempt are seconds, not below 0")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply of the first target that answers."""
        cfg = call.opt(self)
        runtime = call.runtime
        resting: dict[_Key, _Rest] = runtime.state("fallback", self.name, dict)
        board = runtime.state("breaker", self.breaker, Board)
        route: Sequence[int] = range(-1, len(self.targets))
        failures: list[tuple[str, LLMError]] = []
        passed: list[_Failure] = []
        if resting or board.troubled:
            route = cfg._route(call, resting, board, passed)
        last = route[-1]
        for place in route:
            if failures:
                if call.remaining() < cfg.min_attempt:
                    call.note("fallback.gave_up", reason="deadline")
                    break
                if not cfg._switch(place, call, failures[-1], board, passed):
                    continue
            try:
                reply = await cfg._ask(place, call, call_next, spare=place != last or call.spare)
            except LLMError as error:
                failures.append((_label(cfg._key(place, call)[1]), error))
                cfg._rest(place, call, error, resting)
                if not cfg._rescues(error, alternative=place >= 0):
                    break
            else:
                for _, failure in failures:
                    failure.survived()
                if resting:
                    resting.pop(cfg._key(place, call), None)
                return reply
        raise _most_useful(failures, passed)

    async def _ask(self, place: int, call: Call, call_next: Handler, *, spare: bool) -> Reply:
        """The reply of the target at `place`; -1 is the chain's own."""
        if place < 0:
            return await call_next(call if spare is call.spare else call.evolve(spare=spare))
        target = self.targets[place]
        if not isinstance(target, Chain):
            return await ask(target, call, call_next, spare=spare)
        token = _asking.set(_asking.get() | {self._mark(call)})
        try:
            return await ask(target, call, call_next, spare=spare)
        finally:
            _asking.reset(token)

    # ------------------------------------------------------------ who is next

    def _route(
        self, call: Call, resting: dict[_Key, _Rest], board: Board, passed: list[_Failure]
    ) -> list[int]:
        """The places of the targets to ask, in order; who is passed over, and why, goes into `passed`.

        Raises: CircuitOpen when none would take the call.
        """
        now = call.runtime.now()
        for key in [key for key, (until, _) in resting.items() if until <= now]:
            del resting[key]
        ready: list[int] = []
        tired: list[tuple[float, int]] = []
        for place in range(-1, len(self.targets)):
            key = self._key(place, call)
            if board.peek(key[1], now):
                passed.append((_label(key[1]), board.troubled[key[1]].refusal(now)))
            elif key in resting:
                tired.append((resting[key][0], place))
            else:
                ready.append(place)
        if not ready and not tired:
            call.note("fallback.gave_up", reason="circuits")
            raise _most_useful(passed)
        for label, _ in passed:
            call.note("fallback.skipped", target=label, reason="circuit")
        if not ready:
            return [place for _, place in sorted(tired)]
        for until, place in tired:
            key = self._key(place, call)
            passed.append(
                (_label(key[1]), f"{resting[key][1]} before, it rests for another {until - now:.3g} s")
            )
            call.note("fallback.skipped", target=_label(key[1]), reason="resting")
        return ready

    def _switch(
        self, place: int, call: Call, failure: _Failure, board: Board, passed: list[_Failure]
    ) -> bool:
        """Whether to go on to the alternative at `place`; noted either way."""
        key, now = self._key(place, call), call.runtime.now()
        own = call.target or call.provider
        if self.targets[place] is own and key[1] == call.target_key:
            return False  # it is the chain's own target, which has failed
        if isinstance(self.targets[place], Chain) and self._mark(call) in _asking.get():
            return False  # this very call came here through that chain
        if board.peek(key[1], now):
            passed.append((_label(key[1]), board.troubled[key[1]].refusal(now)))
            call.note("fallback.skipped", target=_label(key[1]), reason="circuit")
            return False
        origin, error = failure
        kind = error.type if isinstance(error, LLMError) else ""
        call.note("fallback.switched", **{"from": origin, "to": _label(key[1]), "error": kind})
        return True

    def _rescues(self, error: LLMError, *, alternative: bool) -> bool:
        """Whether another target could answer what failed with `error`."""
        rescue = error.rescue
        if rescue == "context":
            return self.on_context
        if rescue == "policy":
            return self.on_policy
        return rescue != "none" or alternative

    def _rest(self, place: int, call: Call, error: LLMError, resting: dict[_Key, _Rest]) -> None:
        """Pass over the target for a while where it said so, or where it will go on failing."""
        hint = error.retry_after
        if error.rescue == "credential":
            seconds = hint if hint is not None and hint >= 0 else self.cooldown
        else:
            seconds = hint if hint is not None and error.throttled else 0.0
        if seconds > 0 and self.cooldown > 0:
            resting[self._key(place, call)] = call.runtime.now() + min(seconds, _LONGEST_REST), error.type

    def _key(self, place: int, call: Call) -> _Key:
        """What a target rests under: its circuit's key is shared by two accounts of one provider."""
        if place < 0:
            return place, call.target_key
        target = self.targets[place]
        return place, (target.name, target.endpoint, target.model or call.request.model)

    def _mark(self, call: Call) -> tuple[int, int]:
        return id(self.targets), id(call.ledger)

    async def aclose(self) -> None:
        """Close the alternatives."""
        mark = id(self.targets), 0
        if mark in _asking.get():
            return  # a chain that falls back on itself is closing already
        token = _asking.set(_asking.get() | {mark})
        try:
            async with AsyncExitStack() as stack:  # one that fails to close keeps no other from closing
                for target in self.targets:
                    stack.push_async_callback(target.aclose)
        finally:
            _asking.reset(token)

    # ------------------------------------------------------------ what explain() asks

    def worst_attempts(self, inner: int) -> int:
        """How many attempts a call may make when one target takes `inner`.

        All targets share the attempts that `Retry` allows a call; each alternative gets its first.
        """
        return inner + sum(not isinstance(target, Chain) for target in self.targets)

    def worst_seconds(self, inner: float) -> float:
        """How long it may take when each target takes `inner`."""
        return (1 + len(self.targets)) * inner


async def ask(target: Target, call: Call, call_next: Handler, *, spare: bool) -> Reply:
    """The reply of `target`: a provider is asked through the inner chain, a chain directly.

    With the target's own model; one that has none gets the caller's.
    """
    request = call.request
    if target.model and target.model != request.model:
        request = evolve(request, model=target.model)
    if isinstance(target, Chain):
        return await target(call.evolve(target=None, provider=target.provider, request=request, spare=spare))
    return await call_next(call.evolve(target=target, request=request, spare=spare))


def _label(target: tuple[str, str, str]) -> str:
    provider, _, model = target
    return f"{provider}/{model}" if model else provider


def _most_useful(failures: Sequence[_Failure], passed: Sequence[_Failure] = ()) -> LLMError:
    """The error to raise, with what all targets said listed in its metadata; see the module."""
    told = [*failures, *passed]

    def rank(error: LLMError) -> tuple[bool, bool, bool, float]:
        hint = error.retry_after
        return (
            not error.retryable,
            hint is None,
            not error.sent,
            0.0 if error.sent or hint is None else hint,
        )

    best = min((error for _, error in told if isinstance(error, LLMError)), key=rank)  # of equals, the first
    if len(told) > 1:
        best.metadata["fallback"] = [{"target": target, **_entry(error)} for target, error in told]
    return best


def _entry(error: LLMError | str) -> dict[str, Any]:
    if isinstance(error, str):
        return {"type": "NOT_ASKED", "status": None, "message": error}
    return {"type": error.type, "status": error.status, "message": str(error)}
