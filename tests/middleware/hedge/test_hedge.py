"""Hedging: when the second request goes out, who wins, who pays, and when it stays at one."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from llmpipe.errors import (
    BadReply,
    ConfigError,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.hedge import Hedge
from llmpipe.middleware.hedge.lane import Lane, Lanes
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.retry.quota import Quotas
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing.conform import conform
from llmpipe.types import Completion, Message, Request

FAST = [Wait(0.1), "fast"]
PRICES = {"mock-1": {"input": 1.0, "output": 10.0}}


def now() -> float:
    return asyncio.get_running_loop().time()


def hedged(script=(), *middleware, default=None, **settings) -> Any:
    settings.setdefault("delay", 1.0)
    settings.setdefault("max_share", 1.0)
    provider = MockProvider(script, default=default, model="mock-1")
    return Chain(provider, Hedge(**settings), *middleware, runtime=Runtime(seed=1))


async def ask(chain: Chain, prompt="hi", **options) -> str:
    return (await chain.complete(prompt, **options)).text


async def read(chain: Chain, prompt="hi", **options) -> str:
    async with chain.stream(prompt, **options) as reply:
        return "".join([text async for text in reply.texts()])


def watched(chain: Any) -> list:
    """The ledger of each call, in order."""
    ledgers: list = []

    class Watch:
        name, priority = "watch", 100

        async def __call__(self, call, call_next):
            ledgers.append(call.ledger)
            return await call_next(call)

    chain.use(Watch())
    return ledgers


def kinds(ledger) -> list[str]:
    return [note.kind for note in ledger.notes]


# ---------------------------------------------------------------- timing


@pytest.mark.parametrize("how", [ask, read])
async def test_the_second_request_goes_out_after_the_delay_to_the_millisecond(how):
    chain = hedged([[Wait(10), "slow"], FAST])
    assert await how(chain) == "fast"
    assert now() == pytest.approx(1.1)


async def test_the_attempts_say_when_each_began_and_how_it_ended():
    chain = hedged([[Wait(10), "slow"], FAST])
    ledgers = watched(chain)
    assert await ask(chain) == "fast"
    first, second = ledgers[0].attempts
    assert (first.started_at, second.started_at) == (0, pytest.approx(1))
    assert (first.status, second.status) == ("cancelled", "ok")
    assert first.ended_at == second.committed_at == pytest.approx(1.1)
    sent, won = ledgers[0].notes
    assert (sent.kind, sent.at, dict(sent.detail)) == ("hedge.sent", 1, {"after": 1, "error": None})
    assert won.kind == "hedge.won"


async def test_a_call_that_is_quick_enough_is_sent_once_and_says_nothing():
    chain = hedged([[Wait(0.9), "quick"]])
    ledgers = watched(chain)
    assert await ask(chain) == "quick"
    assert len(chain.provider.requests) == 1
    assert ledgers[0].notes == []
    await asyncio.sleep(5)
    assert len(chain.provider.requests) == 1


async def test_the_first_may_still_win():
    chain = hedged([[Wait(1.5), "first"], [Wait(1), "second"]])
    ledgers = watched(chain)
    assert await ask(chain) == "first"
    assert now() == pytest.approx(1.5)
    assert [attempt.status for attempt in ledgers[0].attempts] == ["ok", "cancelled"]
    assert kinds(ledgers[0]) == ["hedge.sent"]


async def test_when_both_have_content_at_once_one_is_taken_and_the_other_closed():
    chain = hedged([[Wait(2), "a", Wait(1), "a"], [Wait(1), "b", Wait(1), "b"]])
    assert await read(chain) in ("aa", "bb")
    assert now() == pytest.approx(3)
    assert chain.provider.open == 0


async def test_the_race_is_to_the_first_content_and_not_to_the_end():
    chain = hedged([[Wait(1.5), "first ", Wait(60), "ends late"], [Wait(1), "second"]])
    assert await read(chain) == "first ends late"
    assert now() == pytest.approx(61.5)


async def test_a_reply_that_has_begun_is_never_hedged():
    chain = hedged([["begun", Wait(60), " ends"]])
    assert await read(chain) == "begun ends"
    assert len(chain.provider.requests) == 1


async def test_time_in_our_own_queue_is_no_slowness_of_the_target():
    limit = RateLimit(concurrency=1, max_wait=100.0)
    chain = hedged((), limit, default=[Wait(0.9), "ok"])
    await asyncio.gather(*(ask(chain) for _ in range(5)))
    assert now() == pytest.approx(4.5)
    assert len(chain.provider.requests) == 5


async def test_after_the_queue_the_delay_counts_from_the_moment_the_request_was_sent():
    limit = RateLimit(concurrency=2, max_wait=100.0)
    chain = hedged([[Wait(0.7), "a"], [Wait(0.7), "b"], [Wait(10), "slow"], FAST], limit)
    ledgers = watched(chain)
    texts = await asyncio.gather(*(ask(chain) for _ in range(3)))
    assert texts == ["a", "b", "fast"]
    first, second = ledgers[2].attempts
    assert first.started_at == pytest.approx(0.7)
    assert second.started_at == pytest.approx(1.7)


# ---------------------------------------------------------------- what is learned


async def test_the_delay_is_the_moving_95th_percentile_of_the_time_to_content():
    waits = [Wait(n / 100) for n in range(1, 201)]
    chain = hedged([[wait, "ok"] for wait in waits] + [[Wait(10), "slow"], FAST], delay=None, window=100)
    for _ in waits:  # 1.01 to 2 seconds are the latest hundred
        assert await read(chain, tags={"idempotent": "no"}) == "ok"
    began = now()
    assert await read(chain) == "fast"
    assert now() - began == pytest.approx(1.95 + 0.1)


async def test_nothing_is_hedged_until_enough_is_known():
    chain = hedged([[Wait(0.1), "ok"]] * 19 + [[Wait(60), "slow"], [Wait(60), "slow"], FAST], delay=None)
    for _ in range(19):
        await ask(chain)
    assert await ask(chain) == "slow"  # 19 are known
    began = now()
    assert await ask(chain) == "fast"
    assert now() - began == pytest.approx(0.1 + 0.1)


async def test_streams_and_whole_replies_are_learned_apart():
    chain = hedged((), default=["a", Wait(1), "b"], delay=None)
    await ask(chain)
    await read(chain)
    assert len(Hedge().stats(chain.runtime).targets) == 2


async def test_a_cancelled_attempt_teaches_that_it_took_longer_than_it_had():
    chain = hedged([[Wait(10), "slow"], FAST])
    await ask(chain)
    (lane,) = chain.runtime.state("hedge", "hedge", Lanes).by_key.values()
    assert sorted(lane._latest) == pytest.approx([0.1, 1.1])


def test_a_lane_keeps_the_latest_and_gives_quantiles_by_nearest_rank():
    lane = Lane()
    assert lane.quantile(0.5) is None
    for n in range(1, 301):
        lane.learn(float(n), 100)
    assert lane.samples == 100
    assert (lane.quantile(0.01), lane.quantile(0.95), lane.quantile(1.0)) == (201, 295, 300)
    for _ in range(2):
        lane.learn(7.0, 3)
    assert sorted(lane._latest) == [7, 7, 300]


def test_lanes_are_bounded_and_the_longest_unused_go_first():
    lanes = Lanes()
    kept = lanes.of(0)
    for n in range(1, 1500):
        lanes.of(n)
        lanes.of(0)
    assert len(lanes.by_key) == 1000
    assert lanes.of(0) is kept


# ---------------------------------------------------------------- failures


async def test_a_failure_of_the_first_sends_the_second_at_once():
    chain = hedged([[Wait(0.5), ServiceUnavailable("no")], FAST])
    ledgers = watched(chain)
    assert await ask(chain) == "fast"
    assert now() == pytest.approx(0.6)
    assert dict(ledgers[0].notes[0].detail) == {"after": 0.5, "error": "SERVICE_UNAVAILABLE"}


async def test_a_failure_while_the_second_is_under_way_waits_for_that():
    chain = hedged([[Wait(1.5), ServiceUnavailable("no")], [Wait(3), "second"]])
    assert await ask(chain) == "second"
    assert now() == pytest.approx(4)
    assert len(chain.provider.requests) == 2


async def test_a_failure_of_the_second_leaves_the_first_alone():
    chain = hedged([[Wait(3), "first"], [Wait(0.1), ServiceUnavailable("no")]])
    assert await ask(chain) == "first"
    assert now() == pytest.approx(3)
    assert len(chain.provider.requests) == 2


async def test_there_is_one_extra_at_most():
    chain = hedged([ServiceUnavailable("one"), ServiceUnavailable("two"), "three"])
    with pytest.raises(ServiceUnavailable, match="one"):
        await ask(chain)
    assert len(chain.provider.requests) == 2


@pytest.mark.parametrize(
    "error", [InvalidRequest("bad"), RateLimited("slow down"), Overloaded("full", retry_after=3)]
)
async def test_an_error_that_says_no_or_wait_is_not_hedged(error):
    chain = hedged([error, "never"])
    with pytest.raises(type(error)):
        await ask(chain)
    assert len(chain.provider.requests) == 1


async def test_a_verdict_on_the_request_ends_the_race_whoever_gets_it():
    chain = hedged([[Wait(60), "slow"], [Wait(0.1), InvalidRequest("bad")]])
    with pytest.raises(InvalidRequest):
        await ask(chain)
    assert now() == pytest.approx(1.1)
    chain = hedged([[Wait(2), InvalidRequest("bad")], [Wait(60), "slow"]])
    began = now()
    with pytest.raises(InvalidRequest):
        await ask(chain)
    assert now() - began == pytest.approx(2)
    assert chain.provider.open == 0


async def test_what_our_own_limits_refuse_the_second_leaves_the_first_alone():
    limit = RateLimit(concurrency=1, mode="reject")
    chain = hedged([[Wait(3), "first"]], limit)
    assert await ask(chain) == "first"


async def test_a_request_that_was_refused_before_it_was_sent_says_nothing_of_the_other():
    chain = hedged([[Wait(3), "first"], InvalidRequest("ours", sent=False)])
    assert await ask(chain) == "first"


async def test_with_another_target_ready_a_failure_is_its_business():
    chain = hedged([ServiceUnavailable("no"), "never"])
    call = chain.new_call(Request(messages="hi")).evolve(spare=True)
    with pytest.raises(ServiceUnavailable):
        await chain(call)
    assert len(chain.provider.requests) == 1


async def test_an_error_that_is_none_of_ours_passes_and_nothing_is_left():
    chain = hedged([[Wait(2), KeyError("bug")], [Wait(60), "slow"]])
    with pytest.raises(KeyError):
        await ask(chain)
    assert now() == pytest.approx(2)
    assert (chain.provider.open, chain.runtime._tasks) == (0, set())


# ---------------------------------------------------------------- when it is off


async def test_after_a_429_nothing_is_hedged_for_a_while():
    chain = hedged([RateLimited("slow down"), *[[Wait(5), "slow"]] * 2, [Wait(5), "slow"], FAST])
    with pytest.raises(RateLimited):
        await ask(chain)
    assert [await ask(chain), await ask(chain)] == ["slow", "slow"]
    assert len(chain.provider.requests) == 3
    assert await ask(chain) == "fast"  # ten seconds later
    assert len(chain.provider.requests) == 5


async def test_a_429_that_another_call_gets_meanwhile_stops_the_second_request():
    chain = hedged([[Wait(5), "slow"], RateLimited("slow down", retry_after=60)])
    slow = asyncio.create_task(ask(chain))
    await asyncio.sleep(0.5)
    with pytest.raises(RateLimited):
        await ask(chain)
    assert await slow == "slow"
    assert len(chain.provider.requests) == 2


async def test_it_is_quiet_for_as_long_as_the_target_asks_for():
    chain = hedged(
        [RateLimited("slow down", retry_after=60), *[[Wait(29), "slow"]] * 2, [Wait(29), "slow"], FAST]
    )
    with pytest.raises(RateLimited):
        await ask(chain)
    await asyncio.sleep(1)
    assert [await ask(chain), await ask(chain)] == ["slow", "slow"]
    assert len(chain.provider.requests) == 3
    await asyncio.sleep(1)
    assert await ask(chain) == "fast"


async def test_while_the_circuit_is_not_closed_nothing_is_hedged():
    breaker = Breaker(consecutive=1, base=1.0)
    chain = hedged([BadReply("garbage"), *[[Wait(5), "slow"]] * 2, *[[Wait(5), "slow"], FAST]], breaker)
    with pytest.raises(LLMError):  # its second attempt is refused, for the circuit is open
        await ask(chain)
    await asyncio.sleep(2)
    assert [await ask(chain), await ask(chain)] == ["slow", "slow"]  # the probes
    assert len(chain.provider.requests) == 3
    assert await ask(chain) == "fast"


@pytest.mark.parametrize(
    ("settings", "options", "twice"),
    [
        ({}, {}, True),
        ({}, {"extra": {"previous_response_id": "r1"}}, False),
        ({}, {"extra": {"previous_response_id": "r1"}, "tags": {"idempotent": "yes"}}, True),
        ({}, {"tags": {"idempotent": "no"}}, False),
        ({"when": "tagged"}, {}, False),
        ({"when": "tagged"}, {"tags": {"idempotent": "yes"}}, True),
    ],
)
async def test_only_what_may_be_sent_twice_is(settings, options, twice):
    chain = hedged([[Wait(5), "slow"], FAST], **settings)
    assert await ask(chain, **options) == ("fast" if twice else "slow")


async def test_a_call_whose_deadline_is_nearer_than_the_delay_is_sent_once():
    chain = hedged([[Wait(5), "ok"]])  # nothing here ends it at its deadline
    assert await ask(chain, timeout=0.9) == "ok"
    assert len(chain.provider.requests) == 1


async def test_a_call_may_change_the_settings_for_itself():
    chain = hedged([[Wait(5), "slow"], FAST])
    assert await ask(chain, options={Hedge: {"delay": 2.0}}) == "fast"
    assert now() == pytest.approx(2.1)


# ---------------------------------------------------------------- money


async def test_the_loser_is_charged_what_it_is_estimated_to_have_cost():
    chain = hedged([[Wait(10), "slow"], FAST], Cost(prices=PRICES))
    done = await chain.complete("a question of some length, to be paid for")
    totals = Cost.totals(chain.runtime)
    (single,) = [
        (
            await Chain(MockProvider(["fast"], model="mock-1"), Cost(prices=PRICES)).complete(
                "a question of some length, to be paid for"
            )
        ).charge
    ]
    assert totals.all.attempts == 2
    assert done.charge.total_nano == totals.all.nano == single.total_nano + single.input_nano
    assert done.charge.estimated
    assert totals.all.estimated_nano > 0


@pytest.mark.parametrize("how", [ask, read])
async def test_whoever_loses_is_in_the_books(how):
    for script in ([[Wait(1.5), "first"], [Wait(60), "second"]], [[Wait(60), "first"], FAST]):
        chain = hedged(script, Cost(prices=PRICES))
        await how(chain)
        assert Cost.totals(chain.runtime).all.attempts == 2


# ---------------------------------------------------------------- amplification


async def test_the_quota_is_the_one_that_retries_pay_from():
    chain = hedged((), Retry(attempts=1), default=lambda _: [Wait(5), "slow"], budget=42, attempts=9)
    for _ in range(5):
        await ask(chain)
    quota = Quotas.of(chain.runtime)[("mock", "mock", "mock-1")]
    assert len(chain.provider.requests) == 5 + 3
    assert quota.spent > 42 - 14
    assert not quota.take(14, 42)


async def test_each_success_at_the_first_try_gives_one_back_to_the_quota():
    chain = hedged([[Wait(5), "slow"], FAST], default="ok")
    await ask(chain)
    quota = Quotas.of(chain.runtime)["mock", "mock", "mock-1"]
    assert quota.spent == 14
    for _ in range(10):
        await ask(chain)
    assert quota.spent == 4
    for _ in range(10):
        await ask(chain)
    assert quota.spent == 0


async def test_an_empty_quota_says_so_and_the_first_goes_on():
    chain = hedged([[Wait(5), "slow"]], budget=10)
    ledgers = watched(chain)
    assert await ask(chain) == "slow"
    assert [dict(note.detail) for note in ledgers[0].notes] == [{"reason": "budget"}]


async def test_the_attempts_of_the_whole_call_are_bounded():
    chain = hedged((), Retry(attempts=3, base=0.001, cap=0.001), default=ServiceUnavailable("no"), attempts=3)
    with pytest.raises(ServiceUnavailable):
        await ask(chain)
    assert len(chain.provider.requests) == 3


@pytest.mark.parametrize("seed", range(3))
async def test_over_any_ten_seconds_requests_are_at_most_a_fifth_more_than_calls(seed):
    """All becomes slow at once: the worst for hedging, for nearly every call passes the old percentile."""
    random = Random(seed)
    begun: list[float] = []

    def answer(_):
        slow = now() > 30
        return [Wait(random.expovariate(1.0) * (5 if slow else 0.2)), "ok"]

    chain = hedged((), Retry(), default=answer, delay=None, max_share=0.1)
    ledgers = watched(chain)
    tasks = []
    while now() < 90:
        begun.append(now())
        tasks.append(asyncio.create_task(ask(chain)))
        await asyncio.sleep(random.expovariate(20))
    await asyncio.gather(*tasks)
    sent = [attempt.started_at for ledger in ledgers for attempt in ledger.attempts]
    assert len(sent) > len(begun) * 1.02  # it does hedge
    for start in range(85):
        calls = sum(start <= at < start + 10 for at in begun)
        requests = sum(start <= at < start + 10 for at in sent)
        assert requests <= 1.2 * calls, start
    assert len(sent) <= 1.1 * len(begun) + 5


async def test_in_an_outage_hedging_stops():
    chain = hedged((), default=ServiceUnavailable("down"), max_share=0.1)
    for _ in range(300):
        with pytest.raises(ServiceUnavailable):
            await ask(chain)
    assert len(chain.provider.requests) <= 300 * 1.1 + 5
    assert Hedge().stats(chain.runtime).hedged == len(chain.provider.requests) - 300


# ---------------------------------------------------------------- cancellation


async def test_cancelled_before_the_second_request_nothing_is_left():
    chain = hedged([[Wait(10), "slow"]])
    task = asyncio.create_task(ask(chain))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(5)
    assert (len(chain.provider.requests), chain.provider.open, chain.runtime._tasks) == (1, 0, set())


@pytest.mark.parametrize(
    "script", [[[Wait(10), "slow"], [Wait(10), "slow"]], [ServiceUnavailable("no"), [Wait(9), "b"]]]
)
async def test_cancelled_while_both_are_under_way_both_end(script):
    chain = hedged(script)
    ledgers = watched(chain)
    task = asyncio.create_task(ask(chain))
    await asyncio.sleep(1.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [attempt.ended_at is not None for attempt in ledgers[0].attempts] == [True, True]
    assert (chain.provider.open, chain.runtime._tasks) == (0, set())


async def test_a_time_limit_that_ends_the_call_is_not_taken_for_the_end_of_the_race():
    chain = hedged([[Wait(10), "slow"], [Wait(10), "slow"]])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await ask(chain)
    assert now() == pytest.approx(2)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


class Within:
    """A middleware inside, made of a function of the attempt's number and of what comes next."""

    name, priority = "within", 750

    def __init__(self, what):
        self.what, self.count = what, 0

    async def __call__(self, call, call_next):
        self.count += 1
        return await self.what(self.count, call, call_next)


