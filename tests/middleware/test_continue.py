"""Continue: a stream that broke goes on where it stopped, or ends in its own error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import (
    BadReply,
    ConfigError,
    ContentFiltered,
    DeadlineExceeded,
    IdleTimeout,
    InvalidRequest,
    LLMError,
    Overloaded,
    ReplyClosed,
    StreamBroken,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.commit import Commit
from llmpipe.middleware.continue_ import Continue
from llmpipe.middleware.continue_.seam import Given, Seam
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.redact import Redact
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.provider import Capabilities
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing.conform import conform
from llmpipe.types import (
    Completion,
    Event,
    Extra,
    Finish,
    Message,
    Opaque,
    Reasoning,
    ReasoningDelta,
    ReasoningOptions,
    RefusalDelta,
    Request,
    ResponseFormat,
    Start,
    Text,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
    fold,
)
from tests.pipeline.kit import Ends


class Able(MockProvider):
    """A mock that goes on from the beginning of an answer."""

    capabilities = Capabilities(prefill=True)


def cut() -> StreamBroken:
    """A new one each time: a call writes into its error whose it is."""
    return StreamBroken("cut")


def now() -> float:
    return asyncio.get_running_loop().time()


def streaming(chain: Chain, **fields: Any) -> Call:
    return chain.new_call(Request(messages="hi", stream=True, **fields))


def text(events: list[Event]) -> str:
    return "".join([event.text for event in events if isinstance(event, TextDelta)])


def notes(call: Call, kind: str) -> list[Any]:
    return [note.detail for note in call.ledger.notes if note.kind == kind]


async def read(chain: Chain, call: Call) -> tuple[list[Event], Any]:
    """The events of `call`, and what they amount to or the error they end in."""
    events: list[Event] = []
    async with await chain(call) as reply:
        try:
            async for event in reply:
                events.append(event)
        except LLMError as error:
            return events, error
        return events, reply.completion


class Choosy(Able):
    """One of whose models some go on, as Claude's do."""

    def capabilities_of(self, model: str) -> Capabilities:
        return Capabilities(prefill=model in ("", "old"))


# ------------------------------------------------------------ it goes on


async def test_another_target_goes_on_and_it_is_one_reply():
    first = MockProvider([["Once upon", Wait(1), " a ti", cut()]], name="first", model="f-1")
    other = Able([["me, ", "there was."]], name="other", model="o-1", usage=Usage(12, 4))
    ends = Ends()
    chain = Chain(first, ends.yielder("outer", 100), Continue(other), Retry(), ends.yielder("inner", 900))
    call = streaming(chain, temperature=0.5)
    events, done = await read(chain, call)

    assert text(events) == done.text == "Once upon a time, there was."
    assert [type(event) for event in events].count(Start) == 1
    assert [type(event) for event in events].count(Finish) == 1
    assert done.message.parts == (Text("Once upon a time, there was."),)
    assert done.finish_reason == "stop"
    (asked,) = other.requests
    assert asked.messages == (Message("user", "hi"), Message("assistant", "Once upon a ti"))
    assert (asked.model, asked.temperature, asked.stream) == ("o-1", 0.5, True)

    assert ends.names == ["inner", "inner", "outer"]
    assert ends.statuses == ["error", "ok", "ok"]
    broken, rest = call.ledger.attempts
    assert (broken.status, rest.status) == ("error", "ok")
    assert isinstance(broken.error, StreamBroken)
    assert first.open == other.open == 0


async def test_the_reply_says_so():
    other = Able([[" world"]], name="other", model="o-1")
    chain = Chain(MockProvider([["Hello", cut()]], name="first"), Continue(other))
    call = streaming(chain)
    _, done = await read(chain, call)
    told = {"from": "first/mock-1", "to": "other/o-1", "error": "NETWORK_ERROR", "chars": 5}
    assert notes(call, "stream.continued") == [told]
    assert done.extra["continued"] == [told]
    (warning,) = done.warnings
    assert all(word in warning for word in ("first/mock-1", "other/o-1", "5 characters"))


