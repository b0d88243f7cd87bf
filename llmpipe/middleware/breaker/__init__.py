"""Stop asking a target that keeps failing, and find out with single probes when it is back.

What counts is what the error says of itself (`error.health`): a failure of the provider, a success
(the provider works, the request was wrong) or neither. Rate limits, wrong keys, our own refusals,
cancellation and errors that are no LLMError count as nothing; a probe that ends in one of them gives
its permit back. A call succeeds when its reply begins; if the reply breaks after that, it is counted
as a failure as well.

=======================  ====================================================================
note                     detail
=======================  ====================================================================
``breaker.opened``       ``key`` (provider, endpoint, model), ``reason``, ``seconds`` at least
``breaker.half_open``    ``key``, ``reason``, ``seconds`` 0
``breaker.closed``       ``key``, ``reason``, ``seconds`` 0
``breaker.refused``      ``key``, ``seconds`` until it is tried again; also where a dry run would have refused
=======================  ====================================================================
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, ClassVar, Literal, ParamSpec, TypeVar

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.breaker.board import Board
from llmpipe.middleware.breaker.circuit import Circuit, Permit
from llmpipe.middleware.breaker.rules import STATES, Change, CircuitRules, CircuitStats
from llmpipe.pipeline import bands
from llmpipe.secret import shown_url

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply
    from llmpipe.runtime import Runtime

__all__ = ("Breaker", "CircuitBreaker")

P = ParamSpec("P")
T = TypeVar("T")


@frozen(kw_only=True)
class Breaker(CircuitRules):
    """Refuses calls to a target whose circuit is open. One circuit for each `call.target_key`.

    The settings of the circuits are those of `CircuitRules`; the circuits are kept in the runtime
    under this middleware's name. Raises: CircuitOpen, with the seconds until the next try.

    Attributes:
        slow: seconds to the first content (of a full reply: to its end) above which a call counts
            as a failure though it succeeds. None: it never does.
        store: the URL of a store by which processes tell each other of open circuits, such as
            ``redis://…``; "" for none. See `llmpipe.middleware.breaker.fleet`.
        mode: ``"enforce"``; ``"metrics_only"`` counts, changes state and notes, and refuses nobody;
            ``"disabled"`` does nothing.
    """

    slow: float | None = None
    mode: Literal["enforce", "metrics_only", "disabled"] = "enforce"
    store: str = field(default="", repr=shown_url)
    name: str = "breaker"
    priority: int = bands.HEALTH

    why: ClassVar[str] = "inside the queue, because time passes there; outside the attempt it judges"
    traits: ClassVar[frozenset[str]] = frozenset({"judges"})

    @property
    def enforced(self) -> bool:
        """Whether anybody is refused."""
        return self.mode == "enforce"

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.mode not in ("enforce", "metrics_only", "disabled"):
            raise ConfigError(f"breaker mode is enforce, metrics_only or disabled, not {self.mode!r}")
        if self.store and "://" not in self.store:
            raise ConfigError("breaker store is the URL of a store, such as redis://…, or empty")
        if self.slow is not None and self.slow <= 0:
            raise ConfigError(f"breaker slow is seconds above 0, or None, not {self.slow}")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply, if the circuit of the call's target admits it."""
        circuit = call.runtime.state("breaker", self.name, Board).circuits.get(call.target_key)
        permit: Permit | None
        if circuit is not None and not circuit.state and circuit.rules is self and not call.options:
            circuit.total += 1  # what `admit` does for a closed circuit; this is the hot path
            permit = Permit(circuit)
        else:
            permit = self._enter(call)
        slow = self.slow
        begun = 0.0 if slow is None else call.runtime.now()
        try:
            reply = await call_next(call)
        except BaseException as error:  # whatever ends the attempt gives the permit back, and goes on
            if permit is not None:
                _tell(call, _judged(permit, call, error))
            raise
        if permit is None:
            return reply
        now = call.runtime.now()
        if slow is not None and now - begun > slow:
            _tell(call, permit.failure(now, f"no content in {slow:g} s"))
        elif (change := permit.success(now)) is not None:
            _tell(call, change)
        # A reply that is there whole cannot break any more.
        return reply.when_over(partial(_ended, permit), call) if reply.streamed else reply

    def _enter(self, call: Call) -> Permit | None:
        """A permit, or None where nothing is to be counted. Raises CircuitOpen."""
        mode = call.opt(self).mode
        if mode == "disabled":
            return None
        board = call.runtime.state("breaker", self.name, Board)
        key = call.target_key
        circuit = board.circuits.get(key)
        if circuit is None or circuit.rules is not self:
            if self.store:
                self._share(call.runtime, board)
            circuit = board.make(key, self, call.runtime.random, call.runtime.now())
        now, epoch = call.runtime.now(), circuit.epoch
        permit = circuit.admit(now)
        if circuit.epoch != epoch:
            _tell(call, board.history[-1])
        if permit is None:
            call.note("breaker.refused", key=key, seconds=circuit.peek(now))
            if mode == "enforce":
                raise circuit.refusal(now)
        return permit

    def _share(self, runtime: Runtime, board: Board) -> None:
        """Tell others, and hear from them, for as long as there are calls. Raises: ConfigError."""
        from llmpipe.middleware.breaker.fleet import Fleet  # noqa: PLC0415  most breakers are shared with nobody

        runtime.state(
            "breaker.fleet", f"{self.name} {self.store}", lambda: Fleet(runtime, self.store, self.name, board)
        ).join(self)

    def board(self, runtime: Runtime) -> Board:
        """The circuits that breakers of this name keep on `runtime`: figures, history, manual control."""
        return runtime.state("breaker", self.name, Board)


