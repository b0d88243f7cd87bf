"""As many calls at a time as the target takes, found by trying.

============================  ==========================================================
note                          detail
============================  ==========================================================
``adaptive_limit.wait``       ``seconds`` waited in the queue
``adaptive_limit.rejected``   ``waited`` seconds
``adaptive_limit.lowered``    ``limit`` that this call's failure has left, of ``key``
============================  ==========================================================
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from math import inf
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen

from llmpipe.errors import ConfigError, LimitReached, LLMError
from llmpipe.middleware.adaptive_limit.aimd import Aimd
from llmpipe.middleware.names import names
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.rate_limit.admission import Gate, Gates
from llmpipe.middleware.rate_limit.scopes import check_scopes, key_function, tells_targets_apart
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call  # cattrs resolves the hints of all fields

if TYPE_CHECKING:
    from llmpipe.middleware.rate_limit.permit import Amounts, Permit
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply
    from llmpipe.runtime import Runtime

__all__ = ("AdaptiveLimit", "AdaptiveStatus")

_ONE: Amounts = (1.0, 0.0, 0.0, 0.0)


@frozen
class AdaptiveStatus:
    """One key: its limit, calls in flight and waiting, the first of them for `oldest_wait` seconds."""

    key: tuple[str, ...]
    limit: int
    in_flight: int
    waiting: int
    oldest_wait: float


class _AdaptiveGate(Gate):
    """A gate whose concurrency is what `aimd` has found."""

    def __init__(self, key: tuple[str, ...], aimd: Aimd, aging: float, now: float) -> None:
        super().__init__(key, (), aimd.limit, aging, now)
        self.aimd = aimd

    def succeeded(self, permit: Permit) -> None:
        """The target has taken the call of `permit`."""
        if self.aimd.success(permit.taken_at, self.in_flight):
            self.concurrency = self.aimd.limit
            self.pump()

    def dropped(self, permit: Permit, now: float) -> bool:
        """It was too much for the target; whether the limit is lower now."""
        lower = self.aimd.drop(permit.taken_at, now)
        self.concurrency = self.aimd.limit
        return lower


@frozen(kw_only=True)
class AdaptiveLimit:
    """Lets as many calls be in flight as the target takes; the others wait in a queue, as under `RateLimit`.

    The limit goes up with calls that get through while half of it or more is used, and down by a tenth when
    the target is overloaded, throttles or fails. A wrong request, a cancelled call and refusals of our own
    change nothing.

    Attributes:
        start, minimum, maximum: calls in flight, from admission to the end of the reply.
        backoff: what an overload leaves of the limit; it takes a whole call at least.
        window: seconds after a decrease in which there is no other.
        per: what is counted together, as in `RateLimit`.
        mode: ``wait`` in a queue, or ``reject``. A call that has another target to go to is rejected.
        max_wait: seconds in the queue at most. Who would have to wait longer is rejected at once.
        max_queue: calls in the queue of a key at most.
        max_queue_per_tenant: of these, calls of one tenant at most; None: all of them.
        aging: seconds of waiting that make up for one level of priority; None: levels are strict.

    Raises: LimitReached, without `retry_after`, since nobody knows when a call in flight ends.
    """

    start: int = 20
    minimum: int = 1
    maximum: int = 1000
    backoff: float = 0.9
    window: float = 1.0
    per: tuple[str, ...] = field(default=("target",), converter=names)
    mode: Literal["wait", "reject"] = "wait"
    max_wait: float = 60.0
    max_queue: int = 1000
    max_queue_per_tenant: int | None = None
    aging: float | None = 60.0
    name: str = "adaptive_limit"
    priority: int = bands.ADMIT + 10
    _key: Callable[[Call], tuple[str, ...]] = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = "inside retry, so that every attempt is admitted anew; inside the rate limit, if any"
    traits: ClassVar[frozenset[str]] = frozenset({"admits", "waits"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        if not 1 <= self.minimum <= self.start <= self.maximum < inf:
            raise ConfigError(f"{self.name}: minimum, start and maximum count calls, from 1, and rise")
        if not 0 < self.backoff < 1:
            raise ConfigError(f"{self.name}: backoff must be above 0 and below 1, not {self.backoff}")
        if self.aging is not None and not 0 < self.aging < inf:
            raise ConfigError(f"{self.name}: aging is seconds above 0, or None, not {self.aging}")
        for setting in ("window", "max_wait", "max_queue", "max_queue_per_tenant"):
            value = getattr(self, setting)
            if value is not None and not value >= 0:
                raise ConfigError(f"{self.name}: {setting} must be at least 0, not {value}")
        if self.mode not in ("wait", "reject"):
            raise ConfigError(f"{self.name}: mode is 'wait' or 'reject', not {self.mode!r}")
        check_scopes(self.per, self.name)
        object.__setattr__(self, "_key", key_function(self.per))

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """The reply, once there is room for the call."""
        gate, now = self._gate(call), call.runtime.now()
        if gate.queue or gate.wait(_ONE, now):
            permit = await self._enter(call, gate, now)
        else:
            permit = gate.take(_ONE, now)
        try:
            reply = await call_next(call)
            gate.succeeded(permit)
            outcome = yield reply
            if outcome.error is not None:
                self._judge(call, gate, permit, outcome.error)
        except BaseException as error:  # goes on; whatever it is, the place is given back
            self._judge(call, gate, permit, error)
            raise
        finally:
            permit.settle(call.runtime.now())

    def _gate(self, call: Call) -> _AdaptiveGate:
        # Of the kind of the rate limits, so that all queues are found, and hurried, in one place.
        gates: Gates = call.runtime.state("rate_limit", self.name, Gates)
        if gates.config is not self:  # new, or the chain was rebuilt with other settings
            gates.config = self
            for gate in gates.values():
                self._retune(gate, call.runtime.now())
        key = self._key(call)
        found = gates.get(key)
        if found is None:
            now = call.runtime.now()
            aimd = Aimd(self.start, self.minimum, self.maximum, self.backoff, self.window)
            found = gates.add(_AdaptiveGate(key, aimd, self.aging or inf, now), now)
        assert isinstance(found, _AdaptiveGate)
        return found

    def _retune(self, gate: Gate, now: float) -> None:
        assert isinstance(gate, _AdaptiveGate)
        gate.aimd.adopt(self.minimum, self.maximum, self.backoff, self.window)
        gate.reconfigure((), gate.aimd.limit, self.aging or inf, now)

    async def _enter(self, call: Call, gate: Gate, since: float) -> Permit:
        cfg = call.opt(self)
        elsewhere = call.spare and tells_targets_apart(self.per)
        patience = 0.0 if cfg.mode == "reject" or elsewhere else min(cfg.max_wait, call.remaining())
        of_one = inf if cfg.max_queue_per_tenant is None else cfg.max_queue_per_tenant
        try:
            permit = await gate.enter(call, _ONE, patience, cfg.max_queue, of_one)
        except LimitReached:
            call.note("adaptive_limit.rejected", waited=call.runtime.now() - since)
            raise
        if (seconds := call.runtime.now() - since) > 0.0:
            call.note("adaptive_limit.wait", seconds=seconds)
        return permit

    def _judge(self, call: Call, gate: _AdaptiveGate, permit: Permit, error: BaseException) -> None:
        """Lower the limit, if `error` says that the target cannot take as much."""
        if not isinstance(error, LLMError) or not (error.throttled or error.health == "failure"):
            return
        if gate.dropped(permit, call.runtime.now()):
            call.note("adaptive_limit.lowered", key=gate.key, limit=gate.aimd.limit)

    def worst_seconds(self, inner: float) -> float:
        """What is inside, after the longest wait."""
        return inner + (self.max_wait if self.mode == "wait" else 0.0)

    def status(self, runtime: Runtime) -> tuple[AdaptiveStatus, ...]:
        """All keys that have been used in the last hour."""
        now = runtime.now()
        return tuple(
            AdaptiveStatus(
                gate.key,
                int(gate.concurrency),
                gate.in_flight,
                len(gate.queue),
                0.0 if (oldest := gate.queue.oldest_since) is None else now - oldest,
            )
            for gate in runtime.state("rate_limit", self.name, Gates).values()
        )
