"""Retry in a chain."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from llmpipe.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectFailed,
    FirstTokenTimeout,
    LimitReached,
    LLMError,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
    Timeout,
)
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.retry.policy import Policy
from llmpipe.middleware.retry.quota import Quotas
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.types import Request

KEY = ("mock", "mock", "mock-1")


def now() -> float:
    return asyncio.get_running_loop().time()


def chain(*script, default=None, runtime: Runtime | None = None, **settings) -> Chain:
    return Chain(MockProvider(script, default=default), Retry(**settings), runtime=runtime or Runtime(seed=1))


def sent(it: Chain) -> int:
    """How many requests the chain's provider has seen."""
    assert isinstance(it.provider, MockProvider)
    return len(it.provider.requests)


def notes(call, kind: str) -> list[dict]:
    return [dict(note.detail) for note in call.ledger.notes if note.kind == kind]


async def ask(it: Chain, **options):
    """The outcome of one call (a text or an error), and the call."""
    call = it.new_call(Request("", "hi"), **options)
    try:
        reply = await it(call)
        return (await reply.full()).text, call
    except LLMError as error:
        return error, call


async def test_a_call_that_succeeds_at_once_waits_for_nothing_and_leaves_no_note():
    it = chain("hi")
    text, call = await ask(it)
    assert (text, now(), call.ledger.notes) == ("hi", 0.0, [])


async def test_a_failure_that_may_pass_is_retried_until_it_does():
    it = chain(Overloaded("busy"), FirstTokenTimeout("slow"), "hi")
    text, call = await ask(it)
    assert text == "hi"
    assert [attempt.status for attempt in call.ledger.attempts] == ["error", "error", "ok"]
    waited = notes(call, "retry.wait")
    assert [(note["attempt"], note["error"]) for note in waited] == [
        (2, "SERVICE_UNAVAILABLE"),
        (3, "TIMEOUT"),
    ]
    assert now() == pytest.approx(sum(note["seconds"] for note in waited))
    assert waited[0]["seconds"] <= 0.5
    assert waited[1]["seconds"] <= 1.0


async def test_the_last_error_is_raised_when_the_attempts_are_used_up():
    errors = [Overloaded(f"busy {n}") for n in range(5)]
    it = chain(*errors, attempts=4)
    raised, call = await ask(it)
    assert raised is errors[3]
    assert notes(call, "retry.gave_up") == [{"reason": "attempts", "error": "SERVICE_UNAVAILABLE"}]


@pytest.mark.parametrize("error", [AuthenticationFailed("no"), QuotaExceeded("empty"), LimitReached("ours")])
async def test_an_error_that_no_retry_can_help_is_raised_at_once_and_silently(error: LLMError):
    it = chain(error)
    raised, call = await ask(it)
    assert raised is error
    assert (len(call.ledger.attempts), call.ledger.notes, now()) == (1, [], 0.0)
    assert not Retry.stats(it.runtime).targets


async def test_the_server_decides_with_its_own_verdict_on_an_error():
    raised, call = await ask(chain(ServiceUnavailable("x-should-retry: false", retryable=False)))
    assert isinstance(raised, ServiceUnavailable)
    assert len(call.ledger.attempts) == 1


async def test_an_error_nobody_classified_passes_through_unchanged():
    bug = ZeroDivisionError("a bug")
    it = chain(bug)
    with pytest.raises(ZeroDivisionError) as caught:
        await it.complete("hi")
    assert caught.value is bug
    assert sent(it) == 1


async def test_nothing_is_retried_once_content_was_given_out():
    it = chain(["a", StreamBroken("cut")], default="other")
    async with it.stream("hi") as reply:
        with pytest.raises(StreamBroken):
            await reply.full()
    assert sent(it) == 1


async def test_a_stream_that_breaks_before_its_first_content_is_retried():
    it = chain([StreamBroken("cut")], ["a", "b"])
    async with it.stream("hi") as reply:
        assert (await reply.full()).text == "ab"
    assert sent(it) == 2


async def test_embeddings_are_retried_too():
    it = chain(Overloaded("busy"), "ok")
    assert len((await it.embed(["a", "b"])).vectors) == 2
    assert sent(it) == 2