async def test_a_stream_that_does_not_break_is_as_it_was():
    line: Any = ["a", Wait(1), ReasoningDelta("b"), UsageUpdate(Usage(1, 2)), "c"]
    for layers in ((), (Continue(Able()),)):
        chain = Chain(MockProvider([line]), *layers)
        call = streaming(chain)
        events, done = await read(chain, call)
        if not layers:
            usual = events, done
    assert (events, done) == usual
    assert not call.ledger.notes


async def test_a_full_reply_passes_and_one_on_a_streamed_wire_goes_on():
    other = Able([["lo"]])
    chain = Chain(MockProvider(["whole", ["Hel", cut()]]), Continue(other))
    assert (await chain.complete("hi")).text == "whole"
    async with chain.stream("hi") as reply:
        done = await reply.full()
    assert isinstance(done, Completion)
    assert done.text == "Hello"


async def test_without_targets_the_same_one_goes_on_if_it_can():
    able = Able([["Hel", cut()], ["lo"]])
    chain = Chain(able, Continue())
    assert (await read(chain, streaming(chain)))[1].text == "Hello"
    assert able.requests[1].messages[-1] == Message("assistant", "Hel")

    chain = Chain(MockProvider([["Hel", cut()]]), Continue())
    call = streaming(chain)
    assert isinstance((await read(chain, call))[1], StreamBroken)
    assert notes(call, "stream.not_continued") == [{"reason": "prefill", "error": "NETWORK_ERROR"}]


async def test_the_usage_is_that_of_both():
    first = MockProvider([[UsageUpdate(Usage(10, 1)), "Hello there", cut()]])
    other = Able([[" world"]], usage=Usage(14, 2))
    chain = Chain(first, Continue(other))
    call = streaming(chain)
    events, done = await read(chain, call)
    spent = call.ledger.attempts[0].usage
    assert spent is not None
    assert (spent.input_tokens, spent.source) == (10, "estimated")
    assert done.usage == spent + Usage(14, 2)
    assert fold(events).usage == done.usage


async def test_usage_that_the_second_stream_does_not_tell_is_estimated():
    class Silent(Able):
        async def __call__(self, call: Call) -> Any:
            reply = await super().__call__(call)

            class Mute:
                def feed(self, event):
                    return () if isinstance(event, UsageUpdate) else (event,)

                def flush(self):
                    return ()

            return reply.pipe(Mute())

    chain = Chain(
        MockProvider([[UsageUpdate(Usage(10, 1)), "Hello there", cut()]]), Continue(Silent([[" world"]]))
    )
    call = streaming(chain)
    _, done = await read(chain, call)
    broken, rest = call.ledger.attempts
    assert done.usage.source == "estimated"
    assert done.usage.input_tokens == broken.usage.input_tokens + rest.usage.input_tokens
    assert done.usage.output_tokens == broken.usage.output_tokens + rest.usage.output_tokens


async def test_the_cost_is_that_of_both_each_at_its_own_price():
    prices = {"f-1": {"input": 1, "output": 1}, "o-1": {"input": 1000, "output": 1000}}
    first = MockProvider([["Hello there", cut()]], name="first", model="f-1")
    other = Able([[" world"]], name="other", model="o-1", usage=Usage(10, 5))
    chain = Chain(first, Cost(prices=prices), Continue(other))
    call = streaming(chain)
    _, done = await read(chain, call)
    broken, rest = call.ledger.attempts
    assert rest.charge.total_nano == 15_000_000
    assert None not in (broken.charge, rest.charge)
    assert done.charge.total_nano == broken.charge.total_nano + rest.charge.total_nano


async def test_room_for_the_answer_shrinks_by_what_was_said():
    other = Able([["."]])
    said = "word " * 40
    chain = Chain(MockProvider([[said, cut()]]), Continue(other))
    await read(chain, streaming(chain, max_tokens=100))
    limit = other.requests[0].max_tokens
    assert limit is not None
    assert 1 <= limit <= 70


async def test_the_callers_own_beginning_of_the_answer_is_kept():
    other = Able([["o"]])
    chain = Chain(MockProvider([["ll", cut()]]), Continue(other))
    call = chain.new_call(Request(messages=[Message("user", "hi"), Message("assistant", "He")], stream=True))
    _, done = await read(chain, call)
    assert done.text == "llo"
    assert other.requests[0].messages[-1].text == "Hell"
    assert len(other.requests[0].messages) == 2


