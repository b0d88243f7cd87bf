"""Who is next: tenants take turns, users of a tenant too, and no one waits for ever (C3)."""

from __future__ import annotations

import asyncio
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmpipe.errors import LimitReached
from llmpipe.middleware.rate_limit.admission import Gate
from llmpipe.middleware.rate_limit.buckets import REQUESTS, TOKENS, Bucket, Limit
from llmpipe.middleware.rate_limit.fair import FairQueue, Waiter
from llmpipe.middleware.rate_limit.forecast import admitted_at, bounds, come_again_at, total
from llmpipe.pipeline.call import Call, Ledger
from llmpipe.runtime import Runtime
from llmpipe.types import Request
from tests.middleware.rate_limit.limits import Timed, limited, outcome, started, status, turns

TENANTS, USERS = st.sampled_from("abc"), st.sampled_from("xy")


def waiter(
    tenant: str = "", user: str = "", priority: int = 0, since: float = 0.0, units: float = 1.0
) -> Waiter:
    amounts = (1.0, units, units, 0.0)
    return Waiter(amounts, since, priority=priority, tenant=tenant, user=user, ledger=Ledger())


class Queueing(RuleBasedStateMachine):
    """Against a model that keeps a list, and looks through all of it each time."""

    aging = inf

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(self.aging)
        self.now = 0.0
        self.here: list[Waiter] = []
        self.served: dict[tuple[str, ...], tuple[float, float]] = {}

    def model(self) -> Waiter:
        """The next of the next user of the next tenant."""

        def rank(group: list[Waiter], *whose: str) -> tuple[float, float]:
            at, number = self.served.get(whose, (-inf, 0))
            first = member(group, *whose)
            since, number = max(first.since, at), max(first.number, number)
            return (-first.priority if self.aging == inf else since - first.priority * self.aging, number)

        def member(group: list[Waiter], *whose: str) -> Waiter:
            if len(whose) == 2:
                return min(
                    group,
                    key=lambda w: (
                        -w.priority if self.aging == inf else w.since - w.priority * self.aging,
                        w.number,
                    ),
                )
            key = "user" if whose else "tenant"
            parts: dict[str, list[Waiter]] = {}
            for one in group:
                parts.setdefault(getattr(one, key), []).append(one)
            best = min(parts, key=lambda name: rank(parts[name], *whose, name))
            return member(parts[best], *whose, best)

        return member(self.here)

    @rule(gap=st.floats(0, 40))
    def time_passes(self, gap: float) -> None:
        self.now += gap

    @rule(tenant=TENANTS, user=USERS, priority=st.integers(0, 2), units=st.integers(1, 9))
    def one_comes(self, tenant: str, user: str, priority: int, units: int) -> None:
        one = waiter(tenant, user, priority, self.now, units)
        probe = waiter(tenant, user, priority, self.now, units)
        leads = not self.here or self.queue.leads(probe, self.now)
        self.queue.push(one)
        self.here.append(one)
        if leads:
            assert self.queue.head is one

    @precondition(lambda self: self.here)
    @rule()
    def one_is_served(self) -> None:
        expected = self.model()
        assert self.queue.head is expected
        assert self.queue.pop(self.now) is expected
        self.here.remove(expected)
        number = self.queue._number
        self.served[(expected.tenant,)] = self.served[(expected.tenant, expected.user)] = (self.now, number)
        self.forget()

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def one_leaves(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.here))
        assert self.queue.remove(one)
        assert not self.queue.remove(one)
        self.here.remove(one)
        self.forget()

    @precondition(lambda self: self.here)
    @rule(data=st.data(), more=st.integers(1, 3))
    def one_becomes_urgent(self, data: st.DataObject, more: int) -> None:
        one = data.draw(st.sampled_from(self.here))
        alone = sum((w.tenant, w.user) == (one.tenant, one.user) for w in self.here) == 1
        if not alone:  # whose flow would be begun anew
            self.queue.hurry(one, one.priority + more)

    def forget(self) -> None:
        """Of who does not wait nothing is remembered."""
        there = {(w.tenant, w.user) for w in self.here} | {(w.tenant,) for w in self.here}
        self.served = {whose: at for whose, at in self.served.items() if whose in there}

    @invariant()
    def it_counts_right(self) -> None:
        assert [*self.queue] == sorted(self.here, key=lambda w: w.number)
        assert bool(self.queue) == bool(self.here)
        assert self.queue.oldest_since == min((w.since for w in self.here), default=None)
        for tenant in "abc":
            assert self.queue.of_tenant(tenant) == sum(w.tenant == tenant for w in self.here)
        for level in range(12):
            at_level = [w.amounts for w in self.here if w.priority == level]
            count, sums = self.queue.levels.get(level, (0, (0.0, 0.0, 0.0, 0.0)))
            assert count == len(at_level)
            assert sums == pytest.approx([sum(parts) for parts in zip(*at_level, strict=True)] or [0.0] * 4)

    @invariant()
    def a_copy_serves_in_the_same_order_and_leaves_the_queue_alone(self) -> None:
        twin, before = self.queue.copy(), [*self.queue]
        order = [twin.pop(self.now) for _ in before]
        again = self.queue.copy()
        assert [again.pop(self.now) for _ in before] == order
        assert [*self.queue] == before