# -- what the server says


@pytest.mark.parametrize("hint", [1.0, 2.0, 34.07, 120.0])
async def test_a_hint_is_waited_for_and_then_a_little_more(hint: float):
    _, call = await ask(chain(RateLimited("slow down", retry_after=hint), "hi"))
    (waited,) = notes(call, "retry.wait")
    assert hint <= waited["seconds"] <= hint + 0.1 * hint + 0.1
    assert now() == waited["seconds"]


async def test_a_hint_on_another_error_counts_as_well():
    await ask(chain(Overloaded("busy", retry_after=5), "hi"))
    assert 5 <= now() <= 5.6


async def test_those_sent_away_together_come_back_apart():
    waits = set()
    for seed in range(50):
        _, call = await ask(chain(RateLimited("x", retry_after=10), "hi", runtime=Runtime(seed=seed)))
        waits.add(notes(call, "retry.wait")[0]["seconds"])
    assert len(waits) == 50


async def test_a_hint_of_nothing_is_no_reason_to_wait_less_than_without_one():
    random = Random(3)
    retry = Retry()
    error = RateLimited("now", retry_after=0)
    waits = [retry.plan(error, 1, 1, random=random).seconds for _ in range(2000)]
    assert max(waits) > 0.95  # the base of a throttled error, not the tenth of a second that is put on a hint
    assert all(0 <= wait <= 1 for wait in waits)


async def test_a_hint_longer_than_allowed_is_not_waited_for():
    error = RateLimited("tomorrow", retry_after=120.1)
    raised, call = await ask(chain(error))
    assert (raised, now()) == (error, 0.0)
    assert notes(call, "retry.gave_up")[0]["reason"] == "hint"


async def test_a_hint_is_all_there_is_to_wait_for_however_often_it_failed():
    retry, random = Retry(attempts=9), Random(3)
    waits = [retry.plan(RateLimited("x", retry_after=1.0), 6, 6, random=random).seconds for _ in range(500)]
    assert max(waits) <= 1.2  # without it the sixth wait would be up to 8 s


@pytest.mark.parametrize("hint", [-5.0, float("nan")])
async def test_a_hint_that_means_nothing_is_ignored(hint: float):
    text, _ = await ask(chain(RateLimited("?", retry_after=hint), "hi"))
    assert text == "hi"
    assert 0 <= now() <= 1.0


async def test_a_throttled_error_is_waited_for_from_a_longer_base():
    retry, random = Retry(jitter=0.0), Random(1)
    assert retry.plan(RateLimited("x"), 1, 1, random=random).seconds == 1.0
    assert retry.plan(Overloaded("x"), 1, 1, random=random).seconds == 0.5


# -- time


async def test_it_gives_up_when_the_deadline_is_nearer_than_the_wait():
    error = RateLimited("slow down", retry_after=10)
    raised, call = await ask(chain(error), timeout=9.0)
    assert (raised, now()) == (error, 0.0)
    assert notes(call, "retry.gave_up")[0]["reason"] == "deadline"


async def test_no_attempt_is_begun_with_less_time_than_one_takes():
    error = Overloaded("busy")
    raised, _ = await ask(chain(error, min_attempt=3.0), timeout=3.0)
    assert raised is error
    text, _ = await ask(chain(Overloaded("busy"), "hi", min_attempt=3.0), timeout=3.6)
    assert text == "hi"


async def test_who_is_cancelled_while_waiting_is_gone_at_once_and_has_paid_nothing():
    it = chain(RateLimited("slow down", retry_after=60), default="hi")
    task = asyncio.create_task(it.complete("hi"))
    await asyncio.sleep(5)
    assert Quotas.of(it.runtime)[KEY].spent == 5
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == 5
    quotas = Quotas.of(it.runtime)
    assert (quotas[KEY].spent, quotas.owing) == (0, set())
    assert Retry.stats(it.runtime).attempts == 0


async def test_who_is_dropped_while_waiting_has_paid_nothing():
    it = chain(Overloaded("down"))
    dropped = it.complete("hi")
    dropped.send(None)  # to its wait
    dropped.close()
    assert Quotas.of(it.runtime)[KEY].spent == 0