async def test_as_often_as_it_may_and_no_oftener():
    able = Able([["a", cut()], ["b", cut()], ["c", cut()], ["d"]])
    chain = Chain(able, Continue(attempts=2))
    call = streaming(chain)
    events, error = await read(chain, call)
    assert isinstance(error, StreamBroken)
    assert text(events) == error.partial.text == "abc"
    assert error.attempt == 3
    assert len(able.requests) == 3
    assert able.requests[2].messages[-1].text == "ab"
    assert notes(call, "stream.not_continued")[0]["reason"] == "attempts"
    assert [type(event) for event in events].count(Finish) == 0


async def test_a_chain_that_goes_on_with_itself_comes_to_an_end():
    able = Able(default=["a", cut()])
    chain = Chain(able)
    chain.use(Continue(chain, attempts=3))
    _, error = await read(chain, streaming(chain))
    assert isinstance(error, StreamBroken)
    assert len(able.requests) == 4
    await chain.aclose()


async def test_one_call_can_be_without_it():
    other = Able()
    chain = Chain(MockProvider([["a", cut()]]), Continue(other))
    with pytest.raises(StreamBroken):
        async with chain.stream("hi", options={Continue: {"attempts": 0}}) as reply:
            await reply.full()
    assert not other.requests


# ------------------------------------------------------------ who goes on


async def test_targets_are_asked_in_order_and_the_one_that_broke_last():
    broke = Able([["a", cut()], "never"], name="broke")
    down = Able([Overloaded("full")], name="down", model="d-1")
    good = Able([["b"]], name="good")
    chain = Chain(broke, Continue(broke, down, good))
    call = streaming(chain)
    assert (await read(chain, call))[1].text == "ab"
    assert [attempt.provider for attempt in call.ledger.attempts] == ["broke", "down", "good"]
    assert len(broke.requests) == 1


async def test_where_all_fail_it_is_the_first_error_that_says_what_they_said():
    chain = Chain(
        MockProvider([["a", cut()]]),
        Continue(Able([Overloaded("full")], name="x"), Able([InvalidRequest("no prefill")], name="y")),
    )
    call = streaming(chain)
    _, error = await read(chain, call)
    assert isinstance(error, StreamBroken)
    assert error.partial.text == "a"
    assert [entry["target"] for entry in error.metadata["continue"]] == ["x/mock-1", "y/mock-1"]
    assert error.metadata["continue"][1]["type"] == "INVALID_REQUEST"
    assert notes(call, "stream.not_continued")[0]["reason"] == "failed"


async def test_only_models_that_can_are_asked():
    old, new = Able([["b"]], name="old", model="claude-haiku-4-5"), Able(name="new", model="claude-opus-4-6")
    chain = Chain(MockProvider([["a", cut()]]), Continue(new, old, models="claude-*-4-5"))
    assert (await read(chain, streaming(chain)))[1].text == "ab"
    assert not new.requests


async def test_whoever_goes_on_has_its_own_retries_limits_and_breaker():
    other = Able([Overloaded("full"), ["b"]], name="other")
    limit = RateLimit(concurrency=1)
    chain = Chain(
        MockProvider([["a", cut()]]), Continue(other), Retry(base=0.001), limit, Breaker(consecutive=1)
    )
    call = streaming(chain)
    _, error = await read(chain, call)
    assert [attempt.provider for attempt in call.ledger.attempts] == ["mock", "other"]
    assert error.metadata["continue"][0]["type"] == "CIRCUIT_OPEN"  # one failure was enough for its own
    assert all(status.in_flight == 0 for status in limit.status(chain.runtime))


async def test_a_chain_goes_on_with_its_own_policy():
    able = Able([Overloaded("full"), ["b"]])
    chain = Chain(MockProvider([["a", cut()]]), Continue(Chain(able, Retry(base=0.001))))
    assert (await read(chain, streaming(chain)))[1].text == "ab"


