"""Single flight: one request for all who ask the same, whoever comes and goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import (
    ConfigError,
    ConnectFailed,
    DeadlineExceeded,
    FirstTokenTimeout,
    LimitReached,
    LLMError,
    Overloaded,
    ReplyClosed,
    StreamBroken,
)
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.redact import Redact
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing import run
from llmpipe.types import Completion, Cost, Message, Request
from tests.middleware.rate_limit.limits import in_turn, turns


def now() -> float:
    return asyncio.get_running_loop().time()


def merged(script=(), default=None, **settings) -> Any:
    return Chain(MockProvider(script, default=default), Coalesce(**settings))


async def ask(chain: Chain, prompt="hi", **options) -> str:
    return (await chain.complete(prompt, **{"temperature": 0, **options})).text


async def read(chain: Chain, prompt="hi", **options) -> str:
    async with chain.stream(prompt, **{"temperature": 0, **options}) as reply:
        return "".join([text async for text in reply.texts()])


async def _slow(call, call_next):
    await asyncio.sleep(1)
    return await call_next(call)


def settled(chain: Any) -> bool:
    """Nothing of any flight is left."""
    return (
        not chain.runtime._tasks
        and not any(chain.runtime.states("coalesce").values())
        and chain.provider.open == 0
    )


async def results(*tasks):
    return await asyncio.gather(*tasks, return_exceptions=True)


# ---------------------------------------------------------------- one for all


async def test_a_hundred_identical_calls_are_one_request():
    chain = merged([[Wait(1), "one", Wait(1), " answer"]])
    how = [ask, read]
    assert set(await asyncio.gather(*(how[n % 2](chain) for n in range(100)))) == {"one answer"}
    assert len(chain.provider.requests) == 1
    await turns()
    assert settled(chain)


async def test_with_a_cache_outside_the_one_reply_fills_it_for_all():
    chain: Any = Chain(MockProvider([[Wait(1), "one"]]), Cache(), Coalesce())
    assert set(await asyncio.gather(*(ask(chain) for _ in range(100)))) == {"one"}
    assert await read(chain) == "one"
    assert len(chain.provider.requests) == 1


async def test_those_who_come_later_ask_anew():
    chain = merged(["one", "two"])
    assert [await ask(chain), await ask(chain)] == ["one", "two"]


async def test_other_requests_and_other_tenants_fly_alone():
    chain = merged(default=[Wait(1), "ok"])
    await asyncio.gather(ask(chain), ask(chain, "other"), ask(chain, tenant="b"), ask(chain, max_tokens=1))
    assert len(chain.provider.requests) == 4


async def test_requests_that_are_meant_to_vary_fly_alone_unless_asked_not_to():
    chain = merged(default=[Wait(1), "ok"])
    await asyncio.gather(*(ask(chain, temperature=None) for _ in range(3)))
    assert len(chain.provider.requests) == 3
    assert chain.runtime.states("coalesce") == {}
    chain = merged(default=[Wait(1), "ok"], when="always")
    await asyncio.gather(*(ask(chain, temperature=None) for _ in range(3)))
    assert len(chain.provider.requests) == 1


async def test_requests_that_change_what_a_server_remembers_fly_alone():
    chain = merged(default=[Wait(1), "ok"])
    await asyncio.gather(*(ask(chain, extra={"previous_response_id": "r"}) for _ in range(3)))
    assert len(chain.provider.requests) == 3


async def test_requests_without_a_key_fly_alone():
    chain = merged(default=[Wait(1), "ok"])
    await asyncio.gather(*(ask(chain, extra={"a": b"bytes"}) for _ in range(2)))
    assert len(chain.provider.requests) == 2


async def test_embeddings_are_one_request_too():
    class Slow(MockProvider):
        async def __call__(self, call):
            await asyncio.sleep(1)
            return await super().__call__(call)

    chain: Any = Chain(Slow(default="ok"), Coalesce())
    vectors = await asyncio.gather(*(chain.embed(["hi"]) for _ in range(5)))
    assert len(chain.provider.requests) == 1
    assert all(v.vectors == vectors[0].vectors for v in vectors)


# ---------------------------------------------------------------- streams


async def test_a_late_joiner_of_a_stream_gets_it_from_its_beginning_and_then_follows():
    chain = merged([["a", Wait(1), "b", Wait(1), "c"]])
    first = asyncio.create_task(read(chain))
    await asyncio.sleep(1.5)
    arrivals = []
    async with chain.stream("hi", temperature=0) as reply:
        async for text in reply.texts():
            arrivals.append((text, now()))
    assert arrivals == [("a", 1.5), ("b", 1.5), ("c", 2)]
    assert await first == "abc"
    assert len(chain.provider.requests) == 1


async def test_a_full_call_that_joins_a_stream_gets_the_whole():
    chain = merged([["a", Wait(1), "b"]])
    assert list(await asyncio.gather(read(chain), ask(chain))) == ["ab", "ab"]
    assert len(chain.provider.requests) == 1


async def test_a_stream_that_joins_a_full_call_gets_it_when_it_is_done():
    chain = merged([[Wait(3), "a", "b"]])
    first = asyncio.create_task(ask(chain))
    await turns()
    assert await read(chain) == "ab"
    assert now() == 3
    assert await first == "ab"


async def test_a_slow_reader_holds_nobody_up():
    chain = merged([["a", Wait(1), "b", Wait(1), "c"]])

    async def slowly():
        got = []
        async with chain.stream("hi", temperature=0) as reply:
            async for text in reply.texts():
                got.append(text)
                await asyncio.sleep(100)
        return "".join(got)

    slow = asyncio.create_task(slowly())
    assert await read(chain) == "abc"
    assert now() == 2
    assert await slow == "abc"


async def test_a_stream_that_breaks_breaks_for_all_who_have_had_its_beginning():
    chain = merged([["a", Wait(1), StreamBroken("cut")], "again"])

    async def collect():
        got = []
        with pytest.raises(StreamBroken) as caught:
            async with chain.stream("hi", temperature=0) as reply:
                async for text in reply.texts():
                    got.append(text)
        assert caught.value.partial.text == "a"
        return got, caught.value

    first, second, full = await in_turn(collect(), collect(), ask(chain))
    assert first[0] == second[0] == ["a"]
    assert first[1] is not second[1]
    assert full == "again"
    await turns()
    assert settled(chain)


SECRETIVE: list[Any] = ["ask ann@example.com or ", Wait(1), StreamBroken("cut")]


@pytest.mark.parametrize("mode", ["log", "wire", "reversible"])
async def test_a_broken_flight_shows_nobody_what_redaction_further_out_hides(mode):
    broken = MockProvider(default=SECRETIVE)
    chain = Chain(broken, Redact(output=True, mode=mode), Coalesce(when="always"))
    errors = await in_turn(read(chain), read(chain), ask(chain))
    assert [type(error) for error in errors] == [StreamBroken] * 3
    for error in errors:
        assert "ann@example.com" not in repr(error.partial)
        assert error.partial.text.startswith("ask")


# ---------------------------------------------------------------- errors


async def test_an_error_goes_to_all_and_is_not_kept():
    chain = merged([[Wait(1), Overloaded("busy", retry_after=3)], "fine"])
    errors = await in_turn(*(ask(chain) for _ in range(3)))
    assert [(type(e), e.retry_after, e.message) for e in errors] == [(Overloaded, 3, "busy")] * 3
    assert len({id(e) for e in errors}) == 3  # each has its own traceback
    assert errors[1].__cause__ is errors[0]
    assert await ask(chain) == "fine"


async def test_an_error_of_any_kind_and_signature_is_shared():
    class Odd(LLMError):
        def __init__(self, number: int) -> None:
            super().__init__(f"odd {number}", status=418)
            self.number = number

    for error in (Odd(3), RuntimeError("bug")):
        chain = merged([[Wait(1), error]])
        first, second = await results(ask(chain), ask(chain))
        assert type(first) is type(second) is type(error)
        assert str(first) == str(second)
        assert vars(second).get("number") == vars(error).get("number")


async def test_retries_of_a_flight_are_those_of_its_leader():
    provider = MockProvider([ConnectFailed("no"), [Wait(1), "ok"]])
    chain = Chain(provider, Coalesce(), Retry(base=1, cap=1))
    calls = [chain.new_call(Request("", "hi", temperature=0)) for _ in range(3)]

    async def go(call):
        return (await (await chain(call)).full()).text

    assert await in_turn(*map(go, calls)) == ["ok"] * 3
    assert [len(call.ledger.attempts) for call in calls] == [2, 0, 0]
    assert [[n.kind for n in call.ledger.notes] for call in calls] == [
        ["retry.wait"],
        ["coalesce.joined"],
        ["coalesce.joined"],
    ]
    assert calls[1].ledger.notes[0].detail == {"leader": calls[0].id}


# ---------------------------------------------------------------- coming and going


@pytest.mark.parametrize("how", [ask, read])
async def test_a_cancelled_leader_stops_nobody_and_leaves_nobody_waiting(how):
    chain = merged([[Wait(1), "a", Wait(2), "b"]])
    leader = asyncio.create_task(how(chain))
    await turns()
    others = [asyncio.create_task(how_(chain)) for how_ in (ask, read, ask)]
    await asyncio.sleep(0.5)
    leader.cancel()
    assert await asyncio.gather(*others) == ["ab"] * 3
    assert leader.cancelled()
    assert len(chain.provider.requests) == 1
    await turns()
    assert settled(chain)


async def test_a_leader_that_leaves_its_stream_half_read_stops_nobody():
    chain = merged([["a", Wait(2), "b"]])
    async with chain.stream("hi", temperature=0) as reply:
        await reply.__anext__()
        follower = asyncio.create_task(read(chain))
        await turns()
    assert await follower == "ab"
    assert len(chain.provider.requests) == 1


@pytest.mark.parametrize("moment", [0.5, 1.5])
async def test_the_last_to_leave_ends_the_request(moment):
    chain = merged([[Wait(1), "a", Wait(100), "b"], "new"])
    tasks = [asyncio.create_task(how(chain)) for how in (read, read, ask)]
    await asyncio.sleep(moment)
    for task in tasks[:2]:
        task.cancel()
    await turns()
    assert not settled(chain)
    tasks[2].cancel()
    await results(*tasks)
    assert settled(chain)
    assert now() == moment
    assert await ask(chain) == "new"


async def test_what_the_last_to_leave_took_is_given_back_before_it_is_gone():
    provider = MockProvider(default=[Wait(1), "a", Wait(100), "b"])
    limit = RateLimit(concurrency=1)
    chain = Chain(provider, Coalesce(), limit)
    task = asyncio.create_task(read(chain))
    await asyncio.sleep(2)
    task.cancel()
    await results(task)
    assert limit.status(chain.runtime)[0].in_flight == 0
    assert provider.open == 0


async def test_who_comes_while_an_empty_flight_is_ending_gets_one_of_its_own():
    ending = asyncio.Event()

    @layer(priority=900)
    async def slow_to_clean_up(call, call_next):
        try:
            return await call_next(call)
        except asyncio.CancelledError:
            ending.set()
            await asyncio.sleep(3)
            raise

    chain: Any = Chain(MockProvider([[Wait(100), "never"], [Wait(10), "new"]]), Coalesce(), slow_to_clean_up)
    first = asyncio.create_task(ask(chain))
    await asyncio.sleep(1)
    first.cancel()
    await ending.wait()
    second = asyncio.create_task(ask(chain))
    await results(first)  # the old flight is down, and takes nothing of the new one's with it
    assert await ask(chain) == await second == "new"
    assert len(chain.provider.requests) == 2
    await turns()
    assert settled(chain)


async def test_each_keeps_its_own_deadline():
    chain = merged([[Wait(10), "ok"]])
    leader, patient, short = await in_turn(
        ask(chain, timeout=2), ask(chain, timeout=50), ask(chain, timeout=3)
    )
    assert isinstance(leader, DeadlineExceeded)
    assert (leader.sent, leader.billed) == (True, "unknown")
    assert patient == "ok"
    assert isinstance(short, DeadlineExceeded)
    assert (short.sent, short.billed) == (False, "no")
    assert len(chain.provider.requests) == 1


async def test_out_of_time_in_a_queue_says_that_nothing_was_sent():
    chain: Any = Chain(MockProvider(default=[Wait(100), "ok"]), Coalesce(), RateLimit(concurrency=1))
    first = asyncio.create_task(ask(chain, "first"))
    await turns()
    (late,) = await in_turn(ask(chain, "second", timeout=5))
    assert isinstance(late, DeadlineExceeded | LimitReached)
    assert (late.sent, late.billed, late.phase) == (False, "no", "admit")
    assert await first == "ok"


async def test_who_has_settings_of_their_own_rides_with_none_but_their_like():
    chain: Any = Chain(MockProvider(default=[Wait(3), "ok"]), Coalesce(), Timeout())
    hasty = {Timeout: {"first": 1}}
    one, two, three, four = await in_turn(
        ask(chain, options=hasty), ask(chain), ask(chain, options=hasty), ask(chain)
    )
    assert isinstance(one, FirstTokenTimeout)
    assert isinstance(three, FirstTokenTimeout)
    assert two == four == "ok"
    assert len(chain.provider.requests) == 2


async def test_a_deadline_ends_a_joined_stream_too():
    chain = merged([["a", Wait(10), "b"]])
    leader = asyncio.create_task(read(chain))
    await turns()
    with pytest.raises(DeadlineExceeded):
        await read(chain, timeout=4)
    assert now() == 4
    assert await leader == "ab"


async def test_an_impatient_leader_does_not_make_the_flight_impatient():
    """A retry refuses a wait beyond the deadline; the flight has none, for its followers have time."""
    provider = MockProvider([Overloaded("busy", retry_after=20), "ok"])
    chain = Chain(provider, Timeout(total=None), Coalesce(), Retry())
    leader, follower = await in_turn(ask(chain, timeout=5), ask(chain, timeout=60))
    assert isinstance(leader, DeadlineExceeded)
    assert follower == "ok"


async def test_a_runtime_that_closes_tells_those_on_board():
    chain = merged([["a", Wait(100), "b"]])
    tasks = [asyncio.create_task(how(chain)) for how in (read, ask)]
    await asyncio.sleep(1)
    await chain.runtime.aclose()
    assert [type(r) for r in await results(*tasks)] == [ReplyClosed, ReplyClosed]
    chain = merged([[Wait(100), "never"]])
    task = asyncio.create_task(ask(chain))
    while not chain.runtime._tasks:
        await asyncio.sleep(0)
    await chain.runtime.aclose()  # in some orders before the flight has had its first step
    assert [type(r) for r in await results(task)] == [ReplyClosed]
    assert settled(chain)


# ---------------------------------------------------------------- who pays, and sharing


@pytest.mark.parametrize("how", [False, True])
async def test_the_leader_pays_and_the_others_do_not(how):
    @layer(priority=500)
    async def price(call, call_next):
        reply = await call_next(call)
        return reply.amend(lambda done: evolve(done, charge=Cost(5, 7), warnings=("w",)))

    chain = Chain(MockProvider([["a", Wait(1), "b"]]), Coalesce(), price)

    async def go():
        reply = await chain(chain.new_call(Request("", "hi", temperature=0, stream=how)))
        async with reply:
            return await reply.full()

    done = await in_turn(go(), go(), go())
    assert [d.charge for d in done] == [Cost(5, 7), Cost(), Cost()]
    assert [d.warnings for d in done] == [("w",)] * 3
    assert [d.text for d in done] == ["ab"] * 3
    assert all(d.usage == done[0].usage for d in done)


async def test_what_one_does_to_its_reply_reaches_no_other():
    told = Completion(message=Message("assistant", "hi"), finish_reason="stop", extra={"list": [1]})

    @layer(priority=900)
    async def slow(call, call_next):
        await asyncio.sleep(1)
        return await call_next(call)

    chain = Chain(MockProvider([told]), Coalesce(), slow)
    first, second, third = await in_turn(*(chain.complete("hi", temperature=0) for _ in range(3)))
    first.extra["list"].append(2)
    assert second.extra == third.extra == {"list": [1]}
    with pytest.raises(TypeError):
        second.extra["list"].append(3)


async def test_what_the_leader_does_to_its_reply_first_reaches_no_other():
    told = Completion(message=Message("assistant", "hi"), finish_reason="stop", extra={"list": [1]})
    chain = Chain(MockProvider([told]), Coalesce(), layer(priority=900)(_slow))

    async def lead():
        (await chain.complete("hi", temperature=0)).extra["list"].append(2)

    async def follow():
        return (await chain.complete("hi", temperature=0)).extra

    assert (await in_turn(lead(), follow()))[1] == {"list": [1]}


async def test_what_is_written_into_one_copy_of_an_error_reaches_no_other():
    chain = merged([[Wait(1), Overloaded("busy", metadata={"a": 1})]])
    first, second, third = await in_turn(*(ask(chain) for _ in range(3)))
    second.metadata["b"] = 2
    assert first.metadata == third.metadata == {"a": 1}


# ---------------------------------------------------------------- chains within chains
# ---------------------------------------------------------------- chains within chains


@pytest.mark.parametrize("how", [ask, read])
async def test_a_chain_in_a_chain_does_not_wait_for_itself(how):
    runtime = Runtime()
    inner: Any = Chain(MockProvider(default=[Wait(1), "ok"]), Coalesce(), runtime=runtime)
    outer = Chain(inner, Coalesce(), runtime=runtime)
    assert set(await asyncio.gather(*(how(outer) for _ in range(5)))) == {"ok"}
    assert len(inner.provider.requests) == 1
    mixed = await asyncio.gather(how(inner), how(outer), how(inner))
    assert set(mixed) == {"ok"}
    assert len(inner.provider.requests) == 2


# ---------------------------------------------------------------- laws


visits = st.lists(
    st.tuples(
        st.floats(0, 6),  # comes at
        st.booleans(),  # as a stream
        st.one_of(st.none(), st.floats(0, 6)),  # is cancelled after
        st.one_of(st.none(), st.floats(0.1, 6)),  # has a deadline
        st.integers(0, 1),  # asks which question
        st.integers(0, 3),  # closes its stream after so many events, if 3: never
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=120)
@given(
    visits,
    st.sampled_from(
        [[Wait(1), "a", Wait(2), "b"], [Wait(1), Overloaded("busy")], ["a", Wait(1), StreamBroken("cut")]]
    ),
    st.one_of(st.none(), st.integers(0, 99)),
)
def test_everybody_gets_the_answer_or_their_own_end_and_nothing_is_left(script, line, seed):
    """Also: there is never more than one request for a question on its way."""

    class Counting(MockProvider):
        here: dict[str, int]

        async def __call__(self, call):
            text = call.request.messages[0].text
            assert self.here.get(text, 0) == 0
            self.here[text] = 1
            try:
                reply = await super().__call__(call)
            except BaseException:
                self.here[text] = 0
                raise
            if not reply.streamed:
                self.here[text] = 0
            return reply

    @layer(priority=990)
    async def over(call, call_next):
        outcome = yield await call_next(call)
        provider.here[call.request.messages[0].text] = 0
        assert outcome is not None

    provider = Counting(default=line)
    provider.here = {}
    good = {"ab"}

    async def main():
        chain = Chain(provider, Coalesce(), over)

        async def visit(at, stream, cancelled, deadline, question, reads):
            await asyncio.sleep(at)

            async def go():
                if not stream:
                    return await ask(chain, f"{question}", timeout=deadline)
                if reads == 3:
                    return await read(chain, f"{question}", timeout=deadline)
                async with chain.stream(f"{question}", temperature=0, timeout=deadline) as reply:
                    for _ in range(reads):
                        await anext(reply)
                return "left"

            task = asyncio.ensure_future(go())
            if cancelled is not None:
                asyncio.get_running_loop().call_later(cancelled, task.cancel)
            try:
                text = await task
                assert text == "left" or (text in good and not any(isinstance(s, Exception) for s in line))
            except asyncio.CancelledError:
                assert cancelled is not None
            except DeadlineExceeded:
                assert deadline is not None
                assert now() == pytest.approx(at + deadline)
            except (Overloaded, StreamBroken):
                assert any(isinstance(step, Exception) for step in line)

        await asyncio.gather(*(visit(*v) for v in script))
        await turns()
        assert settled(chain)

    run(main(), seed=seed)


def test_wrong_settings_are_refused_and_plain_ones_are_built():
    with pytest.raises(ConfigError, match="'deterministic' or 'always'"):
        Coalesce(when="sometimes")
    assert build("coalesce", {"when": "always", "vary": ["lang"]}) == Coalesce(when="always", vary=("lang",))


async def test_who_wants_the_whole_of_a_stream_that_breaks_asks_anew_and_the_others_join():
    chain = merged([["a", Wait(1), StreamBroken("cut")]], default=["whole", Wait(1)])

    async def stream() -> str:
        async with chain.stream("hi", temperature=0) as reply:
            return "".join([text async for text in reply.texts()])

    streamed = asyncio.ensure_future(stream())
    await asyncio.sleep(0.5)
    late = [asyncio.ensure_future(ask(chain)) for _ in range(3)]
    with pytest.raises(StreamBroken):
        await streamed
    assert await asyncio.gather(*late) == ["whole"] * 3
    assert len(chain.provider.requests) == 2


async def test_streams_that_go_on_breaking_are_ridden_a_few_times_only():
    chain = merged(default=["a", Wait(1), StreamBroken("cut")])

    async def streams() -> None:
        while True:
            with pytest.raises(StreamBroken):
                async with chain.stream("hi", temperature=0) as reply:
                    async for _ in reply:
                        pass

    task = asyncio.ensure_future(streams())
    await asyncio.sleep(0.5)
    with pytest.raises(StreamBroken):
        await ask(chain)
    assert now() < 10
    task.cancel()


@pytest.mark.real_time
def test_calls_on_another_loop_do_not_wait_for_one_that_is_not_theirs():
    """Whoever leads there may tell those on board, and would not wake the loop they wait on."""
    chain = Chain(MockProvider([["a", Wait(30), "b"]], default="ok"), Coalesce(when="always"))
    here, there = asyncio.new_event_loop(), asyncio.new_event_loop()
    leader = here.create_task(chain.complete("hi"))
    here.run_until_complete(asyncio.sleep(0.01))  # and stands still from now on
    assert there.run_until_complete(asyncio.wait_for(chain.complete("hi"), 5)).text == "ok"
    leader.cancel()
    here.run_until_complete(asyncio.wait([leader]))
    assert chain.runtime.state("coalesce", "coalesce", dict) == {}
    here.close()
    there.close()
