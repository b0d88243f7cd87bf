"""Commit: how much of a stream is there before it is handed on, and what a failure until then looks like."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import (
    BadReply,
    CircuitOpen,
    ConfigError,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    LLMError,
    Overloaded,
    StreamBroken,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.commit import Commit
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.redact import Redact
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing.conform import conform
from llmpipe.testing.loop import run
from llmpipe.types import (
    EmbeddingRequest,
    Embeddings,
    Event,
    Extra,
    Finish,
    Ping,
    ReasoningDelta,
    Request,
    Start,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
)
from tests.pipeline.kit import Ends

WHOLE = Commit(policy="whole")
HOLDS = {
    "whole": WHOLE,
    "events": Commit(events=3),
    "seconds": Commit(seconds=10.0),
    "chars": Commit(chars=10),
}


def now() -> float:
    return asyncio.get_running_loop().time()


def streaming(chain: Chain) -> Call:
    return chain.new_call(Request(messages="hi", stream=True))


async def read(chain: Chain) -> list[Event]:
    async with chain.stream("hi") as reply:
        return [event async for event in reply]


def text(events: list[Event]) -> str:
    return "".join([event.text for event in events if isinstance(event, TextDelta)])


def kinds(call: Call) -> list[str]:
    return [note.kind for note in call.ledger.notes]


# ------------------------------------------------------------ when it is handed on


@pytest.mark.parametrize(
    ("commit", "at"),
    [
        (Commit(), 1),
        (Commit(events=1), 1),
        (Commit(events=2), 3),
        (Commit(events=3), 7),
        (Commit(chars=2), 3),
        (Commit(chars=4), 3),
        (Commit(chars=5), 7),
        (Commit(seconds=1.0), 3),
        (Commit(seconds=2.0), 3),
        (Commit(seconds=2.5), 7),
        (Commit(events=9, seconds=2.5, chars=100), 7),
        (Commit(events=100), 7),
        (WHOLE, 9),
    ],
)
async def test_a_stream_is_handed_on_when_the_first_bound_is_reached(commit: Commit, at: float):
    line: Any = [Wait(1), "a", Wait(2), "bcd", Wait(4), "e", Finish("stop"), Wait(2)]
    reply = await (chain := Chain(MockProvider([line]), commit))(streaming(chain))
    assert now() == at
    assert text([event async for event in reply]) == "abcde"
    assert now() == 9


async def test_a_full_reply_and_embeddings_pass():
    provider = MockProvider(["hello"])
    for commit in HOLDS.values():
        chain = Chain(MockProvider(["hello"]), commit)
        assert (await chain.complete("hi")).text == "hello"
    assert isinstance(await Chain(provider, WHOLE).embed("rain"), Embeddings)
    assert isinstance(provider.requests[0], EmbeddingRequest)


async def test_without_a_bound_it_is_not_there():
    provider = MockProvider([["a", Wait(5), "b"]])
    chain = Chain(provider, Commit())
    async with chain.stream("hi") as reply:
        assert now() == 0
        assert await reply.full() is not None
    assert Commit().traits == frozenset()
    assert chain.explain().buffers == ()


async def test_one_call_can_have_a_policy_of_its_own():
    chain = Chain(MockProvider(default=["a", Wait(5), "b"]), Commit())
    async with chain.stream("hi", options={Commit: {"policy": "whole"}}):
        assert now() == 5
    async with chain.stream("hi"):
        assert now() == 5


async def test_pings_end_no_hold_and_old_ones_are_not_given_out():
    line: Any = ["a", Ping(), Wait(1), Ping(), Ping(), "b", Wait(1), Ping(), "c", Wait(1), "d"]
    chain = Chain(MockProvider([line]), Commit(events=3))
    reply = await chain(streaming(chain))
    assert now() == 2
    assert [type(event) for event in [event async for event in reply]].count(Ping) == 0


async def test_the_clock_alone_does_not_commit_a_stream_that_has_fallen_silent():
    chain = Chain(
        MockProvider([["a", Wait(50), "b"], "whole"]),
        Commit(seconds=1.0),
        Timeout(idle=5.0),
        Retry(base=0.001),
    )
    assert text(await read(chain)) == "whole"


# ------------------------------------------------------------ nothing is lost

PIECES = st.one_of(
    st.builds(TextDelta, st.text(max_size=3), st.integers(0, 2)),
    st.builds(ReasoningDelta, st.text(max_size=3), signature=st.none() | st.text(max_size=3)),
    st.builds(ToolDelta, st.integers(0, 1), arguments=st.text(max_size=3)),
    st.just(UsageUpdate(Usage(1, 1))),
    st.just(Extra({"a": 1})),
)
COMMITS = st.one_of(
    st.just(WHOLE),
    st.builds(
        Commit,
        events=st.none() | st.integers(1, 6),
        chars=st.none() | st.integers(1, 6),
        seconds=st.none() | st.floats(0.5, 5),
        max_bytes=st.integers(1, 1000),
    ),
)


@given(st.lists(st.tuples(st.sampled_from([0, 1]), PIECES), max_size=8), COMMITS)
def test_the_events_are_those_of_the_provider_in_their_order(line: Any, commit: Commit):
    steps = [part for wait, event in line for part in (Wait(wait), event)]

    async def through(*layers: Any) -> tuple[list[Event], Any]:
        chain = Chain(MockProvider([steps]), *layers)
        async with chain.stream("hi") as reply:
            return [event async for event in reply], reply.completion

    assert run(through(commit)) == run(through())


async def test_what_the_outcome_and_the_completion_know_is_what_came():
    ends = Ends()
    done: list[Any] = []
    for layers in ((), (WHOLE,), (Commit(events=2),)):
        provider = MockProvider([["a", "b", "c"]], usage=Usage(5, 4))
        chain = Chain(provider, ends.yielder("outer", 100), *layers, ends.yielder("inner", 2000))
        async with chain.stream("hi") as reply:
            done.append(await reply.full())
        assert provider.open == 0
    assert done[0] == done[1] == done[2]
    assert ends.names == ["inner", "outer"] * 3
    assert all(outcome.usage == Usage(5, 4) for _, outcome in ends)
    assert all(outcome.completion == done[0] for _, outcome in ends)


async def test_a_stream_larger_than_may_be_held_is_handed_on_early_and_noted():
    line: Any = [part for _ in range(100) for part in ("x" * 1000, Wait(1))]
    chain = Chain(MockProvider([line]), Commit(policy="whole", max_bytes=20_000))
    reply = await chain(call := streaming(chain))
    assert 10 < now() < 20
    (note,) = call.ledger.notes
    assert (note.kind, note.detail["events"]) == ("commit.early", now() + 2)  # and the start
    assert len(text([event async for event in reply])) == 100_000


@pytest.mark.parametrize(
    "event",
    [ReasoningDelta(encrypted="x" * 5000), Extra({"a": "x" * 5000}), ToolDelta(arguments="x" * 5000)],
    ids=lambda event: type(event).__name__,
)
async def test_all_that_is_large_is_counted(event: Event):
    chain = Chain(MockProvider([["a", event, Wait(5), "b"]]), Commit(policy="whole", max_bytes=4000))
    await (await chain(call := streaming(chain))).full()
    assert kinds(call) == ["commit.early"]


# ------------------------------------------------------------ what breaks while it is held

BROKEN: dict[str, Any] = {
    "dies": (StreamBroken("cut"),),
    "bad line": (BadReply("not JSON"),),
    "says it is full": (Overloaded("full"),),
    "stalls": (Wait(1000),),
}


def first_bad(how: str) -> MockProvider:
    return MockProvider(
        [["one ", Wait(1), "two ", *BROKEN[how], "never"]], default=["good ", Wait(1), "answer"]
    )


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("hold", HOLDS)
async def test_a_failure_while_it_is_held_is_replaced_by_a_retry_unseen(hold: str, how: str):
    provider = first_bad(how)
    chain = Chain(provider, Retry(), HOLDS[hold], Timeout(idle=5.0))
    async with chain.stream("hi") as reply:
        events = [event async for event in reply]
    assert text(events) == "good answer"
    assert [type(event) for event in events].count(Start) == 1
    assert sum(type(event) is Finish for event in events) == 1
    assert len(provider.requests) == 2
    assert provider.open == 0


@pytest.mark.parametrize("how", BROKEN)
async def test_a_failure_while_it_is_held_is_replaced_by_another_target_unseen(how: str):
    spare = MockProvider(["from the spare"], name="spare")
    chain = Chain(first_bad(how), Fallback(spare), Retry(attempts=1), WHOLE, Timeout(idle=5.0))
    call = streaming(chain)
    assert (await (await chain(call)).full()).text == "from the spare"
    assert kinds(call) == ["commit.broken", "retry.gave_up", "fallback.switched"]
    broken = call.ledger.attempts[0]
    assert broken.status == "error"
    assert broken.committed_at == 0  # the provider's own first content
    assert broken.outcome.completion.text == "one two "
    assert broken.usage.source == "estimated"
    assert [attempt.status for attempt in call.ledger.attempts] == ["error", "ok"]


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("hold", HOLDS)
async def test_where_nobody_replaces_it_it_is_one_typed_error_and_nothing_was_given_out(hold: str, how: str):
    chain = Chain(first_bad(how), HOLDS[hold], Timeout(idle=5.0))
    call = streaming(chain)
    with pytest.raises(LLMError) as caught:
        await chain(call)
    assert isinstance(caught.value, IdleTimeout if how == "stalls" else type(BROKEN[how][0]))
    assert caught.value.partial is None
    (note,) = call.ledger.notes
    assert (note.kind, note.detail["error"]) == ("commit.broken", caught.value.type)
    assert note.detail["events"] == 3


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("commit", [Commit(), Commit(events=2), Commit(chars=6)], ids=str)
@pytest.mark.parametrize("retry", [True, False])
async def test_after_that_it_is_one_typed_error_with_what_was_given_out(
    commit: Commit, how: str, retry: bool
):
    provider = MockProvider([["one ", "two ", Wait(1), *BROKEN[how], "never"]], default="another")
    ends = Ends()
    layers = (commit, Timeout(idle=5.0), ends.yielder("outer", 100), *((Retry(),) if retry else ()))
    chain = Chain(provider, *layers)
    call = streaming(chain)
    seen: list[Event] = []
    reply = await chain(call)
    with pytest.raises(LLMError) as caught:
        async for event in reply:
            seen.append(event)
    assert isinstance(caught.value, IdleTimeout if how == "stalls" else type(BROKEN[how][0]))
    assert caught.value.partial.text == text(seen) == "one two "
    assert caught.value.partial.finish_reason is None
    assert not any(type(event) is Finish for event in seen)
    assert len(provider.requests) == 1
    assert call.ledger.attempts[0].status == "error"
    assert ends.statuses == ["error"]


async def test_an_answer_that_takes_twenty_seconds_to_begin_is_judged_by_the_attempts_own_timer():
    for stream in (True, False):
        for commit in (Commit(), *HOLDS.values()):
            late: Any = [Wait(20), "late"]
            patient = Chain(MockProvider([late]), commit, Timeout(first=30.0))
            hasty = Chain(MockProvider([late], default="in time"), Retry(), commit, Timeout(first=10.0))
            hopeless = Chain(MockProvider(default=late), commit, Timeout(first=10.0))
            for chain, said in ((patient, "late"), (hasty, "in time")):
                call = chain.new_call(Request(messages="hi", stream=stream))
                assert (await (await chain(call)).full()).text == said
            with pytest.raises(FirstTokenTimeout):
                await hopeless(hopeless.new_call(Request(messages="hi", stream=stream)))


async def test_a_long_answer_is_not_late_for_being_held():
    line: Any = [part for word in ("a", "long", "tale", "indeed") for part in (word, Wait(30))]
    chain = Chain(MockProvider([line]), WHOLE, Timeout(first=60.0, idle=40.0, total=None))
    assert text(await read(chain)) == "alongtaleindeed"
    assert now() == 120


async def test_the_deadline_holds_while_it_is_held():
    slowly: Any = [Wait(5), "b"] * 50
    provider = MockProvider([["a", Wait(1), *slowly]])
    chain = Chain(provider, WHOLE, Timeout(total=20.0), Retry())
    call = streaming(chain)
    with pytest.raises(DeadlineExceeded):
        await chain(call)
    assert now() == 20
    assert provider.open == 0
    assert [attempt.status for attempt in call.ledger.attempts] == ["cancelled"]


async def test_pings_only_are_a_standstill_while_it_is_held():
    pings: Any = [Wait(2), Ping()] * 50
    chain = Chain(MockProvider([["a", *pings]], default="good"), Retry(), WHOLE, Timeout(stall=9.0))
    assert text(await read(chain)) == "good"


async def test_an_error_nobody_has_heard_of_goes_on_as_it_is():
    error = ZeroDivisionError("new")
    chain = Chain(MockProvider([["a", error]]), WHOLE)
    with pytest.raises(ZeroDivisionError) as caught:
        await chain(call := streaming(chain))
    assert caught.value is error
    assert call.ledger.notes[0].detail["error"] == "ZeroDivisionError"


async def test_no_text_passes_redaction_in_an_error():
    provider = MockProvider([["my key is sk-abcdefghijklmnopqrstuvwx ", StreamBroken("cut")]])
    chain = Chain(provider, Redact(output=True), WHOLE)
    with pytest.raises(StreamBroken) as caught:
        await chain(streaming(chain))
    assert caught.value.partial is None


async def test_cancelled_while_it_is_held_the_source_is_closed():
    provider = MockProvider([["a", Wait(50), "b"]])
    chain = Chain(provider, WHOLE)
    task = asyncio.create_task(chain(call := streaming(chain)))
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert provider.open == 0
    assert call.ledger.attempts[0].status == "cancelled"
    assert not call.ledger.notes


# ------------------------------------------------------------ what the others are told


async def test_the_breaker_counts_what_breaks_while_it_is_held():
    runtime = Runtime()
    breaker = Breaker(consecutive=1)
    chain = Chain(MockProvider(default=["a", StreamBroken("cut")]), WHOLE, breaker, runtime=runtime)
    with pytest.raises(StreamBroken):
        await chain(streaming(chain))
    with pytest.raises(CircuitOpen):
        await chain(streaming(chain))


async def test_room_under_the_limits_is_given_back_when_the_provider_is_done():
    limit = RateLimit(concurrency=1)
    runtime = Runtime()
    chain = Chain(MockProvider(default=["a", Wait(5), "b"]), WHOLE, limit, runtime=runtime)
    reply = await chain(streaming(chain))
    (status,) = limit.status(runtime)
    assert (now(), status.in_flight) == (5, 0)
    assert (await reply.full()).text == "ab"


async def test_abandoned_after_the_hold_the_attempt_was_a_success_and_the_call_was_not():
    ends = Ends()
    chain = Chain(MockProvider([["a", "b"]]), ends.yielder("outer", 100), WHOLE, ends.yielder("inner", 2000))
    async with await chain(call := streaming(chain)) as reply:
        await anext(reply)
    assert list(zip(ends.names, ends.statuses, strict=True)) == [("inner", "ok"), ("outer", "abandoned")]
    assert call.ledger.attempts[0].status == "ok"


async def test_who_stands_outside_is_told_when_the_caller_got_it():
    ends = Ends()
    chain = Chain(
        MockProvider([[Wait(2), "a", Wait(5), "b", Wait(1), "c"]]),
        ends.yielder("outer", 100),
        Commit(events=2),
        ends.yielder("inner", 2000),
    )
    await (await chain(call := streaming(chain))).full()
    inner, outer = (outcome for _, outcome in ends)
    assert (inner.committed_at, outer.committed_at) == (2, 7)
    assert call.ledger.attempts[0].committed_at == 2


# ------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"policy": "half"}, "'first_token' or 'whole'"),
        ({"events": 0}, "events must be above 0"),
        ({"seconds": 0.0}, "seconds must be above 0"),
        ({"seconds": inf}, "seconds must be above 0"),
        ({"chars": -1}, "chars must be above 0"),
        ({"max_bytes": 0}, "max_bytes must be above 0"),
        ({"events": "many"}, "events must be a number, or None"),
        ({"policy": "whole", "events": 3}, "must be None"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: Any, match: str):
    with pytest.raises(ConfigError, match=match):
        Commit(**settings)


@pytest.mark.parametrize(
    ("layers", "codes"),
    [
        ((Retry(), WHOLE, Timeout()), []),
        ((Retry(), Commit(policy="whole", priority=650)), ["commit-outside-retry"]),
        ((Retry(), Commit(priority=650)), []),  # which holds nothing
        ((Fallback(MockProvider()), Commit(events=3, priority=500)), ["commit-outside-fallback"]),
        ((Commit(events=3, priority=1010), Timeout()), ["commit-inside-timeout"]),
    ],
)
def test_a_dangerous_place_is_named(layers: Any, codes: list[str]):
    assert [finding.code for finding in Chain(MockProvider(), *layers).lint()] == codes


def test_explain_says_that_it_holds_a_stream_back():
    told = Chain(MockProvider(), WHOLE, Timeout(total=90.0)).explain()
    assert told.buffers == ("commit",)
    assert told.seconds == 90
    assert Chain(MockProvider(), WHOLE).explain().seconds == inf


LAWFUL = {
    **HOLDS,
    "one event": Commit(events=1),
    "early": Commit(policy="whole", max_bytes=300),
}


@pytest.mark.parametrize("name", LAWFUL)
async def test_it_keeps_the_laws(name: str):
    report = await conform(LAWFUL[name])
    assert report.cancellations > 350