async def test_no_alternative_of_a_fallback_is_asked_to_go_on():
    """It need not be able to, and would begin anew in the middle."""
    spare = MockProvider(default="a new answer", name="spare")
    down = Able([Overloaded("full")], name="down")
    chain = Chain(MockProvider([["a", cut()]]), Fallback(spare), Continue(down), Retry(attempts=1))
    events, error = await read(chain, streaming(chain))
    assert isinstance(error, StreamBroken)
    assert text(events) == "a"
    assert not spare.requests
    assert chain.lint() == []
    wrong = Chain(MockProvider(), Fallback(spare), Continue(down, priority=500))
    assert [finding.code for finding in wrong.lint()] == ["continue-outside-fallback"]
    assert wrong.lint()[0].level == "error"


async def test_the_answer_of_a_fallback_goes_on_as_well():
    spare = Able([["a", cut()], ["b"]], name="spare", model="s-1")
    chain = Chain(MockProvider([Overloaded("full")]), Fallback(spare), Continue())
    call = streaming(chain)
    assert (await read(chain, call))[1].text == "ab"
    assert [attempt.provider for attempt in call.ledger.attempts] == ["mock", "spare", "spare"]


async def test_what_can_be_replaced_unseen_is_not_continued():
    provider = Able([["a", cut()], ["a", "b", "c", "d", cut()], ["e"]])
    chain = Chain(provider, Continue(), Retry(base=0.001), Commit(events=3))
    call = streaming(chain)
    assert (await read(chain, call))[1].text == "abcde"
    assert [note.kind for note in call.ledger.notes] == ["commit.broken", "retry.wait", "stream.continued"]
    assert [f.code for f in Chain(provider, Continue(), Commit(events=3, priority=610)).lint()] == [
        "commit-outside-continue"
    ]


# ------------------------------------------------------------ what is never taken up

NEVER: dict[str, tuple[Any, ...]] = {
    "tool_call": ("Let me look. ", ToolDelta(0, "call-1", "search", '{"q": "ra'), cut()),
    "refusal": (RefusalDelta("I will not"), cut()),
    "content": ("See ", Extra(part=Opaque("x", {"a": 1})), cut()),
    "finished": ("all", Finish("stop"), cut()),
    "error": ("bad words", ContentFiltered("filtered")),
}


@pytest.mark.parametrize("reason", NEVER)
async def test_what_cannot_go_on_ends_in_its_own_error(reason: str):
    other = Able(default="never")
    chain = Chain(MockProvider([list(NEVER[reason])]), Continue(other))
    call = streaming(chain)
    events, error = await read(chain, call)
    assert isinstance(error, type(NEVER[reason][-1]))
    assert error.partial == fold(events)
    assert not other.requests
    assert notes(call, "stream.not_continued") == [{"reason": reason, "error": error.type}]


@pytest.mark.parametrize("kind", ["json", "json_schema"])
async def test_json_is_not_taken_up_for_its_grammar_would_begin_anew(kind: Any):
    other = Able(default="never")
    chain = Chain(MockProvider([['{"a": ', cut()]]), Continue(other))
    call = streaming(chain, response_format=ResponseFormat(kind, schema={"type": "object"}))
    assert isinstance((await read(chain, call))[1], StreamBroken)
    assert notes(call, "stream.not_continued")[0]["reason"] == "format"
    assert not other.requests


async def test_with_too_little_time_left_nobody_is_asked():
    other = Able(default="never")
    chain = Chain(MockProvider([["a", Wait(9.7), cut()]]), Continue(other), Timeout(total=10.0))
    call = streaming(chain)
    assert isinstance((await read(chain, call))[1], StreamBroken)
    assert notes(call, "stream.not_continued")[0]["reason"] == "deadline"
    assert not other.requests


async def test_an_error_nobody_has_heard_of_goes_on_as_it_is():
    error = ZeroDivisionError("new")
    other = Able(default="never")
    chain = Chain(MockProvider([["a", error]]), Continue(other))
    with pytest.raises(ZeroDivisionError) as caught:
        await (await chain(streaming(chain))).full()
    assert caught.value is error
    assert not other.requests


