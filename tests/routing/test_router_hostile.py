"""Routers where nobody would put them: long streams, herds, strange strategies, checks that die."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from collections import Counter
from math import sqrt
from typing import Any

import pytest

from llmpipe.config import presets
from llmpipe.errors import (
    ConfigError,
    ConnectFailed,
    LLMError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
    Unsupported,
)
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.checks import Checks
from llmpipe.routing.desk import Ward
from llmpipe.routing.route import Route
from llmpipe.routing.router import Router
from llmpipe.routing.rules import HealthRules
from llmpipe.runtime import Runtime
from llmpipe.testing import run
from llmpipe.types import Request


def now() -> float:
    return asyncio.get_running_loop().time()


def target(name: str, default: Any = "ok") -> MockProvider:
    return MockProvider(default=default, name=name, model=f"{name}-1")


def routed(*targets: Any, around: Any = (), seed: int = 1, **settings: Any) -> Chain:
    settings.setdefault("checks", None)
    return Chain(Router(*targets, **settings), *around, runtime=Runtime(seed=seed))


def router(it: Chain) -> Router:
    assert isinstance(it.provider, Router)
    return it.provider


def status(it: Chain) -> dict[str, Any]:
    return {one.name: one for one in router(it).status()}


async def load(
    it: Chain, *, seconds: float, rate: float, stream: bool = False, at: Any = None
) -> Counter[str]:
    """How calls at `rate` a second for so long ended: by provider, or by the type of the error."""
    ends: Counter[str] = Counter()

    async def one(number: int) -> None:
        await asyncio.sleep(number / rate)
        if at is not None:
            at(number / rate)
        try:
            if stream:
                async with it.stream(f"question {number}") as reply:
                    done: Any = await reply.full()
            else:
                done = await it.complete(f"question {number}")
            ends[done.provider] += 1
        except LLMError as error:
            ends[error.type] += 1

    await asyncio.gather(*[one(number) for number in range(int(seconds * rate))])
    return ends


def in_flight(it: Chain) -> list[int]:
    return [one.in_flight for one in router(it).status()]


# -- failures in a row


async def test_long_streams_that_end_well_do_not_hide_that_nothing_new_begins():
    long: Any = ["be", Wait(60), "gun"]
    a, b = target("a", long), target("b", long)
    it = routed(a, b, layers=())

    def at(second: float) -> None:
        a.default = Overloaded("x") if second >= 60 else long

    ends = await load(it, seconds=80, rate=10, stream=True, at=at)
    assert ends["a"] + ends["b"] == 800
    failed = len(a.requests) - ends["a"]
    assert failed <= 6, "three in a row, and what the way back tries"


async def test_a_few_broken_streams_among_many_open_ones_put_no_target_down():
    count = iter(range(10**6))

    def line(request: Any) -> Any:
        broken = next(count) in (100, 200, 300, 400)
        return ["be", Wait(1), StreamBroken("cut")] if broken else ["be", Wait(60), "gun"]

    it = routed(target("a", line), target("b", ["be", Wait(60), "gun"]), layers=())
    seen = set()

    def at(second: float) -> None:
        seen.update(one.state for one in router(it).status(it.runtime))

    ends = await load(it, seconds=55, rate=20, stream=True, at=at)
    assert ends["NETWORK_ERROR"] == 4
    assert seen == {"healthy"}


async def test_streams_that_all_break_put_a_target_down_although_many_are_open():
    bad = ["be", Wait(1), StreamBroken("cut")]
    it = routed(target("a", bad), target("b", ["be", Wait(60), "gun"]), layers=())
    ends = await load(it, seconds=30, rate=10, stream=True)
    assert 3 <= ends["NETWORK_ERROR"] < 30


async def test_one_failure_in_twenty_at_a_high_rate_puts_no_target_down():
    count = iter(range(10**6))

    def line(request: Any) -> Any:
        number = next(count)
        return ServiceUnavailable("x") if number > 200 and number % 20 == 0 else [Wait(1), "ok"]

    it = routed(target("a", line), target("b", [Wait(1), "ok"]), layers=())
    ends = await load(it, seconds=30, rate=100)
    assert ends["a"] + ends["b"] == 3000
    assert {change.kind for change in router(it).changes()} <= {"degraded", "recovered"}
    assert ends["a"] > 1200


# -- targets that ask for time


@pytest.mark.parametrize("hint", [None, 0.0, -1.0])
@pytest.mark.parametrize("rate", [2, 50])
async def test_a_target_that_throttles_without_saying_how_long_is_not_asked_by_every_call(
    hint: Any, rate: int
):
    busy, b, c = (
        target("busy", RateLimited("slow down", status=429, retry_after=hint)),
        target("b"),
        target("c"),
    )
    it = routed(busy, b, c)
    ends = await load(it, seconds=30, rate=rate)
    assert ends["b"] + ends["c"] == 30 * rate
    assert len(busy.requests) <= 31
    busy.default = "ok"
    await asyncio.sleep(5)
    again = await load(it, seconds=30, rate=2)
    assert 15 <= again["busy"] <= 25


async def test_our_own_limit_of_a_target_is_asked_each_time_for_it_knows():
    a, b = target("a"), target("b")
    limit = RateLimit(requests_per_second=5, burst=1, mode="reject")
    it = routed(a, b, layers=(limit,))
    ends = await load(it, seconds=20, rate=9)
    assert ends["a"] + ends["b"] == 180


# -- the way back


async def test_after_a_total_outage_calls_are_spread_over_all_that_come_back():
    targets = [target(name, Overloaded("x")) for name in "abc"]
    it = routed(*targets, layers=(), health=HealthRules(rest=5, max_rest=5, ramp=30))
    await load(it, seconds=10, rate=20)
    for one in targets:
        one.default = "ok"
        one.requests.clear()
    await asyncio.sleep(6)
    ends = await load(it, seconds=10, rate=30)
    assert sum(ends[name] for name in "abc") == 300
    assert max(ends[name] for name in "abc") <= 150


async def test_no_more_than_its_probes_go_to_a_target_that_is_down():
    dead, b = target("dead", [Wait(0.2), Overloaded("x")]), target("b")
    it = routed(dead, b)
    seen = []

    def at(second: float) -> None:
        seen.append(len(dead.requests))

    ends = await load(it, seconds=600, rate=8, at=at)
    assert ends["b"] == 4800
    assert len(dead.requests) <= 3 + 20
    later = len(dead.requests) - seen[2400]
    assert later <= 300 / (120 * 0.9) + 2, "two minutes of rest between two tries"


async def test_a_flapping_target_costs_no_failed_call():
    a, b, c = target("a"), target("b"), target("c")
    it = routed(a, b, c)

    def at(second: float) -> None:
        a.default = ConnectFailed("x") if int(second / 7) % 2 else "ok"

    for stream in (False, True):
        ends = await load(it, seconds=140, rate=10, stream=stream, at=at)
        assert ends["a"] + ends["b"] + ends["c"] == 1400
        assert len(a.requests) - ends["a"] < 30
        a.requests.clear()


@pytest.mark.parametrize("rate", [1, 10, 100])
@pytest.mark.parametrize("around", ["bare", "retry", "production"])
async def test_a_minute_of_total_outage_is_amplified_by_a_fifth_at_the_most(rate: int, around: str):
    made: Any = {"bare": (), "retry": (Retry(),), "production": presets.production()}[around]
    targets = [target(name, ServiceUnavailable("x")) for name in "abc"]
    it = routed(*targets, around=made)
    ends = await load(it, seconds=60, rate=rate)
    assert sum(ends.values()) == 60 * rate
    assert sum(len(one.requests) for one in targets) <= 1.2 * 60 * rate


async def test_failovers_that_the_deadline_ends_are_paid_from_the_budget():
    slow = [Wait(20), "never"]
    hole, more = target("hole", slow), target("more", slow)
    rules = HealthRules(down_after=10**6, degraded_above=0.99)
    it = routed(hole, more, layers=(Timeout(first=5).rings()[1],), around=(Timeout(total=6),), health=rules)
    ends = await load(it, seconds=60, rate=20)
    assert ends["TIMEOUT"] == 1200
    sent = len(hole.requests) + len(more.requests)
    assert sent <= 1.2 * 1200


async def test_callers_that_leave_use_up_no_budget():
    dead, slow = target("dead", Overloaded("x")), target("slow", [Wait(20), "ok"])
    it = routed(dead, slow, layers=(), strategy=lambda lanes, call: lanes[0],
                health=HealthRules(down_after=10**6, degraded_above=0.99))  # fmt: skip
    for number in range(100):
        task = asyncio.ensure_future(it.complete(f"hi {number}"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await it.complete("hi")).provider == "slow"


# -- strategies of people's own


async def test_a_strategy_that_chooses_one_that_has_failed_is_told_so():
    a, b = target("a", Overloaded("x")), target("b")
    first: list[Any] = []

    def stubborn(lanes: Any, call: Any) -> Any:
        first.extend(lanes[:1])
        return first[0]

    it = routed(a, b, strategy=stubborn, layers=(RateLimit(requests_per_minute=1, burst=1, mode="reject"),))
    with pytest.raises(ConfigError, match="none of the candidates"):
        async with asyncio.timeout(10):
            await it.complete("hi")
    ward = it.runtime.state("router", "router", Ward)
    assert ward.budget.under_way == 0


@pytest.mark.parametrize("choice", [None, "a", 3])
async def test_a_strategy_that_chooses_nothing_is_told_so_in_trouble_too(choice: Any):
    it = routed(target("a", Overloaded("x")), target("b"), strategy=lambda lanes, call: choice)
    with pytest.raises(ConfigError, match="none of the candidates"):
        await it.complete("hi")
    it = routed(target("a", Overloaded("x")), target("b"),
                strategy=lambda lanes, call: lanes[0] if len(lanes) > 1 else choice)  # fmt: skip
    with pytest.raises(ConfigError, match="none of the candidates"):
        await it.complete("hi")


@pytest.mark.parametrize("strategy", ["round_robin", "weighted", "least_busy"])
async def test_shares_are_those_of_the_weights(strategy: str):
    """Within four standard deviations of a binomial distribution."""
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    it = routed(*[Route(target(name), weight=weight) for name, weight in weights.items()], strategy=strategy)
    count = 4000
    ends = await load(it, seconds=count / 100, rate=100)
    assert sum(ends.values()) == count
    if strategy != "least_busy":
        for name, weight in weights.items():
            share = weight / 8
            assert abs(ends[name] - count * share) <= 4 * sqrt(count * share * (1 - share))


# -- checks


async def test_a_chain_that_is_dropped_and_never_closed_is_checked_no_longer():
    asked: list[str] = []

    async def check(one: Any) -> bool:
        asked.append(one.name)
        return True

    it = Chain(Router(target("a"), target("b"), checks=Checks(check=check, interval=10)))
    await it.complete("hi")
    await asyncio.sleep(40)
    assert asked
    held = weakref.ref(router(it))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del it
        gc.collect()
        await asyncio.sleep(12)  # whoever sleeps finds out when it wakes
        gc.collect()
    assert held() is None
    asked.clear()
    await asyncio.sleep(60)
    assert asked == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("llmpipe:")]


async def test_a_check_that_cancels_itself_is_a_failed_check_and_not_the_end_of_all():
    asked: Counter[str] = Counter()

    async def check(one: Any) -> bool:
        asked[one.name] += 1
        if one.name == "a":
            raise asyncio.CancelledError
        return True

    it = Chain(Router(target("a"), target("b"), checks=Checks(check=check, interval=10)))
    await it.complete("hi")
    await asyncio.sleep(100)
    assert asked["a"] >= 5
    assert asked["b"] >= 5
    assert status(it)["a"].state == "down"
    await it.aclose()


async def test_where_there_is_nothing_to_check_after_all_no_call_begins_it_again():
    class Odd(MockProvider):
        asked = 0

        async def get_models(self) -> Any:
            type(self).asked += 1
            raise Unsupported("it has no list of models")

    it = Chain(Router(Odd(default="ok", name="odd"), checks=Checks(interval=1)))
    for _ in range(200):
        await it.complete("hi")
        await asyncio.sleep(1)
    assert Odd.asked <= 1
    await it.aclose()


def test_one_router_serves_two_loops_in_two_threads():
    it = Router(target("a"), target("b"), target("c"), checks=Checks(interval=0.001))
    wrong: list[Exception] = []

    async def work(chain: Chain) -> None:
        for number in range(300):
            assert (await chain.complete(f"hi {number}")).text == "ok"
            if number % 50 == 0:
                await asyncio.sleep(0.002)
        assert sum(one.calls for one in it.status(chain.runtime)) == 300
        assert [one.in_flight for one in it.status(chain.runtime)] == [0, 0, 0]

    def thread() -> None:
        try:
            asyncio.run(work(Chain(it)))
        except Exception as error:  # noqa: BLE001  told to the test
            wrong.append(error)

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


# -- within a chain


async def test_what_stands_outside_knows_whose_the_attempts_were():
    a = MockProvider(default=Overloaded("x"), name="openai", model="gpt-4o-mini")
    b = MockProvider(default="hello", name="anthropic", model="claude-haiku-4-5")
    it = routed(a, b, around=presets.production(cache=None), strategy=lambda lanes, call: lanes[0])
    for stream in (False, True):
        call = it.new_call(Request(messages="hi", stream=stream))
        done: Any = await (await it(call)).full()
        assert done.provider == "anthropic"
        attempts = call.ledger.attempts
        assert [(x.provider, x.asked_model, x.status) for x in attempts][-1] == (
            "anthropic", "claude-haiku-4-5", "ok",
        )  # fmt: skip
        assert done.charge is not None
        assert done.charge.usd > 0
        assert all(x.charge is not None for x in attempts)
    totals = Cost.totals(it.runtime)
    assert totals.all.unknown == 0
    assert in_flight(it) == [0, 0]


async def test_calls_that_are_coalesced_are_counted_once():
    a = target("a", [Wait(1), "ok"])
    it = routed(a, around=(Coalesce(),))
    request = Request(messages="hi", temperature=0)
    await asyncio.gather(*[it.complete(request) for _ in range(10)])
    assert status(it)["a"].calls == len(a.requests) == 1
    assert in_flight(it) == [0]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_router_stands_behind_a_provider_and_in_another_router(stream: bool):
    inner = Router(target("x", Overloaded("x")), target("y"), name="inner", checks=None)
    it = Chain(target("a", Overloaded("x")), *presets.production(), Fallback(inner))
    outer = Chain(Router(target("b", Overloaded("x")), inner, checks=None), *presets.production())
    for chain in (it, outer):
        for number in range(6):
            if stream:
                async with chain.stream(f"hi {number}") as reply:
                    done: Any = await reply.full()
            else:
                done = await chain.complete(f"hi {number}")
            assert done.provider == "y"
    assert [one.in_flight for one in inner.status()] == [0, 0]


async def test_a_setting_of_one_call_and_a_name_left_out_reach_the_lanes():
    a = target("a", [Wait(5), "ok"])
    it = routed(a, around=(Retry(),), layers=(Timeout(first=1, total=None),))
    with pytest.raises(LLMError):
        await it.complete("hi", options={Timeout: {"first": 2}}, timeout=3)
    assert (await it.complete("hi", options={Timeout: {"first": 9}})).text == "ok"


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelled_at_every_moment_of_a_failover_everything_is_given_back(stream: bool):
    a, b = target("a", [Wait(1), Overloaded("x")]), target("b", [Wait(1), "o", Wait(1), "k"])
    it = routed(a, b, around=presets.production(cache=None), strategy=lambda lanes, call: lanes[0],
                health=HealthRules(down_after=10**6, degraded_above=0.99))  # fmt: skip
    ward = it.runtime.state("router", "router", Ward)

    async def one(number: int) -> None:
        if not stream:
            await it.complete(f"hi {number}")
            return
        async with it.stream(f"hi {number}") as reply:
            async for _ in reply:
                pass

    for number in range(40):
        task = asyncio.ensure_future(one(number))
        await asyncio.sleep(number * 0.1)
        for _ in range(number % 5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert in_flight(it) == [0, 0]
        assert ward.budget.under_way == 0
    assert a.open == b.open == 0


async def test_a_router_that_is_built_anew_knows_what_its_predecessor_knew_of_targets_of_that_name():
    runtime = Runtime(seed=1)
    dead, b = target("dead", Overloaded("x")), target("b")
    old = Chain(Router(dead, b, checks=None), runtime=runtime)
    await load(old, seconds=2, rate=10)
    asked = len(dead.requests)
    new = Chain(Router(dead, b, target("c"), checks=None, strategy="weighted"), runtime=runtime)
    ends = await load(new, seconds=2, rate=10)
    assert len(dead.requests) == asked
    assert ends["b"] + ends["c"] == 20


async def test_two_routers_of_one_name_do_not_make_each_other_forget_who_is_down():
    runtime = Runtime(seed=1)
    dead, b = target("dead", Overloaded("x")), target("b")
    one = Chain(Router(dead, b, checks=None, layers=()), runtime=runtime)
    await load(one, seconds=2, rate=10)
    asked = len(dead.requests)
    other = Chain(Router(target("x"), target("y"), checks=None, layers=()), runtime=runtime)
    await other.complete("hi")
    await load(one, seconds=2, rate=10)
    assert len(dead.requests) == asked


async def test_where_the_clock_stands_still_nothing_is_divided_by_it():
    a, b = target("a"), target("b", Overloaded("x"))
    it = routed(a, b, strategy="lowest_latency")
    for number in range(50):
        assert (await it.complete(f"hi {number}")).provider == "a"
    assert now() == 0
    told = status(it)
    assert told["a"].score > told["b"].score == 0


def test_a_call_that_is_dropped_with_its_loop_leaves_nothing_under_way():
    it = routed(
        target("a", Overloaded("x")), target("b", [Wait(100), "ok"]), strategy=lambda lanes, call: lanes[0]
    )

    async def leave() -> None:
        task = asyncio.ensure_future(it.complete("hi"))
        await asyncio.sleep(1)
        task.cancel()

    run(leave())
    assert it.runtime.state("router", "router", Ward).budget.under_way == 0