class Aging(Queueing):
    aging = 30.0


TestStrict = Queueing.TestCase
TestStrict.settings = settings(max_examples=60, stateful_step_count=30)
TestAging = Aging.TestCase
TestAging.settings = settings(max_examples=60, stateful_step_count=30)


@given(
    st.lists(st.tuples(TENANTS, st.integers(0, 40)), max_size=8),
    st.integers(0, 60),
    st.sampled_from((inf, 30.0)),
)
def test_a_tenants_first_call_waits_for_one_of_each_other_tenant_at_most(crowd, served, aging):
    queue = FairQueue(aging)
    for tenant, count in crowd:
        for _ in range(count):
            queue.push(waiter(tenant))
    for at in range(min(served, len(queue))):
        queue.pop(float(at))
    others = len({one.tenant for one in queue})
    first = waiter("new", since=1000.0)
    queue.push(first)
    turns = queue.turns(first)
    waited = 0
    while queue.pop(1000.0 + waited) is not first:
        waited += 1
    assert waited <= others
    assert turns <= others + 1


@given(st.data())
def test_turns_are_shared_evenly_by_who_waits(data):
    """Among tenants who always have something waiting nobody is ever two turns ahead of another."""
    tenants = data.draw(st.integers(2, 5))
    queue, random = FairQueue(60.0), Random(data.draw(st.integers(0, 999)))
    for tenant in range(tenants):
        for _ in range(random.randint(1, 30)):
            queue.push(waiter(str(tenant)))
    counts = [0] * tenants
    for step in range(60):
        one = queue.pop(float(step))
        counts[int(one.tenant)] += 1
        queue.push(waiter(one.tenant, since=float(step)))
        assert max(counts) - min(counts) <= 1


def test_users_of_a_tenant_take_turns_at_its_turn():
    queue = FairQueue(60.0)
    for name in ("ax", "ax", "ax", "ay", "ay", "bz", "bz"):
        queue.push(waiter(name[0], name[1]))
    order = [queue.pop(1.0) for _ in range(7)]
    assert [one.tenant + one.user for one in order] == ["ax", "bz", "ay", "bz", "ax", "ay", "ax"]


@given(st.integers(1, 3), st.sampled_from(("same", "other")))
def test_with_aging_nobody_starves_behind_more_urgent_calls_that_never_end(levels, whose):
    """One call a second is served and a more urgent one comes: the old one waits `levels` times the aging."""
    queue = FairQueue(20.0)
    patient = waiter("a", since=0.0)
    queue.push(patient)
    rival = "a" if whose == "same" else "b"
    for second in range(1000):
        queue.push(waiter(rival, priority=levels, since=float(second)))
        if queue.pop(float(second)) is patient:
            break
    assert second == pytest.approx(20 * levels, abs=1.5)


