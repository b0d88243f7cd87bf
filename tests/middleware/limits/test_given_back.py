"""What a call took is held for as long as it lasts, and given back once: retries, long calls, outages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from llmpipe.errors import ConfigError, LimitReached, Overloaded, StoreUnavailable, StreamBroken
from llmpipe.middleware.batch import Batch
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.continue_ import Continue
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.hedge import Hedge
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.ensemble import Ensemble
from llmpipe.runtime import Runtime
from llmpipe.state import Ask, Taken
from llmpipe.state.memory import MemoryState
from llmpipe.types import Usage

STORES = pytest.mark.parametrize("store", ["memory://", "fleet://"])


class Store:
    """A store that others may share; out of reach while `away`, or with its answer lost while `deaf`."""

    def __init__(self, pause: float) -> None:
        self.kept: Any = MemoryState().limits("x")
        self.away = self.deaf = False
        self.pause = pause
        self.takes = 0

    async def take(self, ticket: str, asks: Sequence[Ask], lease: float) -> Taken:
        self.takes += 1
        await self._reach()
        taken: Taken = await self.kept.take(ticket, asks, lease)
        self._answer()
        return taken

    async def settle(self, ticket: str, used: Any) -> bool:
        await self._reach()
        done: bool = await self.kept.settle(ticket, used)
        self._answer()
        return done

    async def levels(self, asks: Sequence[Ask]) -> Any:
        return await self.kept.levels(asks)

    async def _reach(self) -> None:
        await asyncio.sleep(self.pause)
        if self.away:
            raise StoreUnavailable("out of reach")

    def _answer(self) -> None:
        if self.deaf:
            raise StoreUnavailable("no answer")


class State(MemoryState):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def limits(self, name: str) -> Any:
        return self.store


def fleet(runtime: Runtime, pause: float = 0.0) -> Store:
    """What ``fleet://`` is on `runtime`."""
    found = Store(pause)
    runtime.state("store", "fleet://", lambda: State(found))
    return found


async def free(limits: Limits, runtime: Runtime, **scopes: str) -> float:
    """Slots that are free."""
    return next(one.remaining for one in await limits.status(runtime, **scopes) if one.unit == "slots")


# ------------------------------------------------------------ one attempt after another


@STORES
async def test_a_retry_does_not_wait_for_the_slot_of_the_attempt_before_it(store: str):
    limits = Limits(limits=Limit(per="provider", concurrency=1), store=store)
    provider = MockProvider([Overloaded("busy"), Overloaded("busy"), "fine"])
    chain = Chain(provider, limits, Retry(attempts=3, base=0.01))
    fleet(chain.runtime)
    assert (await chain.complete("hi")).text == "fine"
    assert await free(limits, chain.runtime, provider="mock") == 1


@STORES
async def test_a_target_that_failed_is_free_for_others_while_the_fallback_answers(store: str):
    limits = Limits(limits=Limit(per="provider", concurrency=1), store=store)
    first = MockProvider([Overloaded("busy")], default="fine", name="a")
    chain = Chain(first, limits, Fallback(MockProvider(default=[Wait(60), "slow"], name="b")))
    fleet(chain.runtime)
    call = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    assert await free(limits, chain.runtime, provider="a") == 1
    assert await free(limits, chain.runtime, provider="b") == 0
    assert (await chain.complete("hi")).text == "fine"
    assert (await call).text == "slow"
    assert await free(limits, chain.runtime, provider="b") == 1


async def test_a_hedge_needs_a_slot_beside_that_of_the_attempt_under_way():
    for slots, sent in ((1, 1), (2, 2)):
        limits = Limits(limits=Limit(per="provider", concurrency=slots))
        provider = MockProvider(default=[Wait(5), "slow"])
        chain = Chain(provider, limits, Hedge(delay=0.5, max_share=1.0))
        await chain.complete("hi")
        assert len(provider.requests) == sent
        assert await free(limits, chain.runtime, provider="mock") == slots


async def test_a_member_of_an_ensemble_that_tries_again_gives_its_own_slot_back_first():
    limits = Limits(limits=Limit(per="provider", concurrency=1))
    members = [
        Chain(MockProvider([Overloaded("busy")], default="same", name=name), Retry(attempts=2, base=0.01))
        for name in "ab"
    ]
    chain = Chain(Ensemble(*members, combine="vote", quorum=2), limits)
    assert (await chain.complete("hi")).text == "same"
    for name in "ab":
        assert await free(limits, chain.runtime, provider=name) == 1


