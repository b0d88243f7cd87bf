"""One limited key: its buckets, its permits, and the queue in front of them.

All dimensions are taken in one step or none is. Who has to wait stands in one queue, and only its
head is ever admitted, so a small request never overtakes a large one of its own priority. One timer
stands for the head; whoever gives something back looks after the head too.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping
from math import ceil, inf
from typing import TYPE_CHECKING

from llmpipe.errors import LimitReached
from llmpipe.middleware.rate_limit.buckets import EPSILON, REQUESTS, TOKENS, Bucket, Limit
from llmpipe.middleware.rate_limit.headers import told, tune
from llmpipe.middleware.rate_limit.permit import Amounts, Permit
from llmpipe.middleware.rate_limit.ramp import Ramp
from llmpipe.runtime import Alarm
from llmpipe.secret import scrub

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call, Ledger

__all__ = ("Gate", "Gates", "raise_priority")

_SIMULATED = 100  # waiters whose turns are worked out one by one, for an exact retry_after
_SAMPLES = 100  # replies from which their usual length is known
_IDLE_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0


class _Waiter:
    """A call in the queue. `rank` is its place: lower is earlier."""

    __slots__ = ("amounts", "future", "leaves_at", "ledger", "rank", "since")

    def __init__(self, rank: tuple[float, int], amounts: Amounts, since: float, ledger: Ledger) -> None:
        self.rank = rank
        self.amounts = amounts
        self.since = since
        self.ledger = ledger
        self.leaves_at = inf
        self.future: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()

    def __lt__(self, other: _Waiter) -> bool:
        return self.rank < other.rank


class Gate:
    """Admits calls under `limits`, at most `concurrency` at a time.

    Args: aging is the seconds of waiting that make up for one level of priority; infinite for none.
    """

    def __init__(
        self, key: tuple[str, ...], limits: tuple[Limit, ...], concurrency: float, aging: float, now: float
    ) -> None:
        self.key = key
        self.limits, self.concurrency, self.aging = limits, concurrency, aging
        self.buckets = [Bucket.of(limit, now) for limit in limits]
        self.counts_tokens = any(limit.kind != REQUESTS for limit in limits)
        self.ramp = Ramp()
        self.in_flight = 0
        self.queue: list[_Waiter] = []
        self.used_at = now
        self.requests_taken = self.tokens_taken = 0.0  # ever
        self.usual_output: float | None = None  # tokens of a reply: the 90th percentile of the last
        self._outputs: deque[int] = deque(maxlen=_SAMPLES)
        self._hold: float | None = None  # seconds a permit is held, a moving average
        self._timer: asyncio.TimerHandle | None = None
        self._joined = 0

    # ------------------------------------------------------------ taking

    def wait(self, amounts: Amounts, now: float) -> float:
        """Seconds until `amounts` could be taken if nobody else did; infinite where a call must end first."""
        ramp = self.ramp
        if self.in_flight >= self.concurrency or (ramp.room and ramp.on_way >= ramp.room):
            return inf
        wait = ramp.until - now
        for bucket in self.buckets:
            lack = bucket.wait(amounts[bucket.kind], now)
            wait = max(wait, lack)
        return wait if wait > EPSILON else 0.0

    def take(self, amounts: Amounts, now: float) -> Permit:
        """Take all of `amounts`, and a place among those in flight."""
        for bucket in self.buckets:
            bucket.take(amounts[bucket.kind], now)
        self.in_flight += 1
        self.used_at = now
        self.requests_taken += amounts[REQUESTS]
        self.tokens_taken += amounts[TOKENS]
        self.ramp.on_way += 1
        return Permit(self, amounts, now)

    def correct(self, more: Amounts, now: float) -> None:
        """Take what a call used beyond what it had reserved, or give back what it did not use."""
        for bucket in self.buckets:
            amount = more[bucket.kind]
            if amount > 0.0:
                bucket.take(amount, now)
            else:
                bucket.give(-amount)

    def leave(self, held: float | None) -> None:
        """One call less in flight; it had been there `held` seconds, None if that does not count."""
        self.in_flight -= 1
        if held is not None and self.concurrency < inf:
            self._hold = held if self._hold is None else self._hold + 0.1 * (held - self._hold)
        if self.queue:
            self.pump()

    # ------------------------------------------------------------ waiting

    async def enter(self, call: Call, amounts: Amounts, patience: float, max_queue: int) -> Permit:
        """Wait in the queue and take `amounts`.

        Raises: LimitReached at once, if that would take longer than `patience` seconds or the queue
        is full; or later, if it did take longer after all.
        """
        now = call.runtime.now()
        self._joined += 1
        waiter = _Waiter(self._rank(_priority(call), now, self._joined), amounts, now, call.ledger)
        place = bisect_left(self.queue, waiter)
        if place == 0 and self.wait(amounts, now) == 0.0:  # before all who wait
            return self.take(amounts, now)
        expected, exact = self.expected(amounts, now, place)
        if patience <= 0.0 or expected > patience:
            raise self._refusal("no room in time", exact)
        if len(self.queue) >= max_queue:
            raise self._refusal(f"{max_queue} calls are waiting already", exact)
        waiter.leaves_at = now + patience
        insort(self.queue, waiter)
        if place == 0:
            self.pump()
        try:
            if patience == inf:
                return await waiter.future
            with Alarm(waiter.leaves_at, self._overdue(amounts, patience)):
                return await waiter.future
        except BaseException:  # goes on when the place, or the permit that came meanwhile, is given back
            self._withdraw(waiter)
            raise

    def _rank(self, priority: float, since: float, order: int) -> tuple[float, int]:
        """Lower is earlier. Levels of priority are strict, or worth so many seconds of waiting each."""
        return (-priority if self.aging == inf else since - priority * self.aging, order)

    def _withdraw(self, waiter: _Waiter) -> None:
        future = waiter.future
        if not future.done() or future.cancelled():
            if waiter in self.queue:
                self.queue.remove(waiter)
                self.pump()
        elif future.exception() is None:
            permit = future.result()
            permit.cancel(asyncio.get_running_loop().time())
            self.arrived(permit, ok=False)

    def pump(self) -> None:
        """Admit from the head of the queue while there is room, and set the timer for the next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        queue = self.queue
        if not queue:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        while queue:
            head = queue[0]
            if not head.future.done():  # else it was cancelled, and is about to withdraw
                wait = self.wait(head.amounts, now)
                if wait:
                    if wait < inf:
                        self._timer = loop.call_at(now + wait, self.pump)
                    return
                head.future.set_result(self.take(head.amounts, now))
            del queue[0]

    def expected(self, amounts: Amounts, now: float, place: int | None = None) -> tuple[float, float | None]:
        """Seconds until `amounts` would be admitted at `place` in the queue (None: its end).

        Returns: what to expect; and the same if it is certain, None where calls in flight must end first.
        """
        ahead = [waiter.amounts for waiter in self.queue[:place]]
        turns = len(ahead) + 1
        if turns > _SIMULATED:  # as one lump: exact for one limit, a lower bound for several
            requests, tokens, inputs, outputs = map(sum, zip(*ahead, strict=True))
            ahead = [(requests, tokens, inputs, outputs)]
        at = max(now, self.ramp.until)
        levels = [Bucket(b.limit, b.kind, b.rate, b.burst, b.full_at) for b in self.buckets]
        for asked in (*ahead, amounts):
            at = max([at, *[at + level.wait(asked[level.kind], at) for level in levels]])
            for level in levels:
                level.take(asked[level.kind], at)
        wait = at - now if at - now > EPSILON else 0.0
        missing = self.in_flight + turns - self.concurrency
        if missing > 0:
            rounds = 0.0 if self._hold is None else ceil(missing / self.concurrency) * self._hold
            return max(wait, rounds), None
        return wait, None if self.ramp.room and self.ramp.on_way + turns > self.ramp.room else wait

    def _refusal(self, why: str, retry_after: float | None) -> LimitReached:
        return LimitReached(
            f"our own rate limit of {scrub('/'.join(self.key)) or 'all calls'}: {why}",
            retry_after=retry_after,
            phase="admit",
            metadata={"waiting": len(self.queue), "in_flight": self.in_flight},
        )

    def _overdue(self, amounts: Amounts, patience: float) -> Callable[[], LimitReached]:
        def error() -> LimitReached:
            now = asyncio.get_running_loop().time()
            return self._refusal(f"no room within {patience:g} s", self.expected(amounts, now)[1])

        return error

    def hurry(self, ledger: Ledger, priority: int) -> None:
        """Move a call forward whose priority has risen."""
        for waiter in [w for w in self.queue if w.ledger is ledger]:
            self.queue.remove(waiter)
            waiter.rank = self._rank(priority, waiter.since, waiter.rank[1])
            insort(self.queue, waiter)
        self.pump()

    # ------------------------------------------------------------ learning

    def throttled(self, permit: Permit, hint: float | None, now: float) -> float:
        """The provider asks for a pause; the seconds of it. Who cannot wait as long is told at once."""
        seconds = self.ramp.pause(permit.epoch, hint, now)
        for waiter in [w for w in self.queue if w.leaves_at < self.ramp.until]:
            self.queue.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_exception(self._refusal("the provider asks for a longer pause", seconds))
        self.pump()
        return seconds

    def arrived(self, permit: Permit, *, ok: bool) -> None:
        """A call has got its first content, or has failed."""
        if self.ramp.arrived(permit.epoch, ok=ok):
            self.pump()

    def learn(self, headers: Mapping[str, str], permit: Permit, now: float, *, fresh: bool) -> None:
        """Take over what a provider says: the limit as a rate and, while it is `fresh`, what is left of it.

        What was taken after `permit` the provider had not seen when it said so.
        """
        for said in told(headers):
            bucket = tune(self.buckets, self.limits, said, now)
            if bucket is None or said.remaining is None or not fresh:
                continue
            if bucket.kind == REQUESTS:
                unseen = self.requests_taken - permit.requests_before
            else:
                unseen = self.tokens_taken - permit.tokens_before
            bucket.lower(said.remaining - unseen, now)
        self.counts_tokens = any(bucket.kind != REQUESTS for bucket in self.buckets)
        self.pump()

    def answered(self, output_tokens: int) -> None:
        """Learn how long replies are."""
        self._outputs.append(output_tokens)
        if self.usual_output is None or len(self._outputs) % 10 == 0:
            ordered = sorted(self._outputs)
            self.usual_output = float(ordered[len(ordered) * 9 // 10])

    # ------------------------------------------------------------ settings

    def reconfigure(self, limits: tuple[Limit, ...], concurrency: float, aging: float, now: float) -> None:
        """Take other settings; what was taken stays taken, and the provider's limits are learned anew."""
        kept = {(b.kind, b.limit.period): b for b in self.buckets}
        self.limits, self.concurrency, self.aging = limits, concurrency, aging
        self.buckets = [kept.get((limit.kind, limit.period)) or Bucket.of(limit, now) for limit in limits]
        for bucket, limit in zip(self.buckets, limits, strict=True):
            bucket.retune(limit, now)
        self.counts_tokens = any(limit.kind != REQUESTS for limit in limits)
        self.pump()

    def reset(self, now: float) -> None:
        """Fill the buckets and end a pause. Calls in flight stay counted."""
        for bucket in self.buckets:
            bucket.full_at = now
        self.ramp.reset()
        self.pump()

    def idle(self, now: float) -> bool:
        """Whether forgetting it loses nothing: unused for an hour, nothing taken, nobody there."""
        return (
            now - self.used_at >= _IDLE_SECONDS
            and not (self.in_flight or self.queue)
            and self.ramp.until <= now
            and all(bucket.full_at <= now for bucket in self.buckets)
        )


class Gates(dict[tuple[str, ...], Gate]):
    """The gates of one rate limit, by key; idle ones are forgotten."""

    def __init__(self) -> None:
        self.config: object = None
        self._swept_at = -inf

    def add(self, gate: Gate, now: float) -> Gate:
        """Keep `gate`, and forget those that nobody has used for an hour."""
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            for key in [key for key, old in self.items() if old.idle(now)]:
                del self[key]
        self[gate.key] = gate
        return gate


def _priority(call: Call) -> int:
    """The call's priority, or the higher one of a caller who has joined it."""
    joined: list[int] = [n.detail["priority"] for n in call.ledger.notes if n.kind == "coalesce.raised"]
    return max([call.priority, *joined])


def raise_priority(call: Call, priority: int) -> None:
    """Let `call`, and all further attempts of it, wait as one of `priority`, which is higher than its own."""
    call.note("coalesce.raised", priority=priority)
    for gates in call.runtime.states("rate_limit").values():
        for gate in gates.values():
            gate.hurry(call.ledger, priority)
