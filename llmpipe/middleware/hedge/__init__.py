"""Ask a slow target a second time, and take whichever answers first.

The second request goes out when the first has been on its way for longer than most are: for the
moving 95th percentile of the time to the first content, of this target and this kind of request. So
about one call in twenty costs two requests, and the slowest answers become rare. Whoever has content
first wins; the other is cancelled and its reply closed. It is an attempt in the ledger like any
other, and charged as one: a provider may bill what was cancelled.

===================  ==================================================================================
note                 detail
===================  ==================================================================================
``hedge.sent``       the second request went out: ``after`` seconds, ``error``: type of a failure, or None
``hedge.won``        the second one's reply was taken
``hedge.withheld``   it was due and not sent, ``reason``: share, budget, attempts
===================  ==================================================================================

The rules are those of gRPC's hedging (proposal A6), "The Tail at Scale" (Dean and Barroso, 2013) for
the percentile, and the retry quota of `llmpipe.middleware.retry.quota`, which both share.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.breaker.board import Board
from llmpipe.middleware.canonical import SERVER_STATE, uses_server_state
from llmpipe.middleware.hedge.lane import Lane, Lanes
from llmpipe.middleware.hedge.race import Race, attempt_of
from llmpipe.middleware.names import names
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.retry.quota import Quotas
from llmpipe.pipeline import bands

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply
    from llmpipe.runtime import Runtime

__all__ = ("Hedge", "HedgeStats")

TAG = "idempotent"


@frozen
class HedgeStats:
    """What hedging did, in all or at one target: calls, second requests, and those that won.

    `samples` and `delay` are of one target: how many times it has learned, and the seconds after which
    it hedges now; None while that is not known.
    """

    calls: int = 0
    hedged: int = 0
    won: int = 0
    samples: int = 0
    delay: float | None = None
    targets: Mapping[tuple[Any, ...], HedgeStats] = field(factory=dict, repr=False)


@frozen(kw_only=True)
class Hedge:
    """Sends a slow request once more, and takes the reply that has content first.

    Off while too little is known of the target, while it asks us to slow down (for `quiet` seconds
    after), while its circuit is not closed, and for requests that change what a server remembers. A
    call says by its tag ``idempotent``, ``yes`` or ``no``, whether it may be sent twice.

    Attributes:
        quantile: the share of attempts that answer before a second one is sent, 0 to 1.
        delay: seconds, in place of the quantile; then nothing need be learned first.
        min_delay: seconds; never sooner than that.
        min_samples: how many times must be known before the quantile is trusted.
        window: of how many of the latest attempts it is taken.
        max_share: second requests among all calls, at most; five may be saved up. So of n calls in any
            ten seconds at most ``n · (1 + max_share) + 5`` requests come, whatever the target does.
        attempts: how many requests the whole call may make, retries and fallbacks included.
        budget, cost: of the quota for each target that retries pay from too; see `Retry`.
        quiet: seconds without hedging after the target has asked us to slow down, or longer if it says so.
        when: ``stateless``: unless the request uses what a server remembers; ``tagged``: only what is
            tagged ``idempotent=yes``.
        skip_extra: names in `request.extra` that tie a request to what a server remembers.
        breaker: the name of the `Breaker` whose circuits are looked at.

    Raises: what the first attempt raises, unless the second has told that the request can never succeed.
    """

    quantile: float = 0.95
    delay: float | None = None
    min_delay: float = 0.01
    min_samples: int = 20
    window: int = 200
    max_share: float = 0.1
    attempts: int = 4
    budget: int = 500
    cost: int = 14
    quiet: float = 10.0
    when: Literal["stateless", "tagged"] = "stateless"
    skip_extra: tuple[str, ...] = field(default=SERVER_STATE, converter=names)
    breaker: str = "breaker"
    name: str = "hedge"
    priority: int = bands.AGAIN + 10

    why: ClassVar[str] = (
        "inside retry, whose waits are no slowness of the target; outside limits, which count both requests"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"hedges"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        for name in ("quantile", "max_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{self.name}: {name} is above 0 and at most 1, not {getattr(self, name)}")
        for name in ("min_delay", "quiet", "budget", "cost"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{self.name}: {name} is at least 0, not {getattr(self, name)}")
        for name in ("min_samples", "attempts"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{self.name}: {name} is at least 1, not {getattr(self, name)}")
        if not self.window >= self.min_samples:
            raise ConfigError(
                f"{self.name}: window holds at least min_samples ({self.min_samples}), not {self.window}"
            )
        if self.delay is not None and not self.delay >= 0:
            raise ConfigError(f"{self.name}: delay is seconds, at least 0, or None, not {self.delay}")
        if self.when not in ("stateless", "tagged"):
            raise ConfigError(f"{self.name}: when is 'stateless' or 'tagged', not {self.when!r}")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply of the attempt that has content first."""
        cfg, runtime = call.opt(self), call.runtime
        request = call.request
        lane = runtime.state("hedge", self.name, Lanes).of((call.target_key, type(request), request.stream))
        lane.begin(cfg.max_share)
        delay, since = cfg._after(call, lane), len(call.ledger.attempts)
        race = None
        try:
            if delay is None:
                reply = await call_next(call)
            else:
                race = Race(call, call_next, delay, partial(cfg._pay, call, lane, since))
                reply = await race.run()
        except LLMError as error:
            cfg._heed(call, lane, error)
            raise
        if race is None or race.second_began is None:
            if (first := attempt_of(call, since)) is not None:
                lane.learn(runtime.now() - first.started_at, cfg.window)
            quotas = Quotas.of(runtime)
            if quotas.owing:
                quotas.give(call.target_key, 1)
        else:
            cfg._judge(call, lane, since, race)
        return reply

    # ------------------------------------------------------------ whether and when

    def _after(self, call: Call, lane: Lane) -> float | None:
        """Seconds after which the call is sent again; None for never."""
        now = call.runtime.now()
        if now < lane.quiet_until or not self.may_repeat(call):
            return None
        board: Board = call.runtime.state("breaker", self.breaker, Board)
        if board.troubled and call.target_key in board.troubled:
            return None
        delay = self._delay(lane)
        return None if delay is None or delay >= call.remaining() else delay

    def _delay(self, lane: Lane) -> float | None:
        if self.delay is not None:
            return self.delay
        if lane.samples < self.min_samples:
            return None
        return max(self.min_delay, lane.quantile(self.quantile) or 0.0)

    def may_repeat(self, call: Call) -> bool:
        """Whether the call may be sent twice, by its tag or else by what its request asks."""
        told = call.tags.get(TAG)
        if told is not None:
            return told == "yes"
        extra = call.request.extra
        return self.when == "stateless" and not (extra and uses_server_state(call.request, self.skip_extra))

    def _pay(self, call: Call, lane: Lane, since: int, failure: str) -> bool:
        """Whether the second request may be sent now: then it is paid for, and noted."""
        runtime, key = call.runtime, call.target_key
        board: Board = runtime.state("breaker", self.breaker, Board)
        if runtime.now() < lane.quiet_until or key in board.troubled:
            return False  # since the call began, another one has learned this
        if len(call.ledger.attempts) >= self.attempts:
            call.note("hedge.withheld", reason="attempts")
            return False
        if lane.saved < 1.0:
            call.note("hedge.withheld", reason="share")
            return False
        if not Quotas.of(runtime).take(key, self.cost, self.budget):
            call.note("hedge.withheld", reason="budget")
            return False
        lane.saved -= 1.0
        lane.hedged += 1
        first = attempt_of(call, since)
        after = 0.0 if first is None else runtime.now() - first.started_at
        call.note("hedge.sent", after=after, error=failure or None)
        return True

    # ------------------------------------------------------------ what it taught

    def _judge(self, call: Call, lane: Lane, since: int, race: Race) -> None:
        """Learn from a race: also from an attempt that was cancelled, which took longer than that."""
        now, first = call.runtime.now(), attempt_of(call, since)
        if first is not None and not isinstance(first.error, LLMError):
            lane.learn(now - first.started_at, self.window)
        elif first is not None:
            self._heed(call, lane, first.error)
        if race.second_won:
            lane.won += 1
            call.note("hedge.won")
            lane.learn(now - (race.second_began or now), self.window)

    def _heed(self, call: Call, lane: Lane, error: BaseException | None) -> None:
        """Be quiet for a while after an error that asks us to."""
        if isinstance(error, LLMError) and error.throttled:
            lane.quiet_until = call.runtime.now() + max(self.quiet, error.retry_after or 0.0)

    # ------------------------------------------------------------ from outside

    def worst_attempts(self, inner: int) -> int:
        """How many attempts a call may make when what is inside makes `inner`."""
        return 2 * inner

    def stats(self, runtime: Runtime) -> HedgeStats:
        """What hedging has done on `runtime`: in all, and by target, kind of request, streamed or not."""
        lanes = runtime.state("hedge", self.name, Lanes).by_key
        targets = {
            key: HedgeStats(lane.calls, lane.hedged, lane.won, lane.samples, self._delay(lane))
            for key, lane in lanes.items()
        }
        return HedgeStats(
            sum(one.calls for one in targets.values()),
            sum(one.hedged for one in targets.values()),
            sum(one.won for one in targets.values()),
            sum(one.samples for one in targets.values()),
            None,
            targets,  # type: ignore[arg-type]  # keys of the lanes, which Lanes does not name
        )
