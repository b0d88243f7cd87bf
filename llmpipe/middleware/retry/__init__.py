"""Try the same target again, while that can help and somebody still has the time for it.

What is retried is what the error says of itself (`error.retryable`), never its class or text.
Nothing is retried once content has reached the caller: `call_next` returns at the first content,
so a failure after that is not an exception here.

===================  =============================================================
note                 detail
===================  =============================================================
``retry.wait``       ``seconds`` before the next attempt, ``attempt`` (its number in the call), ``error`` type
``retry.gave_up``    ``reason``: attempts, policy, budget, hint, deadline, spare, sent; ``error`` type
===================  =============================================================
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from math import inf
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.retry.policy import Plan, RetryRules
from llmpipe.middleware.retry.quota import Quota, Quotas
from llmpipe.pipeline import bands

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply
    from llmpipe.runtime import Runtime

__all__ = ("Retry", "RetryExecutor", "RetryStats")

P = ParamSpec("P")
T = TypeVar("T")


@frozen
class RetryStats:
    """What retries cost and brought, in all or at one target.

    `attempts` are retries made, of which `successful` and `failed` have ended; `delay` is seconds
    waited before them; `spent` is what is missing from the quota, 0 when it is full.
    """

    attempts: int = 0
    successful: int = 0
    failed: int = 0
    delay: float = 0.0
    spent: int = 0
    targets: Mapping[Hashable, RetryStats] = field(factory=dict, repr=False)

    @classmethod
    def of(cls, quota: Quota) -> RetryStats:
        """Those of one target."""
        return cls(quota.attempts, quota.successful, quota.failed, quota.delay, quota.spent)


@frozen(kw_only=True)
class Retry(RetryRules):
    """Tries the same target again, with growing, jittered waits.

    Its settings are those of `RetryRules`. Raises: the error of the last attempt.
    """

    name: str = "retry"
    priority: int = bands.AGAIN

    why: ClassVar[str] = "tries again outside queue and limits, so that each attempt is admitted anew"
    traits: ClassVar[frozenset[str]] = frozenset({"retries", "waits"})

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply of the first attempt that succeeds."""
        quotas = call.runtime.state("retry", "quotas", Quotas)  # Quotas.of, spelled out: the hot path
        before = len(call.ledger.attempts)
        tries, kind, plan = 0, "", _FIRST
        while True:
            try:
                reply = await call_next(call)
            except LLMError as error:
                tries += 1
                if kind:
                    quotas[call.target_key].learn(kind, success=False, now=call.runtime.now())
                # The ledger has what fallbacks and hedges sent, and not what was refused on the way.
                used = max(len(call.ledger.attempts), before + tries)
                plan = call.opt(self)._pay(call, error, tries, used, quotas)
                if plan.reason:
                    if plan.reason != "fatal":
                        call.note("retry.gave_up", reason=plan.reason, error=error.type)
                    raise
                kind = error.type
                error.survived()
                call.note("retry.wait", seconds=plan.seconds, attempt=used + 1, error=kind)
            else:
                if kind:
                    quotas[call.target_key].learn(kind, success=True, now=call.runtime.now())
                    quotas.give(call.target_key, plan.cost)
                elif quotas.owing:
                    quotas.give(call.target_key, 1)
                return reply
            await _wait(plan, call, quotas)

    def _pay(self, call: Call, error: LLMError, tries: int, used: int, quotas: Quotas) -> Plan:
        """The plan for `error`, paid for where it is to try again."""
        key, now = call.target_key, call.runtime.now()
        plan = self.plan(
            error,
            tries,
            used,
            left=inf if call.deadline is None else call.deadline - now,
            # Another target that could not answer this either is no reason to leave.
            spare=call.spare and error.rescue != "none",
            recovery=quotas.recovery(key, error.type, now),
            random=call.runtime.random,
        )
        if not plan.reason and not quotas.take(key, plan.cost, self.budget):
            return Plan(0.0, "budget")
        return plan

    @staticmethod
    def stats(runtime: Runtime) -> RetryStats:
        """What all chains on `runtime` have retried so far, in all and by target key.

        These are the metrics ``retry.attempts``, ``retry.successful``, ``retry.failed``, ``retry.delay``.
        """
        targets = {key: RetryStats.of(quota) for key, quota in Quotas.of(runtime).items()}
        return RetryStats(
            sum(t.attempts for t in targets.values()),
            sum(t.successful for t in targets.values()),
            sum(t.failed for t in targets.values()),
            sum(t.delay for t in targets.values()),
            sum(t.spent for t in targets.values()),
            targets,
        )

    def worst_attempts(self, inner: int) -> int:
        """How many attempts a call may make when what is inside makes `inner`."""
        return inner * max(self.attempts, *(p.attempts or 1 for p in self.policy.values()), 1)

    def worst_seconds(self, inner: float) -> float:
        """How long it may take when each attempt takes `inner` and each server asks for all it may."""
        attempts = self.worst_attempts(1)
        longest = max(self.cap, *(p.cap or 0.0 for p in self.policy.values()), 1.1 * self.max_hint + 0.1)
        return attempts * inner + (attempts - 1) * longest