@pytest.mark.parametrize(
    "how",
    [(cut(),), (BadReply("not JSON"),), (Overloaded("full"),), (Wait(1000),)],
    ids=["dies", "bad", "full", "stalls"],
)
async def test_whatever_breaks_it_in_the_middle_it_goes_on(how: Any):
    chain = Chain(MockProvider([["a", *how]]), Continue(Able([["b"]])), Timeout(idle=5.0))
    events, done = await read(chain, streaming(chain))
    assert text(events) == done.text == "ab"


# ------------------------------------------------------------ reasoning


async def test_reasoning_is_not_asked_for_again_once_the_answer_has_begun():
    first = MockProvider([[ReasoningDelta("hm", 0, signature="s"), TextDelta("Hel", 1), cut()]])
    other = Able([[ReasoningDelta("again?"), TextDelta("lo", 1), TextDelta("!", 2)]])
    chain = Chain(first, Continue(other))
    _, done = await read(chain, streaming(chain, reasoning=ReasoningOptions(enabled=True, max_tokens=1000)))
    assert done.message.parts == (Reasoning("hm", "s"), Text("Hello"), Text("!"))
    assert other.requests[0].reasoning is None
    assert other.requests[0].messages[-1] == Message("assistant", "Hel")


async def test_where_no_text_had_begun_the_request_is_asked_anew_and_of_anybody():
    provider = MockProvider([[ReasoningDelta("hm"), cut()], [ReasoningDelta("ah", signature="s"), "Hello"]])
    chain = Chain(provider, Continue())
    asked = ReasoningOptions(enabled=True)
    call = streaming(chain, reasoning=asked, response_format=ResponseFormat("json"))
    _, done = await read(chain, call)
    assert done.message.parts == (Reasoning("hm"), Reasoning("ah", "s"), Text("Hello"))
    assert provider.requests[1] == provider.requests[0]
    assert notes(call, "stream.continued")[0]["chars"] == 0


# ------------------------------------------------------------ the seam


@pytest.mark.parametrize(
    ("said", "rest", "whole"),
    [
        ("Hello ", ["world"], "Hello world"),
        ("Hello ", [" world"], "Hello world"),
        ("Hello\n", ["\n", "\nworld"], "Hello\n\nworld"),
        ("Hello \n\n", [" ", "\n", "\n", "world"], "Hello \n\nworld"),
        ("Hello\n\n", ["\n", "world"], "Hello\n\nworld"),
        ("Hello", [" world"], "Hello world"),
        (" \n", [" \n", "Hello"], " \nHello"),
    ],
)
async def test_white_space_at_the_seam_is_given_once(said: str, rest: list[str], whole: str):
    other = Able([rest])
    chain = Chain(MockProvider([[said, cut()]]), Continue(other))
    events, done = await read(chain, streaming(chain))
    assert text(events) == done.text == whole
    sent = other.requests[0].messages
    assert sent[-1] == (Message("assistant", said.rstrip()) if said.strip() else Message("user", "hi"))


async def test_white_space_left_out_at_one_seam_is_not_counted_as_said_at_the_next():
    able = Able([["a ", cut()], [" b ", cut()], [" c"]])
    chain = Chain(able, Continue(attempts=2))
    assert (await read(chain, streaming(chain)))[1].text == "a b c"
    assert able.requests[2].messages[-1].text == "a b"


@given(st.text(max_size=30), st.integers(0, 30), st.lists(st.integers(1, 4), max_size=30))
def test_a_model_that_goes_on_exactly_gives_the_whole_text(whole: str, at: int, sizes: list[int]):
    """Wherever it was cut, and however the rest is cut, if the model says what follows what it was shown."""
    said = whole[:at]
    rest, pieces = whole[len(said.rstrip()) :], []
    for size in sizes:
        pieces.append(TextDelta(rest[:size]))
        rest = rest[size:]
    given_out = Given(said, 0)
    joined = Seam(given_out, Usage()).join([*pieces, TextDelta(rest)])
    assert said + "".join(event.text for event in joined if isinstance(event, TextDelta)) == whole