async def test_a_caller_who_is_cancelled_at_the_very_moment_the_second_wins_is_cancelled():
    async def cancels(number, call, call_next):
        reply = await call_next(call)
        if number == 2:
            caller.cancel()
        return reply

    chain = hedged([[Wait(10), "slow"], FAST], Within(cancels))
    caller = asyncio.create_task(ask(chain))
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert now() == pytest.approx(1.1)
    assert (chain.provider.open, chain.runtime._tasks) == (0, set())


@pytest.mark.parametrize("answers", [True, False])
async def test_who_turns_our_cancellation_into_something_else_leaves_the_task_uncancelled(answers):
    async def swallows(number, call, call_next):
        try:
            return await call_next(call)
        except asyncio.CancelledError:
            if answers:
                return Reply.of(Completion(message=Message("assistant", "canned")))
            raise ServiceUnavailable("made of a cancellation") from None

    chain = hedged([[Wait(10), "slow"], FAST], Within(swallows))
    assert await ask(chain) == ("canned" if answers else "fast")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_race_that_the_second_wins_leaves_the_task_uncancelled():
    chain = hedged([[Wait(10), "slow"], FAST])
    await ask(chain)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    "settings", [{"delay": 0.5}, {"delay": 1.0}, {"delay": 0.0}, {"delay": 0.001, "max_share": 0.2}]
)
async def test_it_keeps_the_laws_of_the_pipeline_while_it_hedges(settings):
    report = await conform(lambda: Hedge(**{"max_share": 1.0, **settings}))
    assert report.cancellations > 350


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "settings",
    [
        {"quantile": 0}, {"quantile": 1.1}, {"max_share": 0}, {"delay": -1}, {"min_delay": -1}, {"quiet": -1},
        {"min_samples": 0}, {"window": 5}, {"attempts": 0}, {"when": "always"}, {"delay": float("nan")},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Hedge(**settings)


def test_it_is_built_by_name():
    assert build("hedge", {"delay": 2, "when": "tagged"}) == Hedge(delay=2.0, when="tagged")