async def _wait(plan: Plan, call: Call, quotas: Quotas) -> None:
    """Let the plan's seconds pass; who is cancelled meanwhile gets back what the retry would have cost."""
    if plan.seconds > 0:
        try:
            await asyncio.sleep(plan.seconds)
        except BaseException:  # goes on; cancelled or dropped, it has not tried again
            quotas.give(call.target_key, plan.cost)
            raise
    quota = quotas[call.target_key]
    quota.attempts += 1
    quota.delay += plan.seconds


_FIRST = Plan(0.0, "")


class RetryExecutor:
    """A `Retry` for any function, plain or async; safe to share between threads.

    Args:
        retry: the settings; its quota is this executor's own.
        on: which exceptions are tried again: a type, a tuple of types, or a predicate. It has no
            default, for nobody but the caller knows what may be repeated. An `LLMError` must also
            say of itself that it is retryable.
        timeout: seconds for one `execute`, waits included: none is begun that would cross it. A
            running attempt is not interrupted.
        sleep, clock: of the plain form; the async form takes both from its event loop.
        random: for the jitter.
    """

    def __init__(
        self,
        retry: RetryRules | None = None,
        *,
        on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool],
        timeout: float | None = None,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self.retry = Retry() if retry is None else retry
        self.timeout = inf if timeout is None else timeout
        self._on = _predicate(on)
        self._sleep = sleep
        self._clock = clock
        self._random = Random() if random is None else random  # noqa: S311  jitter, nothing secret
        self._quota = Quota()
        self._lock = Lock()

    def execute(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns at its first success. Raises what its last try raised."""
        if inspect.iscoroutinefunction(function):
            raise TypeError("execute takes a plain function; for an async one use execute_async")
        run = _Run(self, self._clock)
        while True:
            try:
                value = function(*args, **kwargs)
            except Exception as error:  # `on` decides; what it does not name goes on
                plan = run.failed(error)
                if plan.reason:
                    raise
            else:
                run.succeeded()
                return value
            try:
                self._sleep(plan.seconds)
            except BaseException:  # goes on; interrupted, it has not tried again
                run.give(plan.cost)
                raise
            run.waited(plan)

    async def execute_async(
        self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What the async `function` returns at its first success. Raises what its last try raised."""
        run = _Run(self, asyncio.get_running_loop().time)
        while True:
            try:
                value = await function(*args, **kwargs)
            except Exception as error:  # `on` decides; what it does not name goes on
                plan = run.failed(error)
                if plan.reason:
                    raise
            else:
                run.succeeded()
                return value
            try:
                await asyncio.sleep(plan.seconds)
            except BaseException:  # goes on; cancelled or dropped, it has not tried again
                run.give(plan.cost)
                raise
            run.waited(plan)

    @property
    def stats(self) -> RetryStats:
        """What this executor has retried so far."""
        with self._lock:
            return RetryStats.of(self._quota)


class _Run:
    """One `execute`: what it has tried, and what that cost."""

    __slots__ = ("_clock", "_ends", "_executor", "_kind", "_paid", "_tries")

    def __init__(self, executor: RetryExecutor, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._clock = clock
        self._ends = clock() + executor.timeout
        self._tries = self._paid = 0
        self._kind = ""

    def failed(self, error: Exception) -> Plan:
        """What to do about `error`, paid for."""
        executor, retry, now = self._executor, self._executor.retry, self._clock()
        kind = error.type if isinstance(error, LLMError) else type(error).__name__
        self._tries += 1
        wanted = executor._on(error)
        with executor._lock:
            quota = executor._quota
            if self._kind:
                quota.learn(self._kind, success=False, now=now)
            if not wanted:
                return Plan(0.0, "fatal")
            plan = retry.plan(
                error,
                self._tries,
                self._tries,
                left=self._ends - now,
                recovery=quota.recovery(kind, now),
                random=executor._random,
            )
            if not plan.reason and not quota.take(plan.cost, retry.budget):
                return Plan(0.0, "budget")
        self._kind, self._paid = kind, plan.cost
        return plan

    def waited(self, plan: Plan) -> None:
        with self._executor._lock:
            self._executor._quota.attempts += 1
            self._executor._quota.delay += plan.seconds

    def succeeded(self) -> None:
        if self._kind:
            with self._executor._lock:
                self._executor._quota.learn(self._kind, success=True, now=self._clock())
        if self._executor._quota.spent:
            self.give(self._paid or 1)

    def give(self, amount: int) -> None:
        with self._executor._lock:
            self._executor._quota.give(amount)


def _predicate(on: Any) -> Callable[[Exception], bool]:
    if callable(on) and not isinstance(on, type):
        return on  # type: ignore[no-any-return]  # the caller's own
    kinds = on if isinstance(on, tuple) else (on,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigError(
                f"on takes subclasses of Exception or a predicate, not {kind!r}; "
                f"cancellation and interrupts are never retried"
            )
    return lambda error: isinstance(error, kinds)