async def test_words_of_another_dialect_do_not_come_through():
    first = MockProvider([[Start("1", dialect="one"), TextDelta("a", 3, {"w": 1}), cut()]])
    extra = {"logprobs": 2}
    line: Any = [Start("2", dialect="two"), TextDelta("b", 0, extra), Extra(extra), Finish("stop", extra)]
    for other, foreign in (("two", True), ("one", False)):
        line[0] = Start("2", dialect=other)
        chain = Chain(
            MockProvider([[Start("1", dialect="one"), TextDelta("a", 3), cut()]]), Continue(Able([line]))
        )
        _, done = await read(chain, streaming(chain))
        assert ("logprobs" in done.extra) is not foreign
        assert ("logprobs" in done.message.parts[0].extra) is not foreign
        assert (done.id, done.message.dialect, len(done.message.parts)) == ("1", "one", 1)
    assert first.name == "mock"


async def test_a_whole_reply_may_go_on_with_a_stream():
    class Whole(Able):
        async def __call__(self, call: Call) -> Any:
            return await super().__call__(call.evolve(request=Request(messages=call.request.messages)))

    chain = Chain(MockProvider([["a", cut()]]), Continue(Whole(["b"])))
    _, done = await read(chain, streaming(chain))
    assert done.text == "ab"
    assert done.usage is not None


async def test_what_is_hidden_from_providers_stays_hidden_and_the_caller_gets_it():
    said: list[str] = []

    def line(request: Any) -> Any:
        said.append(request.messages[0].text.split()[-1])
        return ["Your address is ", said[-1][:4], cut()]

    def rest(request: Any) -> Any:
        assert request.messages[-1].text == "Your address is " + said[0][:4]
        return [said[0][4:], "."]

    chain = Chain(MockProvider([line]), Redact(), Continue(other := Able([rest])))
    async with chain.stream("I am jane.doe@example.com") as reply:
        done = await reply.full()
    assert isinstance(done, Completion)
    assert done.text == "Your address is jane.doe@example.com."
    assert "jane" not in str(other.requests)


# ------------------------------------------------------------ its end


async def test_stopping_at_the_finish_the_usage_is_that_of_both():
    ends = Ends()
    other = Able([["b", Finish("stop"), UsageUpdate(Usage(100, 7))]])
    chain = Chain(MockProvider([["a", cut()]]), ends.yielder("outer", 100), Continue(other))
    async with await chain(streaming(chain)) as reply:
        async for event in reply:
            if isinstance(event, Finish):
                break
    ((_, outcome),) = ends
    assert outcome.ok
    assert outcome.usage.input_tokens > 100
    assert other.open == 0


@pytest.mark.parametrize("moment", [3, 8, 13], ids=["first", "asking", "second"])
async def test_cancelled_at_any_time_nothing_is_left_open(moment: float):
    first, other = Able([["a", Wait(5), cut()]]), Able([[Wait(5), "b", Wait(5), "c"]], name="other")
    ends = Ends()
    chain = Chain(first, ends.yielder("outer", 100), Continue(other))
    call = streaming(chain)
    task = asyncio.create_task(read(chain, call))
    await asyncio.sleep(moment)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert first.open == other.open == 0
    assert ends.statuses == ["cancelled"]
    assert call.ledger.attempts[-1].status == "cancelled"


@pytest.mark.parametrize("moment", [3, 8, 13], ids=["first", "asking", "second"])
async def test_closed_by_another_task_at_any_time_the_reader_is_told(moment: float):
    first, other = Able([["a", Wait(5), cut()]]), Able([[Wait(5), "b", Wait(5), "c"]], name="other")
    ends = Ends()
    chain = Chain(first, ends.yielder("outer", 100), Continue(other))
    reply = await chain(streaming(chain))
    task = asyncio.create_task(reply.full())
    await asyncio.sleep(moment)
    await reply.aclose()
    with pytest.raises(ReplyClosed) as caught:
        await task
    assert caught.value.partial.text == ("ab" if moment == 13 else "a")
    assert first.open == other.open == 0
    assert ends.statuses == ["abandoned"]


