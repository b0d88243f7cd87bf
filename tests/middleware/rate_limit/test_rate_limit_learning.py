"""What a provider says of its limits, and what it does when they are passed."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from llmpipe.errors import LimitReached, Overloaded, RateLimited
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.rate_limit.ramp import Ramp
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.types import Finish, Request, Start, TextDelta, Usage
from tests.middleware.rate_limit.limits import Timed, limited, outcome, started, status, turns


def openai(limit: int, remaining: int, kind: str = "requests") -> dict[str, str]:
    return {f"x-ratelimit-limit-{kind}": str(limit), f"x-ratelimit-remaining-{kind}": str(remaining)}


def limits(chain: Chain) -> dict[str, float]:
    return {limit.name: limit.limit for limit in status(chain).limits}


# ---------------------------------------------------------------- headers


async def test_a_limit_nobody_had_set_is_learned():
    provider = Timed(headers=openai(60, 0) | openai(6000, 5000, "tokens"))
    chain = limited(provider)
    await chain.complete("hi")
    assert limits(chain) == {"requests in 60 s": 60, "tokens in 60 s": 6000}
    await chain.complete("hi")
    assert provider.times[1] == pytest.approx(1)  # nothing remained, so one had to come back


async def test_the_tighter_limit_holds_and_ours_returns_when_theirs_is_lifted():
    provider = Timed(headers=lambda n: openai({1: 30, 2: 500}[n], 25))
    chain = limited(provider, requests_per_minute=120, burst=10)
    await chain.complete("hi")
    assert limits(chain) == {"requests_per_minute": 30}
    await chain.complete("hi")
    assert limits(chain) == {"requests_per_minute": 120}


async def test_what_remains_counts_less_what_the_provider_had_not_seen():
    provider = Timed(seconds=1, headers=lambda n: openai(60, 5) if n == 1 else {})
    chain = limited(provider, requests_per_minute=60, burst=20)
    first = asyncio.create_task(chain.complete("hi"))
    await turns()
    later = [asyncio.create_task(chain.complete("hi")) for _ in range(3)]
    await first
    assert status(chain).limits[0].remaining == pytest.approx(5 - 3)
    await asyncio.gather(*later)


async def test_headers_never_raise_what_we_have():
    provider = Timed(headers=openai(60, 59))
    chain = limited(provider, requests_per_minute=60, burst=3, mode="reject")
    for _ in range(3):
        await chain.complete("hi")
    assert isinstance(await outcome(chain), LimitReached)


async def test_what_a_long_stream_said_at_its_start_is_not_taken_for_what_is_left_now():
    start = Start(headers=openai(60, 0))
    provider = MockProvider(
        [[start, TextDelta("a"), Wait(30), Finish("stop")], [start, TextDelta("a"), Finish("stop")]]
    )
    chain = Chain(provider, RateLimit())
    async with chain.stream("hi") as reply:
        await reply.full()
    assert limits(chain) == {"requests in 60 s": 60}
    assert status(chain).limits[0].remaining == 6
    async with chain.stream("hi") as reply:
        await reply.full()
    assert status(chain).limits[0].remaining == pytest.approx(0)


async def test_learning_can_be_switched_off_and_is_off_where_keys_do_not_tell_targets_apart():
    for settings in ({"learn": False}, {"per": "tenant"}):
        provider = Timed(headers=openai(60, 0))
        chain = limited(provider, requests_per_minute=6000, **settings)
        await chain.complete("hi")
        assert limits(chain) == {"requests_per_minute": 6000}
    chain = limited(Timed(headers=openai(60, 0)), requests_per_minute=6000, per="tenant", learn=True)
    await chain.complete("hi")
    assert limits(chain) == {"requests_per_minute": 60}


async def test_learned_token_limits_reserve_and_settle_like_our_own():
    provider = Timed(seconds=1, usage=Usage(10, 20), headers=openai(6000, 6000, "tokens"))
    chain = limited(provider, output_tokens=200)
    await chain.complete("hi")
    await asyncio.sleep(60)
    task = asyncio.create_task(chain.complete("hi"))
    await turns()
    assert 600 - status(chain).limits[0].remaining > 20
    await task
    assert status(chain).limits[0].remaining == pytest.approx(600)


async def test_a_provider_that_names_another_period_each_time_fills_no_memory():
    def headers(number):
        return {
            "x-ratelimit-limit-requests": "100000",
            "x-ratelimit-renewalperiod-requests": str(100 + number),
        }

    chain = limited(Timed(headers=headers))
    for _ in range(100):
        await chain.complete("hi")
    assert len(status(chain).limits) == 24


# ---------------------------------------------------------------- pauses


async def test_a_429_pauses_the_key_for_as_long_as_it_says():
    provider = MockProvider([RateLimited("slow down", retry_after=7)], default="ok")
    chain = limited(provider, requests_per_minute=6000)
    call = chain.new_call(Request("", "hi"))
    with pytest.raises(RateLimited):
        await chain(call)
    assert [(n.kind, n.detail) for n in call.ledger.notes] == [("rate_limit.paused", {"seconds": 7})]
    assert status(chain).paused == 7
    await chain.complete("hi")
    assert asyncio.get_running_loop().time() == pytest.approx(7)
    await chain.complete("hi", model="another")  # another key is not concerned
    assert asyncio.get_running_loop().time() == pytest.approx(7)


async def test_a_pause_longer_than_an_hour_is_not_forgotten():
    provider = MockProvider([RateLimited("slow down", retry_after=7200)], default="ok")
    chain = limited(provider)
    await outcome(chain)
    await asyncio.sleep(3700)
    await chain.complete("hi", model="another")
    refused = await outcome(chain)
    assert isinstance(refused, LimitReached)
    assert refused.retry_after == pytest.approx(3500)


async def test_who_cannot_wait_for_the_end_of_a_pause_is_told_at_once():
    provider = MockProvider([[Wait(1), RateLimited("slow down", retry_after=100)]], default="ok")
    chain = limited(provider, concurrency=1, max_wait=30)
    first = asyncio.create_task(outcome(chain))
    await turns()
    second = await outcome(chain)
    assert isinstance(second, LimitReached)
    assert second.retry_after == pytest.approx(100)
    assert asyncio.get_running_loop().time() == pytest.approx(1)
    assert isinstance(await first, RateLimited)
    third = await outcome(chain)
    assert isinstance(third, LimitReached)
    assert third.retry_after == pytest.approx(100)
    assert status(chain).waiting == status(chain).in_flight == 0


async def test_after_a_pause_one_call_goes_then_two_then_four():
    provider = Timed(seconds=1, refuses=[RateLimited("slow down", retry_after=10)])
    chain = limited(provider, requests_per_minute=60_000, max_wait=1000)
    assert isinstance(await outcome(chain), RateLimited)
    await asyncio.gather(*(chain.complete("hi") for _ in range(15)))
    waves = [sum(at == pytest.approx(second) for at in provider.times) for second in (10, 11, 12, 13)]
    assert waves == [1, 2, 4, 8]


async def test_a_probe_that_fails_does_not_widen_the_ramp_and_one_that_is_cancelled_gives_way():
    provider = MockProvider(
        [RateLimited("slow down", retry_after=1), Overloaded("busy"), [Wait(60), "never"]],
        default=[Wait(1), "ok"],
    )
    chain = limited(provider, requests_per_minute=6000, max_wait=1000)
    await outcome(chain)
    await asyncio.sleep(1)
    assert isinstance(await outcome(chain), Overloaded)
    probe = asyncio.create_task(chain.complete("hi"))
    await turns()
    rest = [asyncio.create_task(chain.complete("hi")) for _ in range(3)]
    await turns()
    assert len(provider.requests) == 3  # the probe alone is on its way
    probe.cancel()
    await turns()
    assert len(provider.requests) == 4
    await asyncio.gather(*rest)
    assert status(chain).in_flight == 0


async def test_a_probe_cancelled_in_the_moment_of_its_admission_gives_way():
    """Its permit was given and never used: the ramp waited for it for ever."""
    chain = limited(Timed(refuses=[RateLimited("slow down", retry_after=5)]))
    await outcome(chain)
    (gate,) = chain.runtime.states("rate_limit")["rate_limit"].values()
    (probe,) = await started(chain.complete("probe"))
    gate.ramp.until = 0.0
    gate.pump()  # the probe is let in
    probe.cancel()  # and has had no chance to go
    await turns()
    assert (status(chain).in_flight, chain.provider.came) == (0, [])
    assert (await outcome(chain)).text == "ok"


@pytest.mark.parametrize(
    ("hint", "seconds"), [(1e12, 86_400), (math.inf, 1), (math.nan, 1), (-5.0, 1), (None, 1), (0.0, 0)]
)
async def test_a_hint_that_is_nonsense_parks_the_key_for_a_day_at_most(hint, seconds):
    chain = limited(MockProvider([RateLimited("slow down", retry_after=hint)], default="ok"))
    await outcome(chain)
    assert status(chain).paused == seconds


async def test_pauses_without_a_hint_grow_and_echoes_do_not_count():
    provider = MockProvider([[Wait(0.5), RateLimited("slow down")]] * 4, default="ok")
    chain = limited(provider, requests_per_minute=6000, max_wait=0)
    await asyncio.gather(*(outcome(chain) for _ in range(4)))  # four refusals of one moment
    assert status(chain).paused == pytest.approx(1)
    provider = MockProvider([RateLimited("slow down")] * 3, default="ok")
    chain = limited(provider, requests_per_minute=6000)
    paused = []
    for _ in range(3):
        await outcome(chain)
        paused.append(status(chain).paused)
    assert paused == pytest.approx([1, 2, 4])


def test_a_ramp_ends_and_forgets_its_strikes():
    ramp = Ramp()
    ramp.pause(ramp.epoch, None, 0.0)
    assert ramp.pause(ramp.epoch, None, 0.0) == 2
    for _ in range(63):
        ramp.on_way += 1
        assert ramp.arrived(ramp.epoch, ok=True)
    assert ramp.room == 0
    assert ramp.pause(ramp.epoch, None, 10.0) == 1


def test_an_echo_may_lengthen_a_pause_and_leaves_the_ramp_alone():
    ramp = Ramp()
    before = ramp.epoch
    assert ramp.pause(before, 5.0, 0.0) == 5
    ramp.on_way, ramp.room = 2, 3
    assert ramp.pause(before, 9.0, 1.0) == 9
    assert ramp.pause(before, 1.0, 1.0) == 9
    assert (ramp.on_way, ramp.room) == (2, 3)
    assert not ramp.arrived(before, ok=True)


async def test_our_own_refusals_and_those_of_a_limiter_further_in_pause_nothing():
    chain: Any = Chain(
        Timed(),
        RateLimit(requests_per_minute=6000, name="outer", priority=790),
        RateLimit(requests_per_minute=1, mode="reject"),
    )
    await chain.complete("hi")
    assert isinstance(await outcome(chain), LimitReached)
    outer, inner = (layer.status(chain.runtime)[0] for layer in chain.middleware)
    assert outer.paused == inner.paused == 0
    assert outer.limits[0].remaining == pytest.approx(599)  # what the inner one refused was given back