async def test_cancellation_is_never_retried():
    it = chain([Wait(10), "late"], default="again")
    task = asyncio.create_task(it.complete("hi"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sent(it) == 1


# -- attempts of the whole call


async def test_attempts_made_elsewhere_in_the_call_count():
    @layer(priority=600, name="route")
    async def twice(call, call_next):
        try:
            return await call_next(call)
        except Overloaded:
            return await call_next(call)

    provider = MockProvider(default=Overloaded("busy"))
    it = Chain(provider, twice, Retry(attempts=3), runtime=Runtime(seed=1))
    with pytest.raises(Overloaded):
        await it.complete("hi")
    # Three at the first target, which uses all up; the second gets its first, and no more.
    assert len(provider.requests) == 4


async def test_failures_that_never_reach_a_provider_count_too():
    tries = 0

    @layer(priority=800, name="full")
    async def full(call, call_next):
        nonlocal tries
        tries += 1
        raise Timeout("in the queue")

    with pytest.raises(Timeout):
        await Chain(MockProvider(), Retry(attempts=3), full).complete("hi")
    assert tries == 3


async def test_attempts_made_elsewhere_and_failures_that_never_reach_a_provider_add_up():
    tries = 0

    @layer(priority=600, name="route")
    async def twice(call, call_next):
        try:
            return await call_next(call)
        except Timeout:
            return await call_next(call)

    @layer(priority=800, name="full")
    async def full_from_the_third_on(call, call_next):
        nonlocal tries
        tries += 1
        if tries > 2:
            raise Timeout("in the queue")
        return await call_next(call)

    down = MockProvider(default=Overloaded("down"))
    it = Chain(down, twice, Retry(attempts=4), full_from_the_third_on, runtime=Runtime(seed=1))
    with pytest.raises(Timeout):
        await it.complete("hi")
    assert (tries, len(down.requests)) == (
        6,
        2,
    )  # four at first; then two, for two reached the provider before


async def test_attempts_that_a_hedge_makes_inside_count():
    @layer(priority=750, name="hedge")
    async def both(call, call_next):
        results = await asyncio.gather(call_next(call), call_next(call), return_exceptions=True)
        raise next(error for error in results if isinstance(error, Exception))

    it = Chain(MockProvider(default=Overloaded("busy")), Retry(attempts=4), both, runtime=Runtime(seed=1))
    with pytest.raises(Overloaded):
        await it.complete("hi")
    assert sent(it) == 4


async def test_one_attempt_means_no_retry():
    raised, call = await ask(chain(Overloaded("busy"), attempts=1))
    assert isinstance(raised, Overloaded)
    assert len(call.ledger.attempts) == 1


async def test_options_of_a_call_change_the_retry_for_it():
    it = chain(Overloaded("busy"), default="hi")
    raised, _ = await ask(it, options={Retry: {"attempts": 1}})
    assert isinstance(raised, Overloaded)


# -- another target


async def test_while_another_target_stands_ready_nobody_waits_for_this_one():
    it = chain(Overloaded("busy"), default="hi")
    call = it.new_call(Request("", "hi")).evolve(spare=True)
    with pytest.raises(Overloaded):
        await it(call)
    assert (sent(it), now()) == (1, 0.0)
    assert notes(call, "retry.gave_up")[0]["reason"] == "spare"


async def test_immediate_tries_once_more_before_leaving_for_another_target():
    it = chain(ConnectFailed("reset"), ConnectFailed("reset"), default="hi", immediate=True)
    call = it.new_call(Request("", "hi")).evolve(spare=True)
    with pytest.raises(ConnectFailed):
        await it(call)
    assert (sent(it), now()) == (2, 0.0)


@pytest.mark.parametrize("error", [RateLimited("slow down"), Overloaded("busy", retry_after=3)])
async def test_immediate_does_not_press_a_target_that_wants_to_be_left_alone(error: LLMError):
    it = chain(error, default="hi", immediate=True)
    with pytest.raises(type(error)):
        await it(it.new_call(Request("", "hi")).evolve(spare=True))
    assert sent(it) == 1


async def test_a_spare_target_that_could_not_answer_this_either_is_no_reason_to_leave():
    it = chain(Overloaded("busy", rescue="none"), "hi")
    reply = await it(it.new_call(Request("", "hi")).evolve(spare=True))
    assert (await reply.full()).text == "hi"


# -- policy


async def test_a_type_of_error_can_be_left_alone():
    it = chain(Timeout("slow"), default="hi", policy={"TIMEOUT": False})
    raised, call = await ask(it)
    assert isinstance(raised, Timeout)
    assert notes(call, "retry.gave_up") == [{"reason": "policy", "error": "TIMEOUT"}]
    text, _ = await ask(chain(Overloaded("busy"), "hi", policy={"TIMEOUT": 0}))
    assert text == "hi"


async def test_a_type_of_error_can_have_more_attempts_and_waits_of_its_own():
    policy = {"RATE_LIMIT": {"attempts": 6, "base": 3, "cap": 3, "strategy": "linear"}}
    it = chain(*[RateLimited("x")] * 5, "hi", policy=policy, jitter=0.0)
    text, call = await ask(it)
    assert text == "hi"
    assert [note["seconds"] for note in notes(call, "retry.wait")] == [3.0] * 5
    raised, call = await ask(chain(default=Overloaded("busy"), policy=policy))
    assert isinstance(raised, Overloaded)
    assert len(call.ledger.attempts) == 4


async def test_a_type_of_error_can_be_retried_against_its_own_verdict():
    it = chain(LLMError("odd"), "hi", policy={"UNKNOWN_ERROR": True})
    text, _ = await ask(it)
    assert text == "hi"


async def test_the_retry_of_the_router_waits_100_ms_to_5_s_doubling_a_quarter_up_and_down():
    retry = Retry(attempts=3, base=0.1, cap=5.0, throttled_base=0.1, multiplier=2.0, jitter=0.25)
    random = Random(5)
    for tries, usual in ((1, 0.1), (2, 0.2), (7, 5.0)):
        waits = [retry.plan(Overloaded("x"), tries, 1, random=random).seconds for _ in range(500)]
        assert min(waits) == pytest.approx(0.75 * usual, rel=0.02)
        assert max(waits) == pytest.approx(1.25 * usual, rel=0.02)


async def test_a_strategy_of_ones_own_is_asked_with_what_was_learned_and_kept_within_the_cap():
    asked = []

    def mine(retry: int, base: float, cap: float, recovery: float) -> float:
        asked.append((retry, base, cap, recovery))
        return 1000.0 if retry == 1 else -5.0

    it = chain(Overloaded("a"), Overloaded("b"), "hi", strategy=mine, jitter=0.0)
    assert (await ask(it))[0] == "hi"
    assert [args[:3] for args in asked] == [(1, 0.5, 8.0), (2, 0.5, 8.0)]
    assert [args[3] for args in asked] == pytest.approx([0.5, 0.4], abs=0.02)  # a retry has failed in between
    assert now() == 8.0
    assert Retry.stats(it.runtime).delay == 8.0  # and not less than nothing the second time


async def test_the_adaptive_strategy_waits_longer_where_retries_do_not_help():
    runtime = Runtime(seed=1)
    settings = {"strategy": "adaptive", "jitter": 0.0, "attempts": 2, "runtime": runtime}
    for _ in range(10):
        await ask(chain(default=Overloaded("busy"), **settings))
    _, call = await ask(chain(Overloaded("busy"), "hi", **settings))
    assert notes(call, "retry.wait")[0]["seconds"] > 1.2  # 0.5 s while nothing is known, 2 s at the most


async def test_what_may_have_taken_effect_is_not_repeated_where_that_is_asked_for():
    raised, call = await ask(chain(FirstTokenTimeout("sent"), default="twice", only_unsent=True))
    assert isinstance(raised, FirstTokenTimeout)
    assert notes(call, "retry.gave_up")[0]["reason"] == "sent"
    for safe in (ConnectFailed("never sent"), RateLimited("refused"), Overloaded("refused")):
        text, _ = await ask(chain(safe, "once", only_unsent=True))
        assert text == "once"


# -- quota


async def test_an_empty_quota_fails_calls_with_their_own_error_at_once():
    it = chain(default=Overloaded("busy"), budget=28)
    raised, call = await ask(it)
    assert isinstance(raised, Overloaded)
    assert len(call.ledger.attempts) == 3
    assert notes(call, "retry.gave_up")[0]["reason"] == "budget"
    before = now()
    _, call = await ask(it)
    assert (len(call.ledger.attempts), now()) == (1, before)


async def test_a_success_after_a_retry_gives_back_its_cost_and_one_at_the_first_try_gives_one():
    it = chain(Overloaded("a"), Overloaded("b"), default="hi")
    await ask(it)
    quota = Quotas.of(it.runtime)[KEY]
    assert quota.spent == 14  # two taken, the last one given back
    for left in range(13, -1, -1):
        await ask(it)
        assert quota.spent == left
    await ask(it)
    assert quota.spent == 0


async def test_a_throttled_retry_costs_less():
    it = chain(RateLimited("x"), Overloaded("y"))
    with pytest.raises(LookupError):  # the script is over
        await ask(it)
    assert Quotas.of(it.runtime)[KEY].spent == 5 + 14


async def test_a_budget_of_nothing_is_no_limit():
    it = chain(default=Overloaded("busy"), budget=0, attempts=100)
    _, call = await ask(it)
    assert len(call.ledger.attempts) == 100


async def test_a_chain_made_anew_on_the_same_runtime_keeps_the_quota():
    runtime = Runtime(seed=1)
    await ask(chain(default=Overloaded("busy"), runtime=runtime))
    assert Retry.stats(runtime).spent == 42
    await ask(chain(default=Overloaded("busy"), runtime=runtime))
    assert Retry.stats(runtime).spent == 84


async def test_the_figures_say_what_was_retried_and_waited():
    it = chain(Overloaded("a"), Overloaded("b"), "hi", Overloaded("c"), "hi", default="hi")
    _, first = await ask(it)
    _, second = await ask(it)
    await ask(it)
    stats = Retry.stats(it.runtime)
    assert (stats.attempts, stats.successful, stats.failed) == (3, 2, 1)
    assert stats.delay == pytest.approx(
        sum(note["seconds"] for call in (first, second) for note in notes(call, "retry.wait"))
    )
    assert stats.targets.keys() == {KEY}


# -- settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attempts": 0}, "attempts must be at least 1"),
        ({"base": 0}, "base and cap"),
        ({"base": 9}, "base and cap"),
        ({"cap": float("inf")}, "base and cap"),
        ({"jitter": 1.5}, "jitter"),
        ({"budget": -1}, "negative"),
        ({"throttled_base": 0}, "throttled_base"),
        ({"strategy": "expo"}, "no retry strategy is called 'expo'"),
        ({"multiplier": 0.5}, "multiplier"),
        ({"policy": {"RATE_LIMITS": 3}}, "did you mean 'RATE_LIMIT'"),
        ({"policy": {"TIMEOUT": {"tries": 3}}}, "a table of attempts"),
        ({"policy": {"TIMEOUT": "never"}}, "none of these"),
        ({"policy": {"TIMEOUT": {"strategy": "fib"}}}, "no retry strategy is called 'fib'"),
        ({"policy": {"TIMEOUT": {"cap": 0.1}}}, "policy for TIMEOUT"),
    ],
)
def test_settings_out_of_range_are_refused_with_what_would_be_right(settings, says: str):
    with pytest.raises(ConfigError, match=says):
        Retry(**settings)


def test_a_policy_may_name_an_exception_class_and_be_given_ready_made():
    retry = Retry(policy={"OSError": 2, "TIMEOUT": Policy(attempts=2)})
    assert retry.policy == {"OSError": Policy(attempts=2), "TIMEOUT": Policy(attempts=2)}


def test_the_worst_case_is_known():
    assert Retry().worst_attempts(1) == 4
    assert Retry(policy={"RATE_LIMIT": 9}).worst_attempts(1) == 9
    assert Retry(attempts=2, max_hint=10).worst_seconds(30) == pytest.approx(2 * 30 + 11.1)