@pytest.mark.parametrize("total", [3.0, 8.0, 13.0], ids=["first", "asking", "second"])
async def test_the_deadline_holds_at_any_time(total: float):
    first, other = Able([["a", Wait(5), cut()]]), Able([[Wait(5), "b", Wait(5), "c"]], name="other")
    chain = Chain(first, Continue(other), Timeout(total=total))
    _, error = await read(chain, streaming(chain))
    assert isinstance(error, DeadlineExceeded)
    assert now() == total
    assert error.partial.text == ("ab" if total == 13 else "a")
    assert first.open == other.open == 0


async def test_a_target_that_falls_silent_is_judged_by_its_own_timers():
    other = Able([["b", Wait(1000)]], name="other")
    chain = Chain(Able([["a", cut()]]), Continue(other), Timeout(idle=5.0))
    _, error = await read(chain, streaming(chain))
    assert isinstance(error, IdleTimeout)
    assert (error.partial.text, error.provider, now()) == ("ab", "other", 5)


async def test_it_keeps_the_laws():
    def spare() -> Able:
        return Able(default=[Wait(1), "The spare ", Wait(1), "answers."], name="spare")

    await conform(lambda: Continue(spare()))


# ------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Continue(MockProvider(name="dumb")), "'dumb' cannot go on"),
        (lambda: Continue(Chain(MockProvider(name="dumb"))), "'dumb' cannot go on"),
        (lambda: Continue("claude"), "target 1 is a str"),
        (lambda: Continue(one := Able(), one), "given twice"),
        (lambda: Continue(attempts=-1), "at least 0"),
        (lambda: Continue(attempts="many"), "must be a number"),
        (lambda: Continue(min_attempt=-1.0), "not below 0"),
    ],
)
def test_a_setting_that_is_wrong_is_refused(make: Any, match: str):
    with pytest.raises(ConfigError, match=match):
        make()


async def test_it_closes_its_targets():
    closed: list[str] = []

    class Closing(Able):
        async def aclose(self) -> None:
            closed.append(self.name)

    async with Chain(MockProvider(), Continue(Closing(name="a"), Closing(name="b"))):
        pass
    assert sorted(closed) == ["a", "b"]


def test_explain_counts_what_it_may_ask():
    chain = Chain(
        MockProvider(), Continue(Able(), Able(name="b"), attempts=2), Timeout(first=10.0, total=None)
    )
    assert (chain.explain().attempts, chain.explain().seconds) == (5, 50)


# ------------------------------------------------------------ by the model


async def test_a_model_that_is_known_to_refuse_is_not_asked():
    broken = MockProvider([["Once", cut()]], name="first", model="f")
    chain = Chain(broken, Continue(Choosy([["never"]], name="other", model="")))
    call = streaming(chain, model="new")
    _, error = await read(chain, call)
    assert isinstance(error, StreamBroken)
    assert notes(call, "stream.not_continued") == [{"reason": "prefill", "error": error.type}]


async def test_a_target_goes_on_with_its_own_model_whatever_the_caller_asked_for():
    broken = MockProvider([["Once", cut()]], name="first", model="f")
    chain = Chain(broken, Continue(Choosy([[" upon"]], name="other", model="old")))
    events, done = await read(chain, streaming(chain, model="new"))
    assert done.text == text(events) == "Once upon"


async def test_the_target_that_broke_goes_on_only_with_a_model_that_can():
    for model, reason in (("old", None), ("new", "prefill")):
        chain = Chain(Choosy([["Once", cut()], [" upon"]], name="own", model=model), Continue())
        call = streaming(chain)
        _, done = await read(chain, call)
        told = notes(call, "stream.not_continued")
        if reason is None:
            assert done.text == "Once upon"
            assert told == []
        else:
            assert isinstance(done, StreamBroken)
            assert told[0]["reason"] == reason


def test_a_target_whose_own_model_refuses_is_a_mistake_in_the_configuration():
    Continue(Choosy([], name="x", model=""))  # the caller names the model
    with pytest.raises(ConfigError, match=r"'x' cannot go on .* with model 'new': capabilities.prefill"):
        Continue(Choosy([], name="x", model="new"))
    with pytest.raises(ConfigError, match="'y' cannot go on from the beginning of an answer: cap"):
        Continue(MockProvider([], name="y", model="new"))