async def test_who_waits_for_a_slot_beside_an_attempt_that_is_over_is_not_taken_for_it():
    """A member waits behind another call; the other member comes later, gets in first, fails, tries again."""

    @layer(priority=0)
    async def late(call: Call, call_next: Any) -> Reply:
        await asyncio.sleep(1.1)
        reply: Reply = await call_next(call)
        return reply

    limits = Limits(limits=Limit(per="provider", concurrency=1), max_wait=10)
    provider = MockProvider([[Wait(1.05), "another"], Overloaded("busy")], default=[Wait(1), "same"])
    waits, fails = Chain(provider), Chain(provider, late, Retry(attempts=2, base=0.01))
    chain = Chain(Ensemble(waits, fails, combine="vote", quorum=2), limits)
    other = Chain(provider, limits, runtime=chain.runtime)
    answers = await asyncio.gather(other.complete("hi"), chain.complete("hi"))
    assert [one.text for one in answers] == ["another", "same"]
    assert len(provider.requests) == 4
    await asyncio.sleep(20)
    assert await free(limits, chain.runtime, provider="mock") == 1


async def test_each_attempt_is_counted_once_whenever_its_slot_came_back():
    limits = Limits(limits=Limit(per="provider", concurrency=1, tokens_per_day=10_000, token_burst=10_000))
    provider = MockProvider([Overloaded("busy")], default="fine", usage=Usage(300, 200))
    chain = Chain(provider, limits, Retry(attempts=2, base=0.01))
    await chain.complete("hi")
    tokens = next(one for one in await limits.status(chain.runtime, provider="mock") if one.unit == "tokens")
    assert tokens.remaining == pytest.approx(9_500, abs=1)  # Overloaded is not billed


class Slow:
    """A provider of embeddings that takes a second, and fails the first time."""

    name, endpoint, model = "mock", "mock", "m"

    def __init__(self) -> None:
        self.inner = MockProvider(default="x")
        self.count = 0

    async def __call__(self, call: Call) -> Reply:
        self.count += 1
        await asyncio.sleep(1)
        if self.count == 1:
            raise Overloaded("busy")
        return await self.inner(call)


@STORES
async def test_who_left_a_batch_holds_no_slot_for_what_is_tried_after_that(store: str):
    limits = Limits(limits=Limit(per="provider", concurrency=5), store=store)
    provider = Slow()
    chain = Chain(provider, limits, Batch(window=0.1), Retry(attempts=2, base=0.5))
    fleet(chain.runtime)
    leaves, stays = (asyncio.create_task(chain.embed([text])) for text in "ab")
    await asyncio.sleep(0.5)
    leaves.cancel()
    await asyncio.wait((leaves, stays))
    assert provider.count == 2
    assert stays.exception() is None
    await asyncio.sleep(5)
    assert await free(limits, chain.runtime, provider="mock") == 5


# ------------------------------------------------------------ longer than a lease


@STORES
async def test_a_call_longer_than_its_lease_keeps_its_slot_and_is_corrected_at_its_end(store: str):
    provider = MockProvider(default=[Wait(3000), "late"], usage=Usage(3000, 2000))
    limit = Limit(concurrency=1, tokens_per_day=10_000, token_burst=10_000)
    limits = Limits(limits=limit, store=store, lease=600)
    chain = Chain(provider, limits)
    shared = fleet(chain.runtime)
    call = asyncio.create_task(chain.complete("hi"))
    for _ in range(29):
        await asyncio.sleep(100)
        with pytest.raises(LimitReached):
            await chain.complete("hi")
    before = shared.takes
    await call
    tokens, slots = await limits.status(chain.runtime)
    assert slots.remaining == 1
    assert tokens.remaining < 5_500  # what was taken for it before has come back since
    await asyncio.sleep(2000)
    assert shared.takes == before  # nothing is renewed any more


async def test_a_call_with_a_shorter_lease_of_its_own_keeps_its_slot_beside_one_with_a_longer():
    provider = MockProvider(default=[Wait(200), "late"])
    limits = Limits(limits=Limit(concurrency=2), store="fleet://")
    chain = Chain(provider, limits)
    fleet(chain.runtime)
    long = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    short = asyncio.create_task(chain.complete("hi", options={Limits: {"lease": 30.0}}))
    for _ in range(15):
        await asyncio.sleep(10)
        assert await free(limits, chain.runtime) == 0
    await asyncio.gather(long, short)
    assert await free(limits, chain.runtime) == 2