def test_the_long_wait_behind_its_own_calls_puts_a_tenant_before_nobody():
    queue = FairQueue(20.0)
    for _ in range(1000):
        queue.push(waiter("noisy"))
    for at in range(500):  # the next of it has waited 500 s, 25 times what makes up for a level
        queue.pop(float(at))
    urgent = waiter("other", priority=1, since=500.0)
    queue.push(urgent)
    assert queue.pop(500.0) is urgent


# ---------------------------------------------------------------- in a chain


async def test_a_thousand_calls_of_one_tenant_delay_the_first_of_another_by_one():
    provider = Timed()
    chain = limited(provider, requests_per_minute=60, burst=1, max_wait=1e6, max_queue=2000)
    noisy = [asyncio.create_task(chain.complete(f"noisy {n}", tenant="noisy")) for n in range(1001)]
    await turns(3)
    assert status(chain).waiting == 1000
    await asyncio.sleep(10.5)
    quiet = await started(*(chain.complete(f"quiet {n}", tenant="quiet") for n in range(2)))
    await asyncio.gather(*quiet)
    came = [text.partition(" ")[0] for text in provider.texts]
    assert came[11:] == ["noisy", "quiet", "noisy", "quiet"]  # eleven had gone at second 10
    for task in noisy:
        task.cancel()
    await asyncio.gather(*noisy, return_exceptions=True)
    assert (status(chain).waiting, status(chain).in_flight) == (0, 0)


async def test_who_is_next_soon_is_not_refused_because_of_the_queue_of_another():
    """A call with three seconds has a place: its turn is the next but one, though a hundred wait."""
    chain = limited(requests_per_minute=60, burst=1, max_wait=1000)
    flood = await started(*(outcome(chain, tenant="noisy") for _ in range(101)))
    ok = await outcome(chain, tenant="quiet", timeout=3.0)
    assert not isinstance(ok, Exception)
    refused = await outcome(chain, tenant="noisy", timeout=3.0)
    assert isinstance(refused, LimitReached)
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_a_tenant_has_so_many_places_in_the_queue():
    chain = limited(requests_per_minute=60, burst=1, max_queue_per_tenant=2)
    await chain.complete("hi")
    noisy = await started(*(outcome(chain, tenant="noisy") for _ in range(4)))
    others = await started(*(outcome(chain, tenant=name) for name in "ab"))
    assert status(chain).waiting == 4
    results = await asyncio.gather(*noisy, *others)
    assert [isinstance(result, LimitReached) for result in results] == [False] * 2 + [True] * 2 + [False] * 2
    assert "2 calls of this tenant" in results[2].message
    assert results[2].retry_after == pytest.approx(3.0)


async def test_a_full_queue_makes_room_for_who_has_less_in_it():
    provider = Timed()
    chain = limited(provider, requests_per_minute=60, burst=1, max_queue=3)
    await chain.complete("hi")
    noisy = await started(*(outcome(chain, f"noisy {n}", tenant="noisy") for n in range(3)))
    quiet = await started(outcome(chain, "quiet", tenant="quiet"))
    assert noisy[2].done()  # the last of the tenant with the most
    refused = await noisy[2]
    assert isinstance(refused, LimitReached)
    assert "more right" in refused.message
    assert not isinstance(await quiet[0], Exception)
    again = await started(*(outcome(chain, f"more {n}", tenant="noisy") for n in range(3)))
    assert isinstance(await again[2], LimitReached)  # its own would be the last
    await asyncio.gather(*noisy, *again)
    assert (status(chain).waiting, status(chain).in_flight) == (0, 0)


async def test_a_full_queue_makes_room_for_a_more_urgent_call_and_never_for_a_less_urgent_one():
    chain = limited(requests_per_minute=60, burst=1, max_queue=2, aging=None)
    await chain.complete("hi")
    waiting = await started(*(outcome(chain, priority=1) for _ in range(2)))
    assert isinstance(await outcome(chain, priority=0), LimitReached)
    assert isinstance(await outcome(chain, priority=0, tenant="other"), LimitReached)
    urgent = await started(outcome(chain, priority=2))
    assert isinstance(await waiting[1], LimitReached)
    assert not isinstance(await urgent[0], Exception)
    assert not isinstance(await waiting[0], Exception)