def _ended(permit: Permit, call: Call, outcome: Outcome) -> None:
    if outcome.error is not None:
        _tell(call, _judged(permit, call, outcome.error))


def _judged(permit: Permit, call: Call, error: BaseException) -> Change | None:
    """Say on `permit` what `error` means for the provider's health."""
    health = error.health if isinstance(error, LLMError) else "ignore"
    if health == "failure":
        assert isinstance(error, LLMError)
        return permit.failure(call.runtime.now(), error.type, error.retry_after)
    if health == "success":
        return permit.success(call.runtime.now())
    permit.release()
    return None


def _tell(call: Call, change: Change | None) -> None:
    if change is not None:
        call.note(f"breaker.{change.kind}", key=change.key, reason=change.reason, seconds=change.seconds)


class CircuitBreaker:
    """A circuit round any function, plain or async; safe to share between threads.

    Args:
        name: of what is protected; it is in the refusals and figures.
        failure_threshold: failures in a row that open the circuit.
        success_threshold: successful probes that close it again.
        timeout: seconds it stays open at first; twice as long after each failed recovery, at most
            eight times.
        on: which exceptions count as failures: types or a predicate; by default all, except that an
            LLMError counts as its `health` says. Others count as nothing.
        rules: all settings at once, in place of the three above.
        clock: monotonic seconds.
        random: for the ±10 % jitter of the open time.
    """

    def __init__(
        self,
        name: str,
        *,
        failure_threshold: int = 5,
        success_threshold: int = 2,
        timeout: float = 60.0,
        on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = Exception,
        rules: CircuitRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.name = name
        self._on = on
        self._clock = clock
        self._lock = Lock()
        if rules is None:
            if failure_threshold < 1:
                raise ConfigError(f"failure_threshold counts failures, from 1, not {failure_threshold}")
            rules = CircuitRules(
                ratio=None,
                consecutive=failure_threshold,
                close_after=success_threshold,
                base=timeout,
                cap=8 * timeout,
            )
        random = Random() if random is None else random  # noqa: S311  jitter, nothing secret
        self._circuit = Circuit(name, rules, random)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns. Raises what it raises, or CircuitOpen without calling it."""
        if inspect.iscoroutinefunction(function):
            raise TypeError("call takes a plain function; for an async one use call_async")
        permit = self._enter()
        try:
            value = function(*args, **kwargs)
        except BaseException as error:  # whatever it is gives the permit back, and goes on
            self._failed(permit, error)
            raise
        self._succeeded(permit)
        return value

    async def call_async(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What the async `function` returns. Raises what it raises, or CircuitOpen without calling it."""
        permit = self._enter()
        try:
            value = await function(*args, **kwargs)
        except BaseException as error:  # whatever it is gives the permit back, and goes on
            self._failed(permit, error)
            raise
        self._succeeded(permit)
        return value

    def _enter(self) -> Permit:
        with self._lock:
            now = self._clock()
            permit = self._circuit.admit(now)
            if permit is None:
                raise self._circuit.refusal(now)
            return permit

    def _succeeded(self, permit: Permit) -> None:
        with self._lock:
            permit.success(self._clock())

    def _failed(self, permit: Permit, error: BaseException) -> None:
        try:
            health: str = "failure" if isinstance(error, Exception) and self._counts(error) else "ignore"
        except BaseException:  # of the predicate; goes on when the permit is given back
            with self._lock:
                permit.release()
            raise
        if isinstance(error, LLMError) and self._on is Exception:
            health = error.health
        with self._lock:
            if health == "failure":
                hint = error.retry_after if isinstance(error, LLMError) else None
                permit.failure(self._clock(), type(error).__name__, hint)
            elif health == "success":
                permit.success(self._clock())
            else:
                permit.release()

    def _counts(self, error: Exception) -> bool:
        if isinstance(self._on, (type, tuple)):
            return isinstance(error, self._on)
        return self._on(error)

    @property
    def state(self) -> str:
        """``closed``, ``half_open`` or ``open``; one whose time is up is still open until somebody comes."""
        return STATES[self._circuit.state]

    def stats(self) -> CircuitStats:
        """Its figures: the metrics ``circuit.state`` (as `gauge`) and ``circuit.requests.*``."""
        with self._lock:
            return self._circuit.stats(self._clock())

    def isolate(self, reason: str = "isolated by hand") -> None:
        """Refuse every call until `reset`."""
        with self._lock:
            self._circuit.isolate(self._clock(), reason)

    def reset(self) -> None:
        """Close it, and forget what was counted."""
        with self._lock:
            self._circuit.reset(self._clock())

    def __repr__(self) -> str:
        return f"CircuitBreaker({self.name!r}, {self.state})"