async def test_an_outage_longer_than_a_lease_takes_a_slot_and_not_the_rates_twice():
    provider = MockProvider(default=[Wait(500), "late"])
    limit = Limit(concurrency=1, requests_per_day=10, burst=10)
    limits = Limits(limits=limit, store="fleet://", lease=60, on_store_failure="refuse")
    chain = Chain(provider, limits)
    store = fleet(chain.runtime)
    call = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(10)
    store.away = True
    await asyncio.sleep(200)
    assert await free(limits, chain.runtime) == 1  # nobody could begin its lease anew
    store.away = False
    await asyncio.sleep(60)
    assert await free(limits, chain.runtime) == 0
    await call
    requests, slots = await limits.status(chain.runtime)
    assert slots.remaining == 1
    assert requests.remaining == pytest.approx(9, abs=0.1)


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_lease_begun_anew_after_the_settlement_leaves_nothing(deaf: bool):
    """The renewal sets out first and arrives last, as a new ticket."""
    limits = Limits(limits=Limit(concurrency=1), store="fleet://", lease=60)
    chain = Chain(MockProvider(default=[Wait(41), "late"]), limits)
    store = fleet(chain.runtime)
    call = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(39)
    store.pause = 5.0  # of the renewal, which is due at 40
    await asyncio.sleep(1.5)
    store.pause = 0.0
    await call
    assert await free(limits, chain.runtime) == 1
    store.deaf = deaf
    await asyncio.sleep(4.1)
    store.deaf = False
    assert await free(limits, chain.runtime) == 0
    await asyncio.sleep(5)
    assert await free(limits, chain.runtime) == 1


# ------------------------------------------------------------ while the store is away


async def test_who_was_refused_here_and_admitted_by_the_store_gives_back_to_the_store():
    limits = Limits(limits=Limit(concurrency=1), store="fleet://", max_wait=100)
    chain = Chain(MockProvider(default=[Wait(1), "x"]), limits)
    store = fleet(chain.runtime)
    store.away = True
    first, second = (asyncio.create_task(chain.complete("hi")) for _ in range(2))
    await asyncio.sleep(0.1)
    store.away = False
    await asyncio.gather(first, second)
    await asyncio.sleep(5)
    assert await free(limits, chain.runtime) == 1


@pytest.mark.parametrize("mode", ["share", "allow", "refuse"])
async def test_slots_of_which_the_answer_was_lost_come_back_when_the_store_does(mode: Any):
    limits = Limits(limits=Limit(concurrency=3), store="fleet://", on_store_failure=mode)
    chain = Chain(MockProvider(default=[Wait(1), "x"]), limits)
    store = fleet(chain.runtime)
    store.deaf = True
    await asyncio.gather(*[chain.complete("hi") for _ in range(5)], return_exceptions=True)
    if mode != "refuse":  # where each is told at once that it is over
        assert await free(limits, chain.runtime) == 0
    store.deaf = False
    await asyncio.sleep(30)
    assert await free(limits, chain.runtime) == 3


async def test_of_who_is_refused_in_an_outage_nothing_is_remembered():
    limits = Limits(limits=Limit(concurrency=1), store="fleet://")
    chain = Chain(MockProvider(default=[Wait(1), "x"]), limits)
    store = fleet(chain.runtime)
    store.away = True
    await asyncio.gather(*[chain.complete("hi") for _ in range(50)], return_exceptions=True)
    store.away = False
    await asyncio.sleep(60)
    desk: Any = limits.desk(chain.runtime)
    assert (desk._locally, desk._doubtful, desk._owed) == (set(), set(), {})


async def test_a_store_that_is_slow_in_the_end_keeps_none_of_several_slots():
    """A clean-up is cut after some seconds: what it had not come to is brought later."""
    limits = Limits(limits=[Limit(per="provider", concurrency=5), Limit(concurrency=5)], store="fleet://")
    chain = Chain(MockProvider(default=[Wait(1), "x"]), limits, Hedge(delay=0.5, max_share=1.0))
    store = fleet(chain.runtime)
    call = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(0.9)
    assert await free(limits, chain.runtime, provider="mock") == 3
    store.pause = 60.0
    await call
    store.pause = 0.0
    await asyncio.sleep(30)
    for state in await limits.status(chain.runtime, provider="mock"):
        assert state.remaining == 5


# ------------------------------------------------------------ whose limits


async def test_a_chain_that_is_made_anew_with_another_store_counts_there():
    runtime = Runtime()
    store = fleet(runtime)
    for place in ("memory://", "fleet://", "memory://", "fleet://"):
        limits = Limits(limits=Limit(requests_per_day=10, burst=10), store=place)
        await Chain(MockProvider(default="x"), limits, runtime=runtime).complete("hi")
    assert store.takes == 2


@pytest.mark.parametrize(("own", "other"), [("memory://", "fleet://"), ("fleet://", "memory://")])
async def test_the_store_cannot_be_changed_for_one_call(own: str, other: str):
    limits = Limits(limits=Limit(concurrency=1), store=own)
    chain = Chain(MockProvider(default="x"), limits)
    fleet(chain.runtime)
    with pytest.raises(ConfigError, match="store"):
        await chain.complete("hi", options={Limits: {"store": other}})
    assert await free(limits, chain.runtime) == 1


