"""Whom a router asks first, strategy by strategy."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, Overloaded
from llmpipe.pipeline.chain import Chain
from llmpipe.pricing import PriceTable
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.route import Route
from llmpipe.routing.router import Router
from llmpipe.routing.strategies import STRATEGIES, Cheapest, Priority, RoundRobin, strategy_of
from llmpipe.runtime import Runtime


def target(name: str, line="ok", **options) -> MockProvider:
    return MockProvider(default=line, name=name, model=f"{name}-1", **options)


def routed(*routes, seed: int = 1, **settings) -> Chain:
    return Chain(Router(*routes, checks=None, **settings), runtime=Runtime(seed=seed))


async def who(chain: Chain, calls: int) -> list[str]:
    """Who answered each of `calls`, one after the other."""
    return [(await chain.complete("hi")).provider for _ in range(calls)]


def within(count: int, calls: int, share: float) -> bool:
    """Whether `count` of `calls` lies within five standard deviations of `share`."""
    return abs(count - calls * share) <= 5 * math.sqrt(calls * share * (1 - share)) + 1


# -- round robin


async def test_round_robin_asks_each_in_turn():
    assert await who(routed(target("a"), target("b"), target("c")), 6) == ["a", "b", "c"] * 2


async def test_round_robin_gives_weights_their_exact_share_without_bursts():
    chain = routed(Route(target("a"), weight=3), target("b"), target("c"))
    answered = await who(chain, 50)
    assert Counter(answered) == {"a": 30, "b": 10, "c": 10}
    assert "aaa" not in "".join(answered)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_round_robin_is_exact_for_any_weights(weights: list[int]):
    class One:
        def __init__(self, weight: int) -> None:
            self.weight, self.turn = weight, 0.0

    ones = [One(weight) for weight in weights]
    taken = Counter(id(RoundRobin()(ones, None)) for _ in range(2 * sum(weights)))
    assert [taken[id(one)] for one in ones] == [2 * weight for weight in weights]


# -- by chance


async def test_weighted_gives_weights_their_share_by_chance():
    chain = routed(Route(target("a"), weight=3), target("b"), target("c"), strategy="weighted")
    answered = Counter(await who(chain, 2000))
    for name, share in (("a", 0.6), ("b", 0.2), ("c", 0.2)):
        assert within(answered[name], 2000, share)


async def test_least_busy_leaves_out_who_has_many_calls_under_way():
    slow, quick = target("slow", [Wait(100), "late"]), target("quick", [Wait(1), "soon"])
    chain = routed(slow, quick, strategy="least_busy")

    async def one(at: int) -> str:
        await asyncio.sleep(at * 0.5)
        return (await chain.complete("hi")).provider

    answered = Counter(await asyncio.gather(*[one(at) for at in range(100)]))
    assert answered["quick"] > 90  # of two a second it has two under way at the most


async def test_least_busy_spreads_simultaneous_calls_evenly_over_many():
    chain = routed(*[target(f"t{n}", [Wait(1), "ok"]) for n in range(5)], strategy="least_busy")
    done = await asyncio.gather(*[chain.complete("hi") for _ in range(500)])
    counts = Counter(one.provider for one in done)
    assert max(counts.values()) - min(counts.values()) <= 10  # by chance alone it would be some 40


async def test_least_busy_takes_weights_for_capacities():
    chain = routed(
        Route(target("big", [Wait(1), "ok"]), weight=4),
        target("small", [Wait(1), "ok"]),
        strategy="least_busy",
    )
    done = await asyncio.gather(*[chain.complete("hi") for _ in range(100)])
    assert 75 <= Counter(one.provider for one in done)["big"] <= 85


async def test_lowest_latency_asks_the_quickest_once_all_are_known():
    targets = [target(f"t{n}", [Wait(n), "ok"]) for n in (1, 2, 3)]
    chain = routed(*targets, strategy="lowest_latency")
    answered = await who(chain, 40)
    assert {"t1", "t2", "t3"} <= set(answered)  # unknown ones are tried
    late = Counter(answered[10:])
    assert late["t1"] > late["t3"]
    assert late["t1"] >= 15


async def test_lowest_latency_tries_one_that_was_slow_again():
    was_slow = target("was_slow")
    script: Iterator[Any] = iter([[Wait(20), "ok"]])
    was_slow.default = lambda request: next(script, "ok")
    chain = routed(was_slow, target("steady", [Wait(1), "ok"]), strategy="lowest_latency")
    answered = await who(chain, 80)
    assert answered.count("was_slow") > 5


async def test_lowest_latency_sends_few_calls_to_one_that_nobody_knows():
    chain = routed(
        target("dead_slow", [Wait(25), "ok"]), target("quick", [Wait(1), "ok"]), strategy="lowest_latency"
    )

    async def one(at: int) -> str:
        await asyncio.sleep(at * 0.1)
        return (await chain.complete("hi")).provider

    answered = Counter(await asyncio.gather(*[one(at) for at in range(100)]))
    assert answered["dead_slow"] <= 8  # those of the first second, when nobody knew either


# -- by price, health and preference

TABLE = PriceTable(
    {
        "wordy/wordy-1": {"input": 1, "output": 1},
        "terse/terse-1": {"input": 5, "output": 0.5},
    }
)


async def test_cheapest_asks_the_one_that_costs_least_for_this_request():
    chain = routed(target("unknown"), target("wordy"), target("terse"), strategy=Cheapest(TABLE))
    short = await chain.complete("hi", max_tokens=1)
    assert short.provider == "wordy"  # nearly all of it is input
    assert (await chain.complete("hi", max_tokens=5000)).provider == "terse"


async def test_a_price_that_nobody_knows_is_last_and_never_zero():
    wordy = target("wordy")
    chain = routed(target("unknown"), wordy, strategy=Cheapest(TABLE))
    assert set(await who(chain, 5)) == {"wordy"}
    assert set(await who(routed(target("unknown"), strategy=Cheapest(TABLE)), 2)) == {"unknown"}


async def test_among_equal_prices_the_least_busy_is_taken():
    equal = PriceTable({"*": {"input": 1, "output": 1}})
    chain = routed(target("a", [Wait(1), "x"]), target("b", [Wait(1), "x"]), strategy=Cheapest(equal))
    done = await asyncio.gather(*[chain.complete("hi") for _ in range(10)])
    assert Counter(one.provider for one in done) == {"a": 5, "b": 5}


async def test_priority_asks_the_others_only_when_the_preferred_fail():
    first, second = target("first"), target("second")
    chain = routed(second, Route(first, priority=-1), strategy="priority")
    assert set(await who(chain, 5)) == {"first"}
    first.default = Overloaded("down")
    assert set(await who(chain, 5)) == {"second"}


async def test_priority_lets_another_strategy_choose_among_equals():
    chain = routed(
        *[Route(target(f"t{n}"), priority=n // 2) for n in range(4)], strategy=Priority("weighted")
    )
    answered = Counter(await who(chain, 200))
    assert set(answered) == {"t0", "t1"}
    assert within(answered["t0"], 200, 0.5)


async def test_healthiest_prefers_the_highest_score():
    chain = routed(target("slow", [Wait(5), "ok"]), target("quick"), strategy="healthiest")
    answered = await who(chain, 10)
    assert set(answered[2:]) == {"quick"}


# -- of one's own


async def test_any_function_of_candidates_and_call_is_a_strategy():
    def nearest(candidates, call):
        region = call.tags.get("region")
        return next((one for one in candidates if one.tags.get("region") == region), candidates[0])

    chain = routed(
        Route(target("us"), tags={"region": "us"}),
        Route(target("eu"), tags={"region": "eu"}),
        strategy=nearest,
    )
    assert (await chain.complete("hi", tags={"region": "eu"})).provider == "eu"
    assert (await chain.complete("hi")).provider == "us"


async def test_a_strategy_that_chooses_nobody_is_told_so():
    with pytest.raises(ConfigError, match="chose None"):
        await routed(target("a"), strategy=lambda candidates, call: None).complete("hi")


@pytest.mark.parametrize("name", sorted(STRATEGIES))
async def test_every_named_strategy_serves_embeddings_too(name: str):
    chain = routed(target("a"), target("b"), strategy=name)
    done = [await chain.embed(["one", "two"]) for _ in range(3)]
    assert all(len(one.vectors) == 2 for one in done)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
async def test_every_named_strategy_serves_one_target(name: str):
    assert await who(routed(target("a"), strategy=name), 3) == ["a"] * 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("round_robbin", "did you mean 'round_robin'"),
        ("xyz", "there are"),
        (RoundRobin, "make one of it"),
        (7, "not a int"),
    ],
)
def test_a_strategy_that_there_is_not_is_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        strategy_of(wrong)


def test_a_strategy_made_with_another_inside_checks_that_too():
    with pytest.raises(ConfigError, match="least_busy"):
        Priority("least_busyy")


async def test_the_choice_is_reproducible_by_seed():
    def answers(seed: int):
        return who(routed(target("a"), target("b"), strategy="weighted", seed=seed), 20)

    assert await answers(5) == await answers(5)
    assert await answers(5) != await answers(6)
