"""Rate limits: admission, waiting, refusing and settling."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import pytest
from attrs import evolve

from llmpipe.errors import (
    BadReply,
    ConfigError,
    ConnectFailed,
    InvalidRequest,
    LimitReached,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.rate_limit.admission import Gate
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.tokens import estimate_request
from llmpipe.types import EmbeddingRequest, Request, RerankRequest, Usage
from tests.middleware.rate_limit.limits import Timed, in_turn, limited, outcome, started, status, turns

# ---------------------------------------------------------------- requests


async def test_a_burst_goes_at_once_and_the_rest_at_the_rate():
    provider = Timed()
    chain = limited(provider, requests_per_minute=60, burst=3)
    await asyncio.gather(*(chain.complete("hi") for _ in range(6)))
    assert provider.times == pytest.approx([0, 0, 0, 1, 2, 3])


async def test_a_minute_that_begins_with_a_full_bucket_admits_the_limit_and_one_burst():
    provider = Timed()
    chain = limited(provider, requests_per_minute=60)
    await asyncio.gather(*(chain.complete("hi") for _ in range(80)), return_exceptions=True)
    assert sum(at < 60 for at in provider.times) == 60 + 6 - 1  # the 66th stands at second 60
    assert sum(at <= 60 for at in provider.times) == 66


async def test_all_limits_hold_at_once_and_a_refusal_takes_from_none():
    provider = Timed()
    chain = limited(provider, requests_per_second=10, requests_per_minute=60, burst=1, mode="reject")
    layer = chain.middleware[0]
    assert not isinstance(await outcome(chain), Exception)
    before = layer.status(chain.runtime)[0].limits
    for _ in range(5):
        refused = await outcome(chain)
        assert isinstance(refused, LimitReached)
        assert refused.retry_after == pytest.approx(1.0, abs=0.001)  # the minute's, not the second's 0.1
    assert layer.status(chain.runtime)[0].limits == before


async def test_retry_after_is_the_moment_at_which_it_works():
    chain = limited(requests_per_minute=7, burst=2, mode="reject")
    for _ in range(2):
        await chain.complete("hi")
    refused = await outcome(chain)
    await asyncio.sleep(refused.retry_after - 0.001)
    assert isinstance(await outcome(chain), LimitReached)
    await asyncio.sleep(0.002)
    assert not isinstance(await outcome(chain), Exception)


async def test_a_refusal_was_not_sent_and_says_where_it_happened():
    chain = limited(requests_per_minute=1, mode="reject")
    await chain.complete("hi")
    refused = await outcome(chain)
    assert (refused.sent, refused.billed, refused.phase, refused.retryable) == (False, "no", "admit", False)
    assert refused.rescue == "any"
    assert refused.status == 429
    assert refused.type == "RATE_LIMIT"


async def test_a_refusal_gives_away_no_credential_that_somebody_uses_as_a_name():
    key = "sk-proj-" + "a1B2" * 10
    chain = limited(requests_per_minute=1, mode="reject", per=("user",))
    await chain.complete("hi", user=key)
    refused = await outcome(chain, user=key)
    assert isinstance(refused, LimitReached)
    assert key[8:] not in str(refused)


async def test_who_would_wait_too_long_is_refused_at_once():
    provider = Timed()
    chain = limited(provider, requests_per_minute=60, burst=1, max_wait=2.5)
    results = await in_turn(*(outcome(chain) for _ in range(6)))
    assert [isinstance(r, LimitReached) for r in results] == [False] * 3 + [True] * 3
    assert asyncio.get_running_loop().time() == pytest.approx(2)
    assert [r.retry_after for r in results[3:]] == pytest.approx([3, 3, 3])


async def test_who_has_less_time_than_the_wait_is_refused_at_once():
    chain = limited(requests_per_minute=60, burst=1)
    await chain.complete("hi")
    refused = await outcome(chain, timeout=0.5)
    assert isinstance(refused, LimitReached)
    assert asyncio.get_running_loop().time() == 0.0


async def test_a_full_queue_refuses():
    chain = limited(requests_per_minute=60, burst=1, max_queue=2)
    results = await in_turn(*(outcome(chain) for _ in range(5)))
    assert [isinstance(r, LimitReached) for r in results] == [False] * 3 + [True] * 2
    assert "2 calls are waiting" in results[-1].message


async def test_a_call_that_has_another_target_does_not_wait():
    chain = limited(requests_per_minute=60, burst=1)
    await chain.complete("hi")
    call = chain.new_call(Request("", "hi")).evolve(spare=True)
    with pytest.raises(LimitReached):
        await chain(call)
    everywhere = limited(requests_per_minute=60, burst=1, per="global")
    await everywhere.complete("hi")
    call = everywhere.new_call(Request("", "hi")).evolve(spare=True)
    await (await everywhere(call)).full()  # all targets stand under this limit, so there is nowhere to go
    assert asyncio.get_running_loop().time() == pytest.approx(1)


async def test_per_call_settings_change_how_a_call_waits():
    chain = limited(requests_per_minute=60, burst=1)
    await chain.complete("hi")
    refused = await outcome(chain, options={RateLimit: {"mode": "reject"}})
    assert isinstance(refused, LimitReached)


# ---------------------------------------------------------------- order


async def test_first_come_first_served():
    provider = Timed()
    chain = limited(provider, requests_per_minute=60, burst=1)
    await in_turn(*(chain.complete(str(n)) for n in range(10)))
    assert provider.texts == [str(n) for n in range(10)]


async def test_small_requests_do_not_overtake_a_large_one():
    provider = Timed(usage=Usage(1, 0))
    chain = limited(provider, tokens_per_minute=6000, token_burst=1000, output_tokens=0, max_wait=600)
    await chain.complete("x" * 4000)  # takes the burst
    large = asyncio.create_task(chain.complete("large " + "word " * 700))
    await turns()
    small = [asyncio.create_task(chain.complete("small")) for _ in range(20)]
    await asyncio.gather(large, *small)
    assert provider.texts[1].startswith("large")
    assert set(provider.texts[2:]) == {"small"}


async def test_higher_priority_goes_first_and_equal_ones_in_order():
    provider = Timed()
    chain = limited(provider, requests_per_minute=60, burst=1)
    await chain.complete("first")
    calls = [("low", 0), ("high", 5), ("low 2", 0), ("high 2", 5), ("highest", 9)]
    await in_turn(*(chain.complete(text, priority=priority) for text, priority in calls))
    assert provider.texts[1:] == ["highest", "high", "high 2", "low", "low 2"]


async def test_waiting_long_makes_up_for_priority():
    provider = Timed()
    chain = limited(provider, requests_per_minute=1, burst=1, aging=100, max_wait=10_000)
    await chain.complete("first")
    old = asyncio.create_task(chain.complete("old"))
    await asyncio.sleep(30)
    await turns()
    rivals = await started(*(chain.complete(f"rival {n}", priority=1) for n in range(2)))
    await asyncio.sleep(80)  # more than one level's worth after the old one
    rivals.append(asyncio.create_task(chain.complete("late rival", priority=1)))
    await asyncio.gather(old, *rivals)
    assert provider.texts[1:] == ["rival 0", "rival 1", "old", "late rival"]


async def test_without_aging_levels_are_strict():
    provider = Timed()
    chain = limited(provider, requests_per_minute=1, burst=1, aging=None, max_wait=10_000)
    await chain.complete("first")
    old = asyncio.create_task(chain.complete("old"))
    await asyncio.sleep(50)
    rivals = [asyncio.create_task(chain.complete("rival", priority=1)) for _ in range(3)]
    await asyncio.gather(old, *rivals)
    assert provider.texts[1:] == ["rival"] * 3 + ["old"]


async def test_a_cancelled_waiter_leaves_its_place_to_the_next():
    provider = Timed()
    chain = limited(provider, requests_per_minute=60, burst=1)
    await chain.complete("first")
    tasks = await started(*(chain.complete(str(n)) for n in range(3)))
    assert status(chain).waiting == 3
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert provider.texts[1:] == ["1", "2"]
    assert provider.times[1:] == pytest.approx([1, 2])
    assert status(chain).waiting == status(chain).in_flight == 0


@pytest.mark.parametrize("first", ["cancelled", "admitted"])
async def test_a_waiter_cancelled_in_the_moment_of_its_admission_passes_it_on(first):
    runtime = Runtime()
    gate = Gate(("key",), (), 1, inf, 0.0)
    one = (1.0, 0.0, 0.0, 0.0)
    permit = gate.take(one, 0.0)
    second, third = await started(
        *(gate.enter(Call(Request("m", "hi"), runtime), one, inf, 9) for _ in range(2))
    )
    if first == "cancelled":
        second.cancel()  # and had no chance to withdraw before the permit comes
        permit.settle(0.0)
    else:
        permit.settle(0.0)
        second.cancel()  # and has had no chance to take its permit
    (await third).settle(0.0)
    assert isinstance((await asyncio.gather(second, return_exceptions=True))[0], asyncio.CancelledError)
    assert (gate.in_flight, len(gate.queue)) == (0, 0)


async def test_a_large_waiter_that_is_cancelled_lets_small_ones_go_at_once():
    provider = Timed(usage=Usage(900, 0))
    chain = limited(provider, tokens_per_minute=60_000, token_burst=1000, output_tokens=0)
    await chain.complete("first")
    large = asyncio.create_task(chain.complete("word " * 700))
    await turns()
    small = asyncio.create_task(chain.complete("small"))
    await turns()
    assert len(provider.came) == 1
    large.cancel()
    await small
    assert asyncio.get_running_loop().time() < 0.1


async def test_one_timer_stands_for_the_whole_queue():
    chain = limited(requests_per_minute=60, burst=1, max_wait=float("inf"))
    await chain.complete("first")
    loop: Any = asyncio.get_running_loop()
    before = len(loop._scheduled)
    tasks = [asyncio.create_task(chain.complete("hi")) for _ in range(50)]
    await turns(200)
    assert status(chain).waiting == 50
    assert len(loop._scheduled) == before + 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---------------------------------------------------------------- concurrency


async def test_no_more_are_in_flight_than_allowed_and_the_next_goes_when_one_ends():
    provider = Timed(seconds=10)
    chain = limited(provider, concurrency=3, max_wait=1000)
    await asyncio.gather(*(chain.complete("hi") for _ in range(9)))
    assert provider.most == 3
    assert provider.times == pytest.approx([0] * 3 + [10] * 3 + [20] * 3)


async def test_a_stream_holds_its_place_until_it_is_over():
    provider = MockProvider(default=["a", Wait(5), "b"])
    chain = Chain(provider, RateLimit(concurrency=1))
    second = asyncio.create_task(asyncio.sleep(0))
    async with chain.stream("hi") as reply:
        second = asyncio.create_task(chain.complete("hi"))
        assert [text async for text in reply.texts()] == ["a", "b"]
        assert len(provider.requests) == 1
    await second
    assert len(provider.requests) == 2
    assert status(chain).in_flight == 0


async def test_an_abandoned_stream_gives_its_place_back_and_counts_what_it_used():
    provider = MockProvider(default=["word " * 20, Wait(5), "more"])
    chain = Chain(
        provider, RateLimit(tokens_per_minute=1000, token_burst=1000, concurrency=1, output_tokens=500)
    )
    async with chain.stream("hi") as reply:
        await reply.__anext__()
        await reply.__anext__()
        assert status(chain).limits[0].remaining < 500
    now = status(chain)
    assert now.in_flight == 0
    assert 900 < now.limits[0].remaining < 1000


async def test_a_stream_dropped_without_a_word_is_settled_too():
    provider = MockProvider(default=["a", Wait(5), "b"])
    chain = Chain(provider, RateLimit(concurrency=1))
    with pytest.warns(ResourceWarning):
        reply = await chain(chain.new_call(Request("", "hi", stream=True)))
        del reply
        gc.collect()
    await turns()
    assert status(chain).in_flight == 0


async def test_a_frame_that_is_closed_without_an_outcome_gives_its_place_back():
    limit = RateLimit(concurrency=1)
    chain = Chain(Timed(), limit)
    frame = limit(chain.new_call(Request("", "hi")), partial(chain._terminal, []))
    reply = await anext(frame)
    assert status(chain).in_flight == 1
    await frame.aclose()
    assert status(chain).in_flight == 0
    await reply.full()


async def test_a_reply_whose_usage_nobody_can_tell_gives_its_place_back_too(caplog):
    @layer(priority=990)
    async def strict(call, call_next):
        def change(done):
            raise ValueError("this takes whole replies only")

        return (await call_next(call)).amend(change)

    chain: Any = Chain(
        MockProvider(default=["a", "b"]), RateLimit(concurrency=1, tokens_per_minute=6000), strict
    )
    async with chain.stream("hi") as reply:
        await anext(reply)
    assert status(chain).in_flight == 0
    assert "takes whole replies only" in caplog.text


async def test_retry_after_of_a_place_is_unknown():
    provider = Timed(seconds=10)
    chain = limited(provider, concurrency=1, mode="reject")
    first = asyncio.create_task(chain.complete("hi"))
    await turns()
    assert (await outcome(chain)).retry_after is None
    await first


async def test_who_cannot_wait_for_a_place_as_long_as_calls_take_is_refused_at_once():
    provider = Timed(seconds=10)
    chain = limited(provider, concurrency=1)
    await chain.complete("hi")  # from now on it knows that a call takes ten seconds
    first = asyncio.create_task(chain.complete("hi"))
    await turns()
    began = asyncio.get_running_loop().time()
    assert isinstance(await outcome(chain, timeout=5), LimitReached)
    assert asyncio.get_running_loop().time() == began
    assert not isinstance(await outcome(chain, timeout=60), Exception)
    await first


async def test_who_waits_longer_than_expected_is_refused_in_the_end():
    provider = Timed(seconds=100)
    chain = limited(provider, concurrency=1, max_wait=20)
    first = asyncio.create_task(chain.complete("hi"))
    await turns()
    refused = await outcome(chain)
    assert isinstance(refused, LimitReached)
    assert asyncio.get_running_loop().time() == pytest.approx(20)
    assert status(chain).waiting == 0
    await first


# ---------------------------------------------------------------- tokens


PROMPT = "word " * 16
ASKED = estimate_request(Request("", PROMPT))  # tokens


def left(chain: Chain) -> float:
    return status(chain).limits[0].remaining


async def test_tokens_are_reserved_before_and_settled_after():
    provider = Timed(seconds=1, usage=Usage(30, 20))
    chain = limited(provider, tokens_per_minute=60_000, token_burst=1000, output_tokens=400)
    task = asyncio.create_task(chain.complete("hi"))
    await turns()
    assert 500 < left(chain) < 600  # the input's estimate, and 400 of the output
    await task
    layer = chain.middleware[0]
    gate = next(iter(chain.runtime.states("rate_limit")["rate_limit"].values()))
    assert gate.buckets[0].full_at == pytest.approx(50 / 1000)  # just what was used, at the moment it began
    assert layer.status(chain.runtime)[0].limits[0].remaining == 1000


async def test_a_reply_longer_than_expected_is_paid_by_those_who_come_later():
    provider = Timed(usage=Usage(0, 3000))
    chain = limited(provider, tokens_per_minute=60_000, token_burst=1000, output_tokens=10)
    await chain.complete("hi")
    assert left(chain) == pytest.approx(-2000)
    await chain.complete("hi")
    assert provider.times[1] > 2


async def test_calls_at_the_same_time_do_not_slip_through_together():
    provider = Timed(seconds=1, usage=Usage(50, 50))
    chain = limited(provider, tokens_per_minute=600, token_burst=300, output_tokens=90, mode="reject")
    results = await asyncio.gather(*(outcome(chain) for _ in range(20)))
    assert len(provider.came) == sum(not isinstance(r, Exception) for r in results) == 2


async def test_a_request_larger_than_the_burst_waits_for_a_full_bucket():
    provider = Timed(usage=Usage(2000, 0))
    chain = limited(provider, tokens_per_minute=60_000, token_burst=1000, output_tokens=0)
    await chain.complete("word " * 1200)
    assert provider.times == [0]
    await chain.complete("word " * 1200)
    assert provider.times[1] == pytest.approx(2)  # 1000 of debt, then 1000 to be full


async def test_output_is_estimated_from_what_replies_have_been_and_from_max_tokens():
    provider = Timed(seconds=1, usage=Usage(0, 700))
    chain = limited(provider, tokens_per_minute=60_000_000, token_burst=10_000, output_tokens=256)
    reserved = []
    for options in ({}, {}, {"max_tokens": 50}):
        task = asyncio.create_task(chain.complete("hi", **options))
        await turns()
        reserved.append(10_000 - left(chain))
        await task
        await asyncio.sleep(60)
    first, second, capped = reserved
    assert second - first == pytest.approx(700 - 256)
    assert first - capped == pytest.approx(256 - 50)


@pytest.mark.parametrize(
    ("error", "requests", "tokens"),
    [
        (ConnectFailed("no connection"), 0, 0),
        (InvalidRequest("no"), 1, 0),
        (BadReply("what is this"), 1, ASKED),
        (ServiceUnavailable("who knows", billed="unknown"), 1, ASKED),
        (RuntimeError("a bug"), 1, ASKED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_what_a_failed_call_keeps(error, requests, tokens):
    chain = Chain(
        MockProvider([error]),
        RateLimit(
            requests_per_minute=60, burst=10, tokens_per_minute=600, token_burst=600, output_tokens=100
        ),
    )
    with pytest.raises(type(error)):
        await chain.complete(PROMPT)
    by_request, by_token = (limit.burst - limit.remaining for limit in status(chain).limits)
    assert by_request == pytest.approx(requests)
    assert by_token == pytest.approx(tokens)
    assert status(chain).in_flight == 0


async def test_a_cancelled_call_keeps_the_input_it_sent():
    chain = limited(
        Timed(seconds=9), tokens_per_minute=600, token_burst=600, output_tokens=100, concurrency=1
    )
    task = asyncio.create_task(chain.complete(PROMPT))
    await turns()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert 600 - left(chain) == pytest.approx(ASKED)
    assert status(chain).in_flight == 0


async def test_a_broken_stream_counts_what_had_come():
    provider = MockProvider([["word " * 40, StreamBroken("cut")]])
    chain = Chain(provider, RateLimit(tokens_per_minute=600, token_burst=600, output_tokens=300))
    with pytest.raises(StreamBroken):
        async with chain.stream("hi") as reply:
            await reply.full()
    assert 40 < 600 - left(chain) < 120


@pytest.mark.parametrize("refused", [False, True])
async def test_a_negative_max_tokens_fills_no_bucket_and_empties_none(refused):
    """Without `Validate` in front, one such request would have paid for all others, or stopped them."""
    chain = limited(Timed(refuses=[InvalidRequest("no")] * refused), tokens_per_minute=600, token_burst=100)
    await outcome(chain, max_tokens=-1_000_000)
    remaining = status(chain).limits[0].remaining
    assert remaining == pytest.approx(100 if refused else 80)


@pytest.mark.parametrize(
    "usage", [Usage(-(10**9), -(10**9)), Usage(2**60, 2), Usage(1, 2**60), Usage(float("nan"), 1)]
)
async def test_nonsense_of_a_provider_neither_fills_nor_empties_a_bucket_and_teaches_nothing(usage):
    provider = MockProvider(default="hi", usage=Usage(300, 200))
    chain = limited(provider, tokens_per_day=10_000, token_burst=10_000, output_tokens=100)
    await chain.complete("hi")
    before = status(chain).limits[0].remaining
    asked = estimate_request(Request(messages="hi")) + 200
    provider.usage = usage
    await chain.complete("hi")
    assert status(chain).limits[0].remaining == pytest.approx(before - asked, abs=1)
    provider.usage = Usage(300, 200)
    await chain.complete("hi")
    assert status(chain).limits[0].remaining == pytest.approx(before - asked - 500, abs=1)


async def test_embeddings_teach_nothing_about_how_long_replies_are():
    chain = limited(Timed(), tokens_per_minute=60_000, per="provider", output_tokens=500, token_burst=1000)
    for _ in range(3):
        await chain.embed(["hi"])
    asked = float(estimate_request(Request("", "hi")))
    expected = chain.middleware[0].check(chain.new_call(Request("", "hi")))
    assert expected == 0
    task = asyncio.create_task(chain.complete("hi"))
    held = []
    chain.provider.seconds = 1
    await turns()
    held.append(status(chain).limits[0].remaining)
    await task
    assert held[0] <= 1000 - asked - 490


async def test_embeddings_and_rerankings_count_their_input():
    chain = limited(tokens_per_minute=600, token_burst=600, output_tokens=300)
    await chain.embed(["a few words"])
    assert 600 - left(chain) == pytest.approx(10)
    layer = chain.middleware[0]
    call = chain.new_call(RerankRequest("", "query", ("some document",)))
    gate = next(iter(chain.runtime.states("rate_limit")["rate_limit"].values()))
    assert 0 < layer._amounts(call, gate)[1] < 20
    assert isinstance(chain.new_call(EmbeddingRequest("", "x")).request, EmbeddingRequest)


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("per", "options", "shared"),
    [
        ("global", {"tenant": "a", "model": "x"}, True),
        ("tenant", {"tenant": "a"}, False),
        ("tenant", {"user": "u"}, True),
        ("user", {"user": "u"}, False),
        ("model", {"model": "x"}, False),
        ("provider", {"model": "x"}, True),
        ("target", {"model": "x"}, False),
        (("tenant", "model"), {"model": "x"}, False),
        (("tenant", "model"), {"user": "u"}, True),
    ],
)
async def test_what_is_counted_together(per, options, shared):
    chain = limited(requests_per_minute=60, burst=1, per=per, mode="reject")
    await chain.complete("hi")
    assert isinstance(await outcome(chain, **options), LimitReached) == shared


async def test_a_key_that_nobody_has_used_for_an_hour_is_forgotten():
    chain = limited(requests_per_minute=60, per="tenant")
    layer = chain.middleware[0]
    for number in range(50):
        await chain.complete("hi", tenant=str(number))
    assert len(layer.status(chain.runtime)) == 50
    await asyncio.sleep(3500)
    await chain.complete("hi", tenant="7")
    await asyncio.sleep(200)
    await chain.complete("hi", tenant="new")
    assert {s.key for s in layer.status(chain.runtime)} == {("7",), ("new",)}


async def test_a_key_with_something_taken_is_not_forgotten():
    chain = limited(requests_per_day=10, burst=1, per="tenant", mode="reject")
    await chain.complete("hi", tenant="a")
    await asyncio.sleep(4000)
    await outcome(chain, tenant="b")
    refused = await outcome(chain, tenant="a")
    assert refused.retry_after == pytest.approx(8640 - 4000)


# ---------------------------------------------------------------- time and settings


async def test_jumps_of_the_wall_clock_change_nothing():
    wall = 1e9
    provider = Timed()
    chain = Chain(provider, RateLimit(requests_per_minute=60, burst=1), runtime=Runtime(wall=lambda: wall))
    for jump in (0, 3600, -86400 * 365, 86400 * 365, -7200):
        wall += jump
        await chain.complete("hi")
    assert provider.times == pytest.approx([0, 1, 2, 3, 4])


async def test_a_rebuilt_chain_keeps_what_was_taken_and_counts_in_its_own_way():
    runtime = Runtime()
    old = Chain(Timed(), RateLimit(requests_per_minute=60, burst=10, mode="reject"), runtime=runtime)
    for _ in range(8):
        await old.complete("hi")
    new = Chain(Timed(), RateLimit(requests_per_minute=6, burst=10, mode="reject"), runtime=runtime)
    results = [await outcome(new) for _ in range(3)]
    assert [isinstance(r, LimitReached) for r in results] == [False, False, True]
    assert results[2].retry_after == pytest.approx(10)


async def test_waiters_of_the_old_settings_are_served_under_the_new():
    runtime, provider = Runtime(), Timed()
    old = Chain(provider, RateLimit(requests_per_minute=1, burst=1), runtime=runtime)
    await old.complete("first")
    waiting = asyncio.create_task(old.complete("second"))
    await turns()
    new = Chain(provider, RateLimit(requests_per_minute=60, burst=1), runtime=runtime)
    await asyncio.gather(waiting, new.complete("third"))
    assert provider.texts[1:] == ["second", "third"]
    assert provider.times[1:] == pytest.approx([1, 2])


async def test_reset_gives_everything_back_and_lets_the_queue_go():
    provider = Timed()
    chain = limited(provider, requests_per_hour=1, burst=1, max_wait=float("inf"))
    layer = chain.middleware[0]
    await chain.complete("hi")
    waiting = asyncio.create_task(chain.complete("hi"))
    await turns()
    layer.reset(chain.runtime, ("nobody",))
    await turns()
    assert not waiting.done()
    layer.reset(chain.runtime, layer.status(chain.runtime)[0].key)
    await waiting
    assert asyncio.get_running_loop().time() == 0


async def test_check_tells_the_wait_and_takes_nothing():
    chain = limited(requests_per_minute=60, burst=1)
    layer = chain.middleware[0]
    call = chain.new_call(Request("", "hi"))
    assert layer.check(call) == 0.0
    await chain.complete("hi")
    assert layer.check(call) == layer.check(call) == pytest.approx(1)


async def test_status_tells_limits_queue_and_places():
    chain = limited(Timed(seconds=3), requests_per_minute=60, burst=1, concurrency=5)
    tasks = [asyncio.create_task(chain.complete("hi")) for _ in range(3)]
    await asyncio.sleep(0.5)
    now = status(chain)
    assert now.key == ("mock", "mock", "mock-1")
    assert (now.in_flight, now.waiting, now.paused) == (1, 2, 0)
    assert now.oldest_wait == pytest.approx(0.5)
    (limit,) = now.limits
    assert (limit.name, limit.limit, limit.burst) == ("requests_per_minute", 60, 1)
    assert limit.remaining == pytest.approx(0.5)
    assert limit.reset == pytest.approx(0.5)
    await asyncio.gather(*tasks)


async def test_notes_are_written_only_when_something_happened():
    chain = limited(requests_per_minute=60, burst=1)
    calls = [chain.new_call(Request("", "hi")) for _ in range(3)]
    calls[2] = calls[2].evolve(options={RateLimit: {"mode": "reject"}})
    for call in calls:
        with suppress(LimitReached):
            await (await chain(call)).full()
    assert calls[0].ledger.notes == []
    (waited,) = calls[1].ledger.notes
    assert (waited.kind, waited.detail) == ("rate_limit.wait", {"seconds": pytest.approx(1)})
    (refused,) = calls[2].ledger.notes
    assert refused.kind == "rate_limit.rejected"
    assert refused.detail == {"retry_after": pytest.approx(1), "waited": 0}


async def test_a_joined_call_of_higher_priority_moves_its_flight_forward():
    provider = Timed()
    chain = Chain(provider, Coalesce(), RateLimit(requests_per_minute=60, burst=1))
    await chain.complete("first", temperature=0)
    tasks = await started(*(chain.complete(text, temperature=0) for text in ("a", "b", "c")))
    tasks.append(asyncio.create_task(chain.complete("c", temperature=0, priority=5)))
    await asyncio.gather(*tasks)
    assert provider.texts == ["first", "c", "a", "b"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, None),
        ({"per": "global"}, "no limit is given"),
        ({"requests_per_minute": 0}, "above 0"),
        ({"tokens_per_day": -1}, "above 0"),
        ({"requests_per_minute": float("nan")}, "above 0"),
        ({"concurrency": 0}, "at least 1"),
        ({"requests_per_minute": 1, "burst": 0.5}, "at least 1"),
        ({"requests_per_minute": 1, "max_wait": -1}, "at least 0"),
        ({"requests_per_minute": 1, "mode": "drop"}, "'wait' or 'reject'"),
        ({"requests_per_minute": 1, "per": "team"}, "'team'"),
        ({"requests_per_minute": 1, "aging": 0}, "aging"),
    ],
)
def test_wrong_settings_are_refused_at_construction(settings, says):
    if says is None:
        assert RateLimit(**settings)._learns  # learns everything from the provider
        return
    with pytest.raises(ConfigError, match=says):
        RateLimit(**settings)


def test_it_is_built_from_a_table_of_plain_settings():
    made = build(
        "rate_limit", {"requests_per_minute": 60, "per": ["tenant", "model"], "aging": 30, "concurrency": 4}
    )
    assert made == RateLimit(requests_per_minute=60, per=("tenant", "model"), aging=30, concurrency=4)
    once = build("rate_limit", {"requests_per_second": 10, "burst": 50, "per": "tenant"})
    assert once == RateLimit(requests_per_second=10, burst=50, per=("tenant",))
    with pytest.raises(ConfigError, match="requests_per_minute"):
        build("rate_limit", {"request_per_minute": 60})
    assert evolve(made, mode="reject").mode == "reject"


def test_explain_tells_the_longest_wait():
    chain = limited(requests_per_minute=60, max_wait=30)
    assert "max_wait=30" in str(chain.explain())
    assert RateLimit(requests_per_minute=1, max_wait=30).worst_seconds(5) == 35
    assert RateLimit(requests_per_minute=1, mode="reject").worst_seconds(5) == 5
