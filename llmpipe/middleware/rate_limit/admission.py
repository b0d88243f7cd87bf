"""One limited key: its buckets, its permits, and the queue in front of them.

All dimensions are taken in one step or none is. Who has to wait stands in one queue (`fair`), and only
its head is ever admitted, so a small request never overtakes a large one of its own user and priority.
One timer stands for the head; whoever gives something back looks after the head too.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from math import ceil, inf
from typing import TYPE_CHECKING

from llmpipe.errors import LimitReached
from llmpipe.middleware.rate_limit.buckets import EPSILON, REQUESTS, TOKENS, Bucket, Limit
from llmpipe.middleware.rate_limit.fair import FairQueue, Waiter
from llmpipe.middleware.rate_limit.forecast import admitted_at, bounds, come_again_at, total
from llmpipe.middleware.rate_limit.headers import told, tune
from llmpipe.middleware.rate_limit.permit import Amounts, Permit
from llmpipe.middleware.rate_limit.ramp import Ramp
from llmpipe.runtime import Alarm
from llmpipe.secret import scrub

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call, Ledger

__all__ = ("Gate", "Gates", "raise_priority")

_SAMPLES = 100  # replies from which their usual length is known
_IDLE_SECONDS = 3600.0
_SWEEP_SECONDS = 60.0


class Gate:
    """Admits calls under `limits`, at most `concurrency` at a time.

    Args: aging is the seconds of waiting that make up for one level of priority; infinite for none.
    """

    def __init__(
        self, key: tuple[str, ...], limits: tuple[Limit, ...], concurrency: float, aging: float, now: float
    ) -> None:
        self.key = key
        self.limits, self.concurrency = limits, concurrency
        self.buckets = [Bucket.of(limit, now) for limit in limits]
        self.counts_tokens = any(limit.kind != REQUESTS for limit in limits)
        self.ramp = Ramp()
        self.in_flight = 0
        self.queue = FairQueue(aging)
        self.used_at = now
        self.requests_taken = self.tokens_taken = 0.0  # ever
        self.usual_output: float | None = None  # tokens of a reply: the 90th percentile of the last
        self._outputs: deque[int] = deque(maxlen=_SAMPLES)
        self._hold: float | None = None  # seconds a permit is held, a moving average
        self._timer: asyncio.TimerHandle | None = None

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

    async def enter(
        self, call: Call, amounts: Amounts, patience: float, max_queue: float, max_per_tenant: float = inf
    ) -> Permit:
        """Wait in the queue and take `amounts`.

        Raises: LimitReached at once, if that would take longer than `patience` seconds or the queue
        is full; or later, if it did take longer after all, or others had more right to the place.
        """
        now, queue = call.runtime.now(), self.queue
        waiter = _waiter(call, amounts, now)
        queue.push(waiter)
        if queue.head is waiter and self.wait(amounts, now) == 0.0:  # before all who wait
            queue.pop(now)
            return self.take(amounts, now)
        why = "no room in time" if self._too_late(waiter, patience, now) else ""
        if why := why or self._crowded_out(waiter, max_queue, max_per_tenant, now):
            queue.remove(waiter)
            raise self._refusal(why, self._come_again(waiter, now))
        waiter.future = asyncio.get_running_loop().create_future()
        waiter.leaves_at = now + patience
        if queue.head is waiter:
            self.pump()
        try:
            if patience == inf:
                return await waiter.future
            with Alarm(waiter.leaves_at, self._overdue(waiter, patience)):
                return await waiter.future
        except BaseException:  # goes on when the place, or the permit that came meanwhile, is given back
            self._withdraw(waiter)
            raise

    def _crowded_out(self, waiter: Waiter, max_queue: float, max_per_tenant: float, now: float) -> str:
        """Why there is no place for `waiter`, "" if there is one.

        Of too many the last call of the tenant with the most has to go, unless it is more urgent than
        `waiter`: so one tenant cannot fill the queue for the others (the rule of the longest queue,
        P. McKenney, Stochastic Fairness Queueing, 1990).
        """
        queue = self.queue
        if queue.of_tenant(waiter.tenant) > max_per_tenant:
            crowd, why = waiter.tenant, f"{max_per_tenant} calls of this tenant are waiting already"
        elif len(queue) > max_queue:
            crowd, why = queue.longest(), f"{max_queue} calls are waiting already"
        else:
            return ""
        last = queue.last_of(crowd)
        if last is waiter or last.priority > waiter.priority:
            return why
        self._turn_away(last, f"{why}, and another has more right to the place", now)
        return ""

    def _turn_away(self, waiter: Waiter, why: str, now: float, retry_after: float | None = None) -> None:
        """Refuse one who waits already."""
        self.queue.remove(waiter)
        if not waiter.future.done():
            again = self._come_again(waiter, now) if retry_after is None else retry_after
            waiter.future.set_exception(self._refusal(why, again))

    def _withdraw(self, waiter: Waiter) -> None:
        future = waiter.future
        if not future.done() or future.cancelled():
            if self.queue.remove(waiter):
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
            head = queue.head
            if head.future.done():  # cancelled, and about to withdraw: it has had no turn
                queue.remove(head)
                continue
            wait = self.wait(head.amounts, now)
            if wait:
                if wait < inf:
                    self._timer = loop.call_at(now + wait, self.pump)
                return
            queue.pop(now)
            head.future.set_result(self.take(head.amounts, now))

    def hurry(self, ledger: Ledger, priority: int) -> None:
        """Move a call forward whose priority has risen."""
        for waiter in [waiter for waiter in self.queue if waiter.ledger is ledger]:
            self.queue.hurry(waiter, priority)
        self.pump()

    # ------------------------------------------------------------ looking ahead

    def expected(self, call: Call, amounts: Amounts, now: float) -> float | None:
        """Seconds `call` would wait if it came now and nobody else did; None where nobody knows."""
        waiter = _waiter(call, amounts, now)
        self.queue.push(waiter)
        try:
            at, turns = admitted_at(self.queue, waiter, self.buckets, max(now, self.ramp.until))
        finally:
            self.queue.remove(waiter)
        return self._known(at - now, turns)

    def _too_late(self, waiter: Waiter, patience: float, now: float) -> bool:
        """Whether `waiter`, who is in the queue, would have to wait longer than `patience` seconds."""
        if patience <= 0.0:
            return True
        start, ahead = max(now, self.ramp.until), len(self.queue)
        if self._rounds(ahead) <= patience:  # in a short queue nobody waits too long, wherever he stands
            all_of_them = total(sums for _, sums in self.queue.levels.values())
            if bounds(self.buckets, all_of_them, waiter.amounts, start)[1] - now <= patience:
                return False
        at, turns = admitted_at(self.queue, waiter, self.buckets, start)
        return max(at - now, self._rounds(turns)) > patience

    def _rounds(self, turns: int) -> float:
        """Seconds until `turns` calls more are in flight, as far as one can tell from how long they stay."""
        missing = self.in_flight + turns - self.concurrency
        return 0.0 if missing <= 0 or self._hold is None else ceil(missing / self.concurrency) * self._hold

    def _known(self, wait: float, turns: int) -> float | None:
        """`wait`, or None if calls in flight must end before `turns` calls more are admitted."""
        ramp = self.ramp
        if self.in_flight + turns > self.concurrency or (ramp.room and ramp.on_way + turns > ramp.room):
            return None
        return wait if wait > EPSILON else 0.0

    def _come_again(self, waiter: Waiter, now: float) -> float | None:
        """Seconds after which one who is not in the queue would be admitted at once; None: nobody knows."""
        ahead = sum(count for level, (count, _) in self.queue.levels.items() if level >= waiter.priority)
        if self._known(0.0, ahead + 1) is None:
            return None
        wait = come_again_at(self.queue, waiter, self.buckets, max(now, self.ramp.until)) - now
        return wait if wait > EPSILON else 0.0

    def _refusal(self, why: str, retry_after: float | None) -> LimitReached:
        return LimitReached(
            f"our own rate limit of {scrub('/'.join(self.key)) or 'all calls'}: {why}",
            retry_after=retry_after,
            phase="admit",
            metadata={"waiting": len(self.queue), "in_flight": self.in_flight},
        )

    def _overdue(self, waiter: Waiter, patience: float) -> Callable[[], LimitReached]:
        def error() -> LimitReached:
            if self.queue.remove(waiter):
                self.pump()
            now = asyncio.get_running_loop().time()
            return self._refusal(f"no room within {patience:g} s", self._come_again(waiter, now))

        return error

    # ------------------------------------------------------------ learning

    def throttled(self, permit: Permit, hint: float | None, now: float) -> float:
        """The provider asks for a pause; the seconds of it. Who cannot wait as long is told at once."""
        seconds = self.ramp.pause(permit.epoch, hint, now)
        for waiter in [waiter for waiter in self.queue if waiter.leaves_at < self.ramp.until]:
            self._turn_away(waiter, "the provider asks for a longer pause", now, seconds)
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
        self.limits, self.concurrency = limits, concurrency
        if aging != self.queue.aging:
            self.queue = self.queue.aged(aging)
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


def _waiter(call: Call, amounts: Amounts, now: float) -> Waiter:
    """`call` as one who waits, with its priority or the higher one of a caller who has joined it."""
    joined: list[int] = [n.detail["priority"] for n in call.ledger.notes if n.kind == "coalesce.raised"]
    priority = max([call.priority, *joined])
    return Waiter(amounts, now, priority=priority, tenant=call.tenant, user=call.user, ledger=call.ledger)


def raise_priority(call: Call, priority: int) -> None:
    """Let `call`, and all further attempts of it, wait as one of `priority`, which is higher than its own."""
    call.note("coalesce.raised", priority=priority)
    for gates in call.runtime.states("rate_limit").values():
        for gate in gates.values():
            gate.hurry(call.ledger, priority)
