"""Time limits: first content, silence, stalling, and the whole call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import (
    ConfigError,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    LLMError,
    RateLimited,
)
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.middleware.timeout.deadlines import Deadlines, Limit
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing import run
from llmpipe.types import Finish, Ping, Request
from tests.middleware.rate_limit.limits import started


def now() -> float:
    return asyncio.get_running_loop().time()


def timed(script, **limits) -> Any:
    return Chain(MockProvider(script), Timeout(**limits))


async def read(chain: Chain, **options) -> list[str]:
    async with chain.stream("hi", **options) as reply:
        return [text async for text in reply.texts()]


# ---------------------------------------------------------------- where it sits


def test_a_chain_takes_two_rings_in_place_of_it():
    chain = timed(["hi"])
    assert [(layer.name, layer.priority) for layer in chain.middleware] == [
        ("timeout.total", 200),
        ("timeout", 1000),
    ]
    chain.use(Retry())  # arranging anew does not double them
    assert [layer.name for layer in chain.middleware] == ["timeout.total", "retry", "timeout"]
    assert [layer.name for layer in chain.without("timeout").middleware] == ["timeout.total", "retry"]
    assert chain.explain().seconds == 600


def test_settings_are_seconds_above_zero_or_none():
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"timeout: idle is seconds above 0, or None"):
            Timeout(idle=wrong)
    assert build("timeout", {"first": 30, "stall": None}) == Timeout(first=30)


async def test_called_by_hand_it_is_both_rings():
    async def slow(call: Call) -> Reply:
        assert call.deadline in (7, 16)
        await asyncio.sleep(100)
        raise AssertionError("not reached")

    call = timed(["hi"]).new_call(Request("", "hi"))
    with pytest.raises(DeadlineExceeded):
        await Timeout(total=7, first=None)(call, slow)
    with pytest.raises(FirstTokenTimeout):
        await Timeout(total=9, first=3)(call, slow)


# ---------------------------------------------------------------- before the first content


async def test_a_full_reply_must_be_there_within_first():
    chain = timed([[Wait(9), "in time"], [Wait(11), "late"]], first=10)
    assert (await chain.complete("hi")).text == "in time"
    with pytest.raises(FirstTokenTimeout) as caught:
        await chain.complete("hi")
    assert now() == pytest.approx(9 + 10)
    error = caught.value
    assert (error.phase, error.billed, error.sent, error.retryable) == ("headers", "unknown", True, True)
    assert (error.provider, error.model) == ("mock", "mock-1")
    assert error.health == "failure"


async def test_a_stream_must_bring_content_within_first_and_may_then_take_its_time():
    chain = timed([["a", Wait(15), "b"], [Wait(11), "late"]], first=10, idle=20)
    assert await read(chain) == ["a", "b"]
    began = now()
    with pytest.raises(FirstTokenTimeout):
        await read(chain)
    assert now() - began == pytest.approx(10)
    assert chain.provider.open == 0


async def test_pings_are_no_content():
    chain = timed([[Wait(6), Ping(), Wait(6), "late"]], first=10)
    with pytest.raises(FirstTokenTimeout):
        await read(chain)


async def test_each_attempt_has_its_own_first():
    provider = MockProvider([[Wait(50), "late"], [Wait(9), "in time"]])
    chain = Chain(provider, Timeout(first=10), Retry(base=1, cap=1))
    call = chain.new_call(Request("", "hi"))
    assert (await (await chain(call)).full()).text == "in time"  # type: ignore[union-attr]  # a completion
    assert len(provider.requests) == 2
    first, second = call.ledger.attempts
    assert (first.status, type(first.error)) == ("error", FirstTokenTimeout)
    assert (second.status, second.error) == ("ok", None)


@pytest.mark.virtual_time(seed=None)  # asyncio's own order: the data comes before the timer
async def test_a_reply_that_is_in_hand_when_the_timer_fires_wins():
    reply = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_at(10, reply.set_result, None)

    class Late(MockProvider):
        async def __call__(self, call):
            await reply
            return await super().__call__(call)

    assert (
        await Chain(Late(["just in time"]), Timeout(first=10, total=10)).complete("hi")
    ).text == "just in time"


# ---------------------------------------------------------------- between contents


async def test_a_silent_stream_is_ended_and_its_connection_given_back():
    chain = timed([["a", Wait(31), "b"]], idle=30)
    with pytest.raises(IdleTimeout) as caught:
        await read(chain)
    assert now() == pytest.approx(30)
    assert caught.value.partial.text == "a"
    assert caught.value.phase == "stream"
    assert chain.provider.open == 0


async def test_a_silence_after_the_last_token_is_a_silence_too():
    chain = timed([["a", "b", Wait(31), Finish("stop")]], idle=30)
    with pytest.raises(IdleTimeout):
        await read(chain)


async def test_pings_reset_idle_and_not_stall():
    script = ["a", *[Wait(20), Ping()] * 5, "b"]
    assert await read(timed([script], idle=30)) == ["a", "b"]
    chain = timed([script], idle=30, stall=50)
    began = now()
    with pytest.raises(IdleTimeout, match="no content"):
        await read(chain)
    assert now() - began == pytest.approx(50)


async def test_pings_for_ever_end_at_total():
    chain = timed([["a", *[Wait(20), Ping()] * 100, "b"]], idle=30, total=300)
    with pytest.raises(DeadlineExceeded) as caught:
        await read(chain)
    assert now() == pytest.approx(300)
    assert caught.value.billed == "unknown"


async def test_a_slow_consumer_is_not_blamed_on_the_provider():
    chain = timed([["a", Wait(1), "b", Wait(1), "c"]], idle=5, stall=6, total=None)
    got = []
    async with chain.stream("hi") as reply:
        async for text in reply.texts():
            got.append(text)
            await asyncio.sleep(100)
    assert got == ["a", "b", "c"]


async def test_what_is_off_ends_nothing():
    chain = timed(
        [["a", Wait(10_000), "b"], [Wait(10_000), "c"]], first=None, idle=None, stall=None, total=None
    )
    assert await read(chain) == ["a", "b"]
    assert await read(chain) == ["c"]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.sampled_from(["text", "ping"])), max_size=12),
    st.floats(0.1, 60),
    st.floats(1, 60),
    st.floats(1, 60),
    st.floats(20, 200),
)
def test_wherever_a_stream_stalls_the_first_limit_to_run_out_ends_it(steps, end, idle, stall, total):
    """Stalls before the first token, between events and before the end, all combinations."""
    idle, stall, total = idle + 2**0.5 / 1000, stall + 3**0.5 / 1000, total + 5**0.5 / 1000  # no two at once
    at, since_event, since_text, due = 0.0, 0.0, 0.0, []
    for pause, what in [(0.0, "text"), *steps, (end, "text")]:
        due += [(since_event + idle, "idle"), (since_text + stall, "stall"), (total, "total")]
        soonest = min(due)
        at += pause
        if soonest[0] < at:
            expected = soonest
            break
        since_event, due = at, []
        if what == "text":
            since_text = at
    else:
        expected = (at, "done")
    script: list[Any] = ["a"]
    for pause, what in steps:
        script += [Wait(pause), "b" if what == "text" else Ping()]
    chain = timed([[*script, Wait(end), Finish("stop")]], idle=idle, stall=stall, total=total, first=None)

    async def main():
        try:
            await read(chain)
        except LLMError as error:
            if isinstance(error, DeadlineExceeded):
                return now(), "total"
            return now(), "stall" if "no content" in error.message else "idle"
        return now(), "done"

    assert run(main()) == (pytest.approx(expected[0]), expected[1])


# ---------------------------------------------------------------- the whole call


async def test_total_bounds_retries_and_their_waits_together():
    provider = MockProvider([[Wait(40), "late"]] * 9)
    chain = Chain(provider, Timeout(first=30, total=100), Retry(attempts=9))
    with pytest.raises((DeadlineExceeded, FirstTokenTimeout)):
        await chain.complete("hi")
    assert now() <= 100.05


async def test_total_bounds_the_reading_of_a_stream():
    chain = timed([["a", Wait(9), "b", Wait(9), "c"]], total=10)
    with pytest.raises(DeadlineExceeded) as caught:
        await read(chain)
    assert now() == pytest.approx(10)
    assert caught.value.partial.text == "ab"
    assert chain.provider.open == 0


async def test_an_earlier_deadline_of_the_call_stands_and_a_later_one_does_not():
    chain = timed([[Wait(50), "late"]] * 2, first=None, total=20)
    for timeout, end in ((5, 5), (100, 20)):
        began = now()
        with pytest.raises(DeadlineExceeded):
            await chain.complete("hi", timeout=timeout)
        assert now() - began == pytest.approx(end)


async def test_a_deadline_of_the_call_is_kept_without_total():
    chain = timed([[Wait(50), "late"], ["a", Wait(50), "b"]], first=None, idle=None, total=None)
    with pytest.raises(DeadlineExceeded):
        await chain.complete("hi", timeout=5)
    with pytest.raises(DeadlineExceeded):
        await read(chain, timeout=5)
    assert now() == pytest.approx(10)


async def test_a_deadline_that_has_passed_sends_nothing():
    chain = timed(["hi"])
    call = chain.new_call(Request("", "hi"))
    await asyncio.sleep(1)
    with pytest.raises(DeadlineExceeded) as caught:
        await chain(call.evolve(deadline=0.5))
    assert chain.provider.requests == []
    assert (caught.value.sent, caught.value.billed) == (False, "no")


async def test_out_of_time_in_the_queue_says_that_nothing_was_sent():
    chain = Chain(
        MockProvider(default=[Wait(50), "ok"]),
        Timeout(total=10, first=None),
        RateLimit(concurrency=1, max_wait=90),
    )
    (first,) = await started(chain.complete("hi", options={Timeout: {"total": 100}}))
    with pytest.raises(DeadlineExceeded) as caught:
        await chain.complete("hi")
    assert (caught.value.sent, caught.value.billed, caught.value.phase) == (False, "no", "admit")
    assert (caught.value.health, caught.value.retryable) == ("ignore", False)
    await first


async def test_out_of_time_in_an_attempt_says_that_it_may_be_billed():
    chain = timed([[Wait(50), "late"]], first=None, total=10)
    with pytest.raises(DeadlineExceeded, match="in attempt 1") as caught:
        await chain.complete("hi")
    assert (caught.value.sent, caught.value.billed, caught.value.attempt) == (True, "unknown", 1)
    assert caught.value.provider == "mock"


async def test_out_of_time_between_attempts_says_what_the_attempts_cost():
    provider = MockProvider([RateLimited("slow down")], default="ok")

    class Patient:
        name, priority = "patient", 650

        async def __call__(self, call, call_next):
            try:
                return await call_next(call)
            except RateLimited:
                await asyncio.sleep(100)
                raise

    chain = Chain(provider, Timeout(total=10), Patient())
    with pytest.raises(DeadlineExceeded, match="after 1 attempts") as caught:
        await chain.complete("hi")
    assert (caught.value.billed, caught.value.attempt) == ("no", 1)


# ---------------------------------------------------------------- per call, connect


async def test_settings_can_be_changed_for_one_call():
    chain = timed([[Wait(5), "late"], [Wait(5), "in time"]], first=4)
    with pytest.raises(FirstTokenTimeout):
        await chain.complete("hi")
    done = await chain.complete("hi", options={Timeout: {"first": 6}})
    assert done.text == "in time"


async def test_connect_is_carried_to_the_provider_if_it_is_not_the_usual():
    seen = []

    class Spy(MockProvider):
        async def __call__(self, call):
            seen.append(call.connect_timeout)
            return await super().__call__(call)

    for connect in (5.0, 2.0, None):
        await Chain(Spy(["hi"]), Timeout(connect=connect)).complete("hi")
    assert seen == [None, 2.0, 86_400.0]


async def test_embeddings_are_bounded_too():
    class Slow(MockProvider):
        async def __call__(self, call):
            await asyncio.sleep(20)
            return await super().__call__(call)

    chain = Chain(Slow(default="ok"), Timeout(first=10))
    with pytest.raises(FirstTokenTimeout):
        await chain.embed(["hi"])


# ---------------------------------------------------------------- many limits, one timer


async def test_limits_of_one_length_share_a_timer():
    loop: Any = asyncio.get_running_loop()
    chain = timed([[Wait(1), "ok"]] * 100, first=10, total=20)
    before = len(loop._scheduled)
    tasks = [asyncio.create_task(chain.complete("hi")) for _ in range(100)]
    await asyncio.sleep(0.5)
    timers = [handle for handle in loop._scheduled if handle.when() >= 10]
    assert len(timers) == 2 + before
    await asyncio.gather(*tasks)


async def test_lengths_that_calls_bring_themselves_are_not_kept():
    chain = timed([], first=10)
    chain.provider.default = "ok"
    for n in range(50):
        await chain.complete("hi", options={Timeout: {"first": 10 + n / 100}})
    assert len(chain.runtime.state("timeout", "deadlines", dict)) <= 1


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.floats(0.1, 20), st.booleans()), max_size=20, unique_by=lambda v: v[0]
    ),
    st.integers(0, 20),
)
def test_a_shared_timer_ends_those_and_only_those_who_are_late(visits, seed):
    async def main():
        deadlines = Deadlines(asyncio.get_running_loop(), 7.0)

        async def visit(at, stays, cancelled):
            await asyncio.sleep(at)
            task = asyncio.current_task()
            if cancelled:
                asyncio.get_running_loop().call_later(3.5, task.cancel)
            try:
                with Limit(deadlines, now() + 7.0, TimeoutError):
                    await asyncio.sleep(stays)
            except TimeoutError:
                assert task.cancelling() == 0
                return "late", now() - at
            except asyncio.CancelledError:
                return "cancelled", now() - at
            return "done", now() - at

        results = await asyncio.gather(*(visit(*v) for v in visits))
        assert deadlines.pending == {}
        return results

    for (_, stays, cancelled), (how, seconds) in zip(visits, run(main(), seed=seed), strict=True):
        if cancelled and stays > 3.5:
            assert (how, seconds) == ("cancelled", pytest.approx(3.5))
        elif stays > 7.0:
            assert (how, seconds) == ("late", pytest.approx(7.0))
        else:
            assert (how, seconds) == ("done", pytest.approx(stays))


async def test_limits_within_limits_each_raise_their_own():
    loop = asyncio.get_running_loop()
    inner, outer = Deadlines(loop, 5.0), Deadlines(loop, 5.0)
    with (
        pytest.raises(ZeroDivisionError),
        Limit(outer, 5.0, ZeroDivisionError),
        Limit(inner, 5.0, TimeoutError),
    ):
        await asyncio.sleep(9)
    assert asyncio.current_task().cancelling() == 0
    with (
        pytest.raises(TimeoutError),
        Limit(outer, 15.0, ZeroDivisionError),
        Limit(inner, 10.0, TimeoutError),
    ):
        await asyncio.sleep(9)


async def test_an_error_of_ones_own_is_not_taken_for_a_timeout():
    loop = asyncio.get_running_loop()
    with pytest.raises(KeyError), Limit(Deadlines(loop, 5.0), 5.0, TimeoutError):
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise KeyError("mine") from None