async def test_status_and_reset_refuse_a_scope_that_there_is_not():
    limits = Limits(limits=Limit(per="user", concurrency=1))
    for ask in (limits.status, limits.reset):
        with pytest.raises(ConfigError, match="did you mean 'user'"):
            await ask(Runtime(), usr="bob")
    assert [one.key for one in await limits.status(Runtime(), tenant="acme", user="bob")] == [
        "user:slots/account=acme/user=bob"
    ]


async def test_who_is_asked_for_by_a_key_is_found_as_calls_with_it_are_counted():
    secret = "sk-proj-" + "abcdefghijklmnopqrstuvwxyz0123456789"
    limits = Limits(limits=Limit(per=("key", "tag:team"), requests_per_day=10, burst=10))
    chain = Chain(MockProvider(default="x"), limits)
    await chain.complete("hi", tags={"key": secret, "team": "search"})
    (state,) = await limits.status(chain.runtime, **{"key": secret, "tag:team": "search"})
    assert state.remaining == pytest.approx(9)
    assert secret not in state.key
    await limits.reset(chain.runtime, **{"key": secret, "tag:team": "search"})
    (state,) = await limits.status(chain.runtime, **{"key": secret, "tag:team": "search"})
    assert state.remaining == 10


@pytest.mark.parametrize("most", [-1, 0, -(10**6)])
async def test_a_cap_below_one_is_none(most: int):
    """To some servers -1 is without end, so it is reserved as for who says nothing."""
    limits = Limits(limits=Limit(tokens_per_day=100_000, token_burst=100_000), output_tokens=1000)
    chain = Chain(MockProvider(default=[Wait(1), "x"]), limits)
    call = asyncio.create_task(chain.complete("hi", max_tokens=most))
    await asyncio.sleep(0.5)
    assert (await limits.status(chain.runtime))[0].remaining < 99_000
    await call


# ------------------------------------------------------------ all together

LAYERS: dict[str, Any] = {
    "retries and fallback": lambda: (
        Retry(attempts=3, base=0.01),
        Fallback(MockProvider(default=[Wait(0.3), "spare ", "answer"], name="spare")),
    ),
    "hedge": lambda: (Hedge(delay=0.2, max_share=1.0), Retry(attempts=2, base=0.01)),
    "coalesced": lambda: (Coalesce(when="always"), Retry(attempts=2, base=0.01)),
    "continued": lambda: (Continue(), Retry(attempts=2, base=0.01)),
}
PLANS: tuple[Any, ...] = (
    [Wait(0.1), "a ", Wait(0.5), "b ", "c"],
    ["a ", Wait(0.2), StreamBroken("cut")],
    Overloaded("busy"),
    [Wait(3.0), "late"],
)


@STORES
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("ensemble", [False, True])
async def test_whoever_leaves_and_whatever_fails_no_slot_stays_taken(layers: str, store: str, ensemble: bool):
    """Callers who read, break off and are cancelled at any moment, over a store that comes and goes."""
    random = Random(7)
    provider: Any = MockProvider(default=lambda request: random.choice(PLANS))
    target = Ensemble(*[Chain(provider, Retry(attempts=2, base=0.01))] * 2, combine="vote")
    limits = Limits(
        limits=[Limit(per="provider", concurrency=12), Limit(concurrency=40)],
        store=store,
        max_wait=1.0,
        lease=2.0,
    )
    chain = Chain(target if ensemble else provider, limits, *LAYERS[layers]())
    shared = fleet(chain.runtime, pause=0.005)

    async def one(number: int) -> None:
        await asyncio.sleep(random.random() * 3)
        if number % 3:
            await chain.complete("hi", user=f"user {number % 5}")
            return
        async with chain.stream("hi") as reply:
            async for _ in reply:
                if random.random() < 0.3:
                    break

    tasks = [asyncio.create_task(one(number)) for number in range(120)]
    for task in tasks:
        if random.random() < 0.5:
            asyncio.get_running_loop().call_later(random.random() * 4, task.cancel)
    for away in (True, False) * 4:
        await asyncio.sleep(0.4)
        shared.away, shared.deaf = away and random.random() < 0.5, away
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} <= {
        type(None), asyncio.CancelledError, LimitReached, Overloaded, StreamBroken, StoreUnavailable
    }  # fmt: skip
    await asyncio.sleep(60)
    for name in ("mock", "spare"):
        states = await limits.status(chain.runtime, provider=name)
        assert [state.remaining for state in states] == [12, 40]
    desk: Any = limits.desk(chain.runtime)
    if store == "fleet://":
        assert (desk._locally, desk._doubtful, desk._owed, desk._leases._held) == (set(), set(), {}, {})
        assert shared.kept._held == {}
