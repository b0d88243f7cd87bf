"""Keep under limits of requests, tokens and concurrency: wait for room, or refuse.

Before a call its tokens are estimated and reserved; when its reply is over they are corrected to what was
used. What was not sent is given back, of what was sent and failed the input stays counted.

=======================  ===================================================================
note                     detail
=======================  ===================================================================
``rate_limit.wait``      ``seconds`` waited in the queue
``rate_limit.rejected``  ``retry_after`` seconds, None if nobody knows; ``waited`` seconds
``rate_limit.paused``    ``seconds`` the provider has asked for
=======================  ===================================================================
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from math import inf
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import field, frozen

from llmpipe.errors import ConfigError, LimitReached, LLMError
from llmpipe.middleware.names import names
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.rate_limit.admission import Gate, Gates
from llmpipe.middleware.rate_limit.buckets import INPUT, OUTPUT, REQUESTS, TOKENS, Limit
from llmpipe.middleware.rate_limit.scopes import check_scopes, key_function, tells_targets_apart
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call  # cattrs resolves the hints of all fields
from llmpipe.types import Completion, Request

if TYPE_CHECKING:
    from llmpipe.middleware.rate_limit.permit import Amounts, Permit
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.reply import Reply
    from llmpipe.runtime import Runtime


__all__ = ("KeyStatus", "LimitStatus", "RateLimit")

# Setting, kind of amount, seconds of the period.
_DIMENSIONS = (
    ("requests_per_second", REQUESTS, 1.0),
    ("requests_per_minute", REQUESTS, 60.0),
    ("requests_per_hour", REQUESTS, 3600.0),
    ("requests_per_day", REQUESTS, 86_400.0),
    ("tokens_per_minute", TOKENS, 60.0),
    ("tokens_per_day", TOKENS, 86_400.0),
    ("input_tokens_per_minute", INPUT, 60.0),
    ("output_tokens_per_minute", OUTPUT, 60.0),
)
_ONE_REQUEST: Amounts = (1.0, 0.0, 0.0, 0.0)
_MOST_TOKENS = 2**53
_FRESH_SECONDS = 1.0  # what a header says is left, is left no longer than that


@frozen
class LimitStatus:
    """One limit of one key: `remaining` of `limit` units (below 0 in debt), all again in `reset` seconds."""

    name: str
    limit: float
    burst: float
    remaining: float
    reset: float


@frozen
class KeyStatus:
    """One key: its limits, who is in flight and who waits (the first of them for `oldest_wait` seconds)."""

    key: tuple[str, ...]
    limits: tuple[LimitStatus, ...]
    in_flight: int
    waiting: int
    oldest_wait: float
    paused: float


@frozen(kw_only=True)
class RateLimit:
    """Admits calls under limits that are each counted per key; all limits at once, or none.

    Attributes:
        requests_per_second, requests_per_minute, requests_per_hour, requests_per_day: any of them.
        tokens_per_minute, tokens_per_day: input and output together.
        input_tokens_per_minute, output_tokens_per_minute: each for itself.
        concurrency: calls in flight, from admission to the end of the reply.
        burst, token_burst: units that may be taken at once, for each limit of requests or tokens; None is
            10 % of the limit, at least 1. In a period at most the limit and one burst are admitted.
        output_tokens: expected of a reply while nobody has seen one; after that, their 90th percentile,
            and `max_tokens` of the request if that is less.
        per: what is counted together: ``global``, ``provider``, ``target`` (provider, endpoint and model),
            ``model``, ``tenant``, ``user``, or several of them.
        mode: ``wait`` in a queue, or ``reject``. A call that has another target to go to is rejected.
        max_wait: seconds in the queue at most. Who would have to wait longer is rejected at once.
        max_queue: calls in the queue of a key at most. Who comes when it is full takes the place of the last
            call of the tenant that has the most there, unless that is its own or a more urgent one.
        max_queue_per_tenant: of these, calls of one tenant at most; None: all of them.
        aging: seconds of waiting that make up for one level of priority; None: levels are strict. The wait
            behind other calls of its own tenant does not count: of equal priority tenants take turns.
        learn: follow the provider's rate-limit headers, and pause after a 429. None: if `per` tells providers
            apart.

    Raises: LimitReached, with the seconds to wait in `retry_after` where they are known.
    """

    requests_per_second: float | None = None
    requests_per_minute: float | None = None
    requests_per_hour: float | None = None
    requests_per_day: float | None = None
    tokens_per_minute: float | None = None
    tokens_per_day: float | None = None
    input_tokens_per_minute: float | None = None
    output_tokens_per_minute: float | None = None
    concurrency: int | None = None
    burst: float | None = None
    token_burst: float | None = None
    output_tokens: int = 256
    per: tuple[str, ...] = field(default=("target",), converter=names)
    mode: Literal["wait", "reject"] = "wait"
    max_wait: float = 60.0
    max_queue: int = 1000
    max_queue_per_tenant: int | None = None
    aging: float | None = 60.0
    learn: bool | None = None
    name: str = "rate_limit"
    priority: int = bands.ADMIT
    _key: Callable[[Call], tuple[str, ...]] = field(init=False, repr=False, eq=False)
    _limits: tuple[Limit, ...] = field(init=False, repr=False, eq=False)
    _learns: bool = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = "inside retry, so that every attempt is admitted anew; outside the breaker"
    traits: ClassVar[frozenset[str]] = frozenset({"admits", "waits"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        for setting in (*(name for name, _, _ in _DIMENSIONS), "aging"):
            value = getattr(self, setting)
            if value is not None and not 0 < value < inf:
                raise ConfigError(f"{self.name}: {setting} must be above 0, not {value}")
        for setting in ("concurrency", "burst", "token_burst"):
            value = getattr(self, setting)
            if value is not None and not 1 <= value < inf:
                raise ConfigError(f"{self.name}: {setting} must be at least 1, not {value}")
        for setting in ("max_wait", "max_queue", "max_queue_per_tenant", "output_tokens"):
            value = getattr(self, setting)
            if value is not None and not value >= 0:
                raise ConfigError(f"{self.name}: {setting} must be at least 0, not {value}")
        if self.mode not in ("wait", "reject"):
            raise ConfigError(f"{self.name}: mode is 'wait' or 'reject', not {self.mode!r}")
        check_scopes(self.per, self.name)
        limits = tuple(
            Limit(name, kind, period, amount, self.burst if kind == REQUESTS else self.token_burst)
            for name, kind, period in _DIMENSIONS
            if (amount := getattr(self, name)) is not None
        )
        learns = tells_targets_apart(self.per) if self.learn is None else self.learn
        if not (limits or self.concurrency or learns):
            raise ConfigError(
                f"{self.name}: no limit is given, such as requests_per_minute=60; there are "
                f"{', '.join(name for name, _, _ in _DIMENSIONS)}, concurrency"
            )
        object.__setattr__(self, "_limits", limits)
        object.__setattr__(self, "_learns", learns)
        object.__setattr__(self, "_key", key_function(self.per))

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """The reply, once there is room for it; what it used is settled when it is over."""
        now = call.runtime.now()
        gates = call.runtime.state("rate_limit", self.name, Gates)
        gate = gates.get(self._key(call)) if gates.config is self else None
        if gate is None:
            gate = self._gate(call, now)
        amounts = self._amounts(call, gate) if gate.counts_tokens else _ONE_REQUEST
        if gate.queue or gate.wait(amounts, now):
            permit = await self._enter(call, gate, amounts, now)
        else:
            permit = gate.take(amounts, now)
        try:
            reply = await call_next(call)
        except BaseException as error:  # goes on; what it has taken is given back as far as it was not used
            self._failed(call, gate, permit, error)
            raise
        if gate.ramp.room:
            gate.arrived(permit, ok=True)
        try:
            outcome = yield reply
            self._settle(gate, permit, outcome)
        except BaseException:  # goes on: closed without an end, or an end of which nobody can tell the usage
            permit.settle(call.runtime.now())
            raise

    def _gate(self, call: Call, now: float) -> Gate:
        """The gate of this call's key."""
        gates = call.runtime.state("rate_limit", self.name, Gates)
        if gates.config is not self:  # new, or the chain was rebuilt with other settings
            gates.config = self
            for gate in gates.values():
                gate.reconfigure(self._limits, self.concurrency or inf, self.aging or inf, now)
        key = self._key(call)
        found = gates.get(key)
        if found is None:
            found = Gate(key, self._limits, self.concurrency or inf, self.aging or inf, now)
            gates.add(found, now)
        return found

    def _amounts(self, call: Call, gate: Gate) -> Amounts:
        """What the call will use, as far as one can tell before."""
        request = call.request
        asked = float(call.ledger.estimated_tokens(request))
        answer = 0.0
        if isinstance(request, Request):
            answer = float(self.output_tokens) if gate.usual_output is None else gate.usual_output
            if request.max_tokens is not None and request.max_tokens < answer:
                answer = max(0.0, float(request.max_tokens))  # below 0 it would fill the buckets
        return (1.0, asked + answer, asked, answer)

    async def _enter(self, call: Call, gate: Gate, amounts: Amounts, since: float) -> Permit:
        cfg = call.opt(self)
        elsewhere = call.spare and tells_targets_apart(self.per)
        patience = 0.0 if cfg.mode == "reject" or elsewhere else min(cfg.max_wait, call.remaining())
        try:
            of_one = inf if cfg.max_queue_per_tenant is None else cfg.max_queue_per_tenant
            permit = await gate.enter(call, amounts, patience, cfg.max_queue, of_one)
        except LimitReached as error:
            waited = call.runtime.now() - since
            call.note("rate_limit.rejected", retry_after=error.retry_after, waited=waited)
            raise
        if (seconds := call.runtime.now() - since) > 0.0:
            call.note("rate_limit.wait", seconds=seconds)
        return permit

    def _failed(self, call: Call, gate: Gate, permit: Permit, error: BaseException) -> None:
        now = call.runtime.now()
        llm = error if isinstance(error, LLMError) else None
        if llm is not None and llm.throttled and self._learns:
            call.note("rate_limit.paused", seconds=gate.throttled(permit, llm.retry_after, now))
        elif gate.ramp.room:
            gate.arrived(permit, ok=False)
        if llm is not None and not llm.sent:
            permit.cancel(now)
        elif llm is not None and llm.billed == "no":
            permit.settle(now, 0.0, 0.0)
        else:  # nobody knows whether it was worked on: what was sent stays counted
            permit.settle(now, None, 0.0)

    def _settle(self, gate: Gate, permit: Permit, outcome: Outcome) -> None:
        now = outcome.ended_at
        if gate.counts_tokens:
            usage = outcome.usage
            sent, got = usage.input_tokens, usage.output_tokens
            if 0 <= sent <= _MOST_TOKENS and 0 <= got <= _MOST_TOKENS:
                if outcome.ok and isinstance(outcome.completion, Completion):
                    gate.answered(got)
                permit.settle(now, sent, got)
            else:  # nonsense of a provider's: what was expected stands
                permit.settle(now)
        else:
            permit.settle(now)
        if self._learns and (headers := outcome.completion.headers):
            gate.learn(headers, permit, now, fresh=now - outcome.committed_at <= _FRESH_SECONDS)

    def worst_seconds(self, inner: float) -> float:
        """What is inside, after the longest wait."""
        return inner + (self.max_wait if self.mode == "wait" else 0.0)

    # ------------------------------------------------------------ from outside

    def check(self, call: Call) -> float | None:
        """Seconds a call like this one would wait if it came now; None if nobody knows. Takes nothing."""
        now = call.runtime.now()
        gate = self._gate(call, now)
        return gate.expected(call, self._amounts(call, gate), now)

    def status(self, runtime: Runtime) -> tuple[KeyStatus, ...]:
        """All keys that have been used in the last hour."""
        now = runtime.now()
        return tuple(_status(gate, now) for gate in runtime.state("rate_limit", self.name, Gates).values())

    def reset(self, runtime: Runtime, key: tuple[str, ...] | None = None) -> None:
        """Give `key`, or all of them, everything back and end its pause. Calls in flight stay counted."""
        gates = runtime.state("rate_limit", self.name, Gates)
        for gate in gates.values() if key is None else filter(None, [gates.get(key)]):
            gate.reset(runtime.now())


def _status(gate: Gate, now: float) -> KeyStatus:
    limits = tuple(
        LimitStatus(b.limit.name, b.limit.amount, b.burst, b.available(now), max(0.0, b.full_at - now))
        for b in gate.buckets
    )
    oldest = gate.queue.oldest_since
    paused = max(0.0, gate.ramp.until - now)
    return KeyStatus(
        gate.key, limits, gate.in_flight, len(gate.queue), 0.0 if oldest is None else now - oldest, paused
    )
