"""How long a connection, a first token, a silence and the whole call may take.

Two rings of one configuration, because they belong in two places: ``timeout.total`` outside of retry
and fallback, so that it bounds all attempts together, and ``timeout`` inside them, so that it
bounds each. It writes no notes.

=====================  ==============================================================
raises                 when
=====================  ==============================================================
ConnectTimeout         from the provider: no connection within `connect`
FirstTokenTimeout      no content within `first`; an attempt, so it can be retried
IdleTimeout            a stream was silent for `idle`, or brought no content for `stall`
DeadlineExceeded       the call is not over within `total`, or at its own deadline
=====================  ==============================================================
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop
from functools import partial
from math import inf
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen

from llmpipe.errors import ConfigError, DeadlineExceeded, FirstTokenTimeout, LLMError
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.timeout.deadlines import Deadlines, Limit, Lines
from llmpipe.pipeline import bands
from llmpipe.runtime import Alarm

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler, Middleware
    from llmpipe.pipeline.reply import Reply

__all__ = ("Timeout",)

CONNECT_SECONDS = 5.0
"""What providers allow a connection by themselves."""

_NO_LIMIT = 86_400.0  # for a connection: aiohttp rounds timeouts up, which infinity does not bear


@frozen(kw_only=True)
class Timeout:
    """Ends what takes too long. Seconds; None switches a limit off.

    Time in which the consumer of a stream does not read counts for none but `total`.

    Attributes:
        connect: for DNS, TCP and TLS of a new connection.
        first: from sending to the first content of a stream, or to the whole of a full reply.
        idle: between signs of life of a stream; pings count.
        stall: between contents of a stream; pings do not count.
        total: for the whole call: queueing, retries, fallbacks and reading. An earlier deadline stands.
    """

    connect: float | None = CONNECT_SECONDS
    first: float | None = 60.0
    idle: float | None = 60.0
    stall: float | None = None
    total: float | None = 600.0
    name: str = "timeout"
    priority: int = bands.ATTEMPT

    why: ClassVar[str] = "bounds a single attempt, so that the next one gets its own time"

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        for limit in ("connect", "first", "idle", "stall", "total"):
            seconds = getattr(self, limit)
            if seconds is not None and not 0 < seconds < inf:
                raise ConfigError(
                    f"{self.name}: {limit} is seconds above 0, or None for no limit, not {seconds}"
                )

    def rings(self) -> tuple[Middleware, ...]:
        """The two middlewares that a chain takes in place of this one."""
        return self._rings()

    def _rings(self) -> tuple[_Total, _Attempt]:
        return (
            _Total(config=self, name=f"{self.name}.total"),
            _Attempt(config=self, name=self.name, priority=self.priority),
        )

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """Both rings, one directly inside the other, for those who link it by hand."""
        total, attempt = self._rings()
        return await total(call, partial(attempt, call_next=call_next))


@frozen(kw_only=True)
class _Total:
    """Bounds the whole call."""

    config: Timeout
    name: str
    priority: int = bands.DEADLINE

    why: ClassVar[str] = "bounds the whole call: queueing, retries and fallbacks together"
    traits: ClassVar[frozenset[str]] = frozenset({"bounds"})

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        cfg = call.opt(self.config)
        total, deadline = cfg.total, call.deadline
        if total is None and deadline is None:
            return await call_next(call)
        loop = get_running_loop()
        now = loop.time()
        late = partial(_out_of_time, call)
        guard: Limit | Alarm
        if deadline is None or (total is not None and now + total < deadline):
            assert total is not None
            deadline = now + total
            call = call.evolve(deadline=deadline)
            guard = _guard(call, loop, total, deadline, late)
        elif deadline > now:
            guard = Alarm(deadline, late)
        else:
            raise late()
        with guard:
            reply = await call_next(call)
        return reply.limit(deadline=deadline)

    def worst_seconds(self, inner: float) -> float:
        """The shorter of what is inside and `total`."""
        return min(inner, inf if self.config.total is None else self.config.total)


@frozen(kw_only=True)
class _Attempt:
    """Bounds each attempt."""

    config: Timeout
    name: str
    priority: int

    why: ClassVar[str] = Timeout.why

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        cfg = call.opt(self.config)
        if cfg.connect != CONNECT_SECONDS:
            call = call.evolve(connect_timeout=_NO_LIMIT if cfg.connect is None else cfg.connect)
        if cfg.first is None:
            reply = await call_next(call)
        else:
            begun = len(call.ledger.attempts)
            loop, late = get_running_loop(), partial(_nothing_came, call, cfg.first, begun)
            with _guard(call, loop, cfg.first, loop.time() + cfg.first, late):
                reply = await call_next(call)
        if cfg.idle is None and cfg.stall is None:
            return reply
        return reply.limit(idle=cfg.idle, stall=cfg.stall)

    def worst_seconds(self, inner: float) -> float:
        """The shorter of what is inside and `first`: the time to commit."""
        return min(inner, inf if self.config.first is None else self.config.first)


def _guard(
    call: Call, loop: AbstractEventLoop, seconds: float, due: float, late: Callable[[], Exception]
) -> Limit | Alarm:
    """What ends a block at `due`, which is `seconds` from now."""
    if call.options:  # it may have a length of its own, and is not worth a place where all lengths are kept
        return Alarm(due, late)
    lines = call.runtime.state("timeout", "deadlines", Lines)
    found = lines.get(seconds)
    if found is None or found.loop is not loop:
        found = lines[seconds] = Deadlines(loop, seconds)
    return Limit(found, due, late)


def _out_of_time(call: Call) -> DeadlineExceeded:
    """Says how far the call had come: what was sent may be billed, what was queued is not."""
    attempts = call.ledger.attempts
    if not attempts:
        return DeadlineExceeded(
            "the call ran out of time before anything was sent", sent=False, billed="no", phase="admit"
        )
    last = attempts[-1]
    free = all(isinstance(a.error, LLMError) and a.error.billed == "no" for a in attempts)
    error = DeadlineExceeded(
        f"the call ran out of time in attempt {last.number}"
        if last.status == "cancelled"
        else f"the call ran out of time after {len(attempts)} attempts",
        billed="no" if free else "unknown",
        phase="headers",
        provider=last.provider,
        model=last.asked_model,
    )
    error.attempt = last.number
    return error


def _nothing_came(call: Call, seconds: float, begun: int) -> FirstTokenTimeout:
    """Says so to the attempts too that were cancelled for it, which are those after the first `begun`."""
    provider, _, model = call.target_key
    error = FirstTokenTimeout(
        f"nothing came back within {seconds:g} s",
        provider=provider,
        model=model,
        phase="headers",
        billed="unknown",
    )
    now = call.runtime.now()
    for attempt in call.ledger.attempts[begun:]:
        if attempt.status == "cancelled":
            attempt.fail(error, now)
    return error