async def test_depth_and_oldest_wait_are_those_of_the_moment():
    chain = limited(requests_per_minute=6, burst=1)
    await chain.complete("hi")
    first = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(4)
    second = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(3)
    assert (status(chain).waiting, status(chain).oldest_wait) == (2, pytest.approx(7))
    await first
    assert (status(chain).waiting, status(chain).oldest_wait) == (1, pytest.approx(6))
    await second
    assert (status(chain).waiting, status(chain).oldest_wait) == (0, 0)


async def test_another_rule_of_aging_puts_those_who_wait_in_another_order():
    provider = Timed()
    chain = limited(provider, requests_per_minute=6, burst=1, aging=1.0, max_wait=1000)
    await chain.complete("first")
    old = asyncio.create_task(chain.complete("old"))
    await asyncio.sleep(5)
    urgent = asyncio.create_task(chain.complete("urgent", priority=1))
    await turns()
    strict = limited(provider, requests_per_minute=6, burst=1, aging=None, max_wait=1000)
    (layer,) = strict.middleware
    await asyncio.gather(old, urgent, type(chain)(provider, layer, runtime=chain.runtime).complete("third"))
    assert provider.texts == ["first", "urgent", "old", "third"]


async def test_when_the_first_runs_out_of_time_those_behind_it_do_not_wait_for_its_turn():
    runtime = Runtime()
    gate = Gate(("key",), (Limit("tokens", TOKENS, 60.0, 60.0, 60.0),), inf, 60.0, 0.0)
    gate.take((1.0, 60.0, 60.0, 0.0), 0.0)

    async def enter(units: float, patience: float) -> float:
        call = Call(Request("m", "hi"), runtime)
        permit = await gate.enter(call, (1.0, units, units, 0.0), patience, inf)
        permit.settle(runtime.now())
        return runtime.now()

    (first,) = await started(enter(30.0, 40.0))
    (small,) = await started(enter(5.0, inf))
    await asyncio.sleep(1)
    gate.buckets[0].take(20.0, runtime.now())  # a reply was longer than expected: now the first is too late
    results = await asyncio.gather(first, small, return_exceptions=True)
    assert isinstance(results[0], LimitReached)
    assert results[1] == pytest.approx(40.0)  # not at 50, which would have been the turn of the first


def test_an_urgent_caller_is_told_when_it_would_be_before_those_who_wait():
    queue, now = FairQueue(inf), 0.0
    limits = [Limit("requests", REQUESTS, 60.0, 60.0, 1.0), Limit("tokens", TOKENS, 60.0, 60.0, 60.0)]
    buckets = [Bucket.of(limit, now) for limit in limits]
    buckets[0].take(1.0, now)
    for _ in range(5):
        queue.push(waiter(units=1.0))
    urgent, ordinary = waiter(priority=1, units=1.0), waiter(units=1.0)
    assert come_again_at(queue, urgent, buckets, now) == pytest.approx(1.0)
    queue.push(waiter(priority=1, units=1.0))
    assert come_again_at(queue, urgent, buckets, now) == pytest.approx(2.0)
    assert come_again_at(queue, ordinary, buckets, now) == pytest.approx(7.0)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 30)), min_size=1, max_size=20))
def test_whoever_waits_is_admitted_within_the_bounds_in_whatever_order(asked):
    limits = [Limit("requests", REQUESTS, 60.0, 60.0, 3.0), Limit("tokens", TOKENS, 60.0, 300.0, 30.0)]
    buckets = [Bucket.of(limit, 0.0) for limit in limits]
    *ahead, last = [(float(n), float(units), float(units), 0.0) for n, units in asked]
    low, high = bounds(buckets, total(ahead), last, 0.0)
    queue = FairQueue(inf)
    waiting = [
        Waiter(amounts, 0.0, priority=0, tenant="", user="", ledger=Ledger()) for amounts in (*ahead, last)
    ]
    for one in waiting:
        queue.push(one)
    at, turn = admitted_at(queue, waiting[-1], buckets, 0.0)
    assert turn == len(waiting)
    assert low - 1e-6 <= at <= high + 1e-6
