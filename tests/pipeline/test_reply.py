"""Replies: made, shaped, read, closed; by whom, when and how often."""

from __future__ import annotations

import asyncio
import gc
import itertools
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import IdleTimeout, ReplyClosed, StreamBroken
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing.loop import run
from llmpipe.types import (
    Completion,
    Cost,
    Embeddings,
    Finish,
    Message,
    Ping,
    ReasoningDelta,
    Request,
    Start,
    TextDelta,
    Usage,
    UsageUpdate,
    fold,
)
from tests.pipeline.kit import STOP, Boom, Ends, Feed, Remembering, chain, plain, streaming, texts, turns

DONE = Completion(id="c", message=Message("assistant", "hello"), finish_reason="stop", usage=Usage(3, 2))


def a_stream(c: Any) -> Any:
    return c(c.new_call(Request(messages="x", stream=True)))


class Upper:
    """A stage: capitals."""

    def feed(self, event):
        return [TextDelta(event.text.upper(), event.index)] if type(event) is TextDelta else [event]

    def flush(self):
        return []


class Hold:
    """A stage that gives all text out before the finish."""

    def __init__(self) -> None:
        self.held = ""

    def feed(self, event):
        if type(event) is TextDelta:
            self.held += event.text
            return []
        if type(event) is Finish:
            return [TextDelta(self.held), event]
        return [event]

    def flush(self):
        return []


# ------------------------------------------------------------ reading


@pytest.mark.parametrize("waits", [None, 0.0])
async def test_full_and_stream_are_the_same_reply(waits: float | None):
    async def both(line: Any) -> None:
        ends = Ends()
        c = chain(MockProvider(default=line), ends.yielder(waits=waits))
        full = await c.complete("x")
        async with c.stream("x") as reply:
            seen = [event async for event in reply]
            assert reply.over
        assert evolve(fold(seen), id="") == evolve(full, id="")
        assert evolve(reply.completion, id="") == evolve(full, id="")
        assert ends.statuses == ["ok", "ok"]
        assert evolve(ends[0][1].completion, id="") == evolve(ends[1][1].completion, id="")
        assert ends[0][1].usage == ends[1][1].usage == full.usage

    await both("hello")
    await both(["hel", "lo", UsageUpdate(Usage(9, 9))])
    await both([ReasoningDelta("hm"), "so"])
    await both(Completion(message=Message("assistant", ""), finish_reason="length"))


async def test_a_full_reply_can_be_iterated_and_a_stream_read_whole():
    c = chain(MockProvider(default="hello"))
    reply = await c(c.new_call(Request(messages="x")))
    assert not reply.streamed
    assert await texts(reply) == "hello"
    reply = await a_stream(c)
    assert reply.streamed
    done = await reply.full()
    assert isinstance(done, Completion)
    assert done.text == "hello"
    assert await reply.full() == done


async def test_texts_gives_text_only():
    c = chain(MockProvider(default=[ReasoningDelta("hm"), "a", Ping(), "b", ""]))
    async with c.stream("x") as reply:
        assert [text async for text in reply.texts()] == ["a", "b"]


async def test_reading_some_and_then_the_rest_whole_gives_all():
    c = chain(MockProvider(default=["a", "b", "c"]))
    async with c.stream("x") as reply:
        assert type(await anext(reply)) is Start
        assert await anext(reply) == TextDelta("a")
        done = await reply.full()
    assert isinstance(done, Completion)
    assert done.text == "abc"


async def test_what_has_passed_so_far_can_be_looked_at():
    c = chain(MockProvider(default=["a", Wait(1), "b"]))
    async with c.stream("x") as reply:
        while await anext(reply) != TextDelta("a"):
            pass
        assert isinstance(reply.completion, Completion)
        assert reply.completion.text == "a"
        assert reply.completion.finish_reason is None


async def test_embeddings_have_no_events_for_a_stage_and_are_amended_like_any_reply():
    @plain(500, "shape")
    async def shape(call: Call, call_next: Handler):
        reply = await call_next(call)
        return reply.pipe(Upper()).amend(lambda done: evolve(done, id="amended")).limit(idle=1)

    ends = Ends()
    done = await chain(MockProvider([Embeddings(((1.0,),))]), ends.yielder(), shape).embed("a")
    assert done == Embeddings(((1.0,),), id="amended")
    assert ends[0][1].completion.id == "amended"
    assert ends[0][1].usage.source == "estimated"


# ------------------------------------------------------------ stages and amendments


@pytest.mark.parametrize("stream", [False, True])
async def test_stages_run_inside_out_and_each_frame_sees_what_passed_it(stream: bool):
    class Append:
        def __init__(self, text: str) -> None:
            self.text = text

        def feed(self, event):
            return [TextDelta(self.text), event] if type(event) is Finish else [event]

        def flush(self):
            return []

    def appending(name: str, priority: int):
        @plain(priority, f"append {name}")
        async def append(call: Call, call_next: Handler):
            return (await call_next(call)).pipe(Append(name))

        return append

    ends = Ends()
    c = chain(
        MockProvider(default="0"),
        ends.yielder("outermost", 1),
        appending("2", 100),
        ends.yielder("between", 150),
        appending("1", 200),
        ends.yielder("innermost", 250),
    )
    if stream:
        async with c.stream("x") as reply:
            assert await texts(reply) == "012"
    else:
        assert (await c.complete("x")).text == "012"
    assert [(name, outcome.completion.text) for name, outcome in ends] == [
        ("innermost", "0"),
        ("between", "01"),
        ("outermost", "012"),
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stage_keeps_what_no_event_carries(stream: bool):
    @plain(500, "price")
    async def price(call: Call, call_next: Handler):
        reply = await call_next(call)
        return reply.amend(lambda done: evolve(done, charge=Cost(1, 2), warnings=("w",)))

    @plain(400, "upper")
    async def upper(call: Call, call_next: Handler):
        return (await call_next(call)).pipe(Upper())

    c = chain(MockProvider(default="hello"), upper, price)
    if stream:
        async with c.stream("x") as reply:
            done = await reply.full()
    else:
        done = await c.complete("x")
    assert isinstance(done, Completion)
    assert (done.text, done.charge, done.warnings) == ("HELLO", Cost(1, 2), ("w",))


async def test_a_stage_that_raises_fails_a_full_reply_before_it_is_handed_on():
    class Broken(Upper):
        def feed(self, event):
            raise Boom("stage")

    @plain(500, "stage")
    async def stage(call: Call, call_next: Handler):
        return (await call_next(call)).pipe(Broken())

    ends = Ends()
    c = chain(MockProvider(default="hello"), ends.yielder("outer", 1), stage, ends.yielder("inner", 900))
    with pytest.raises(Boom):
        await c.complete("x")
    assert ends.names == ["inner"]


@pytest.mark.parametrize("where", ["feed", "flush", "garbage"])
async def test_a_stage_that_raises_breaks_a_stream_and_closes_its_source(where: str):
    class Broken(Upper):
        def feed(self, event):
            if where == "feed" and event == TextDelta("b"):
                raise Boom("stage")
            return None if where == "garbage" else super().feed(event)

        def flush(self):
            if where == "flush":
                raise Boom("stage")
            return []

    @plain(500, "stage")
    async def stage(call: Call, call_next: Handler):
        return (await call_next(call)).pipe(Broken())

    ends, provider = Ends(), MockProvider(default=["a", "b", "c"])
    c = chain(provider, ends.yielder("outer", 1), stage, ends.yielder("inner", 900))
    with pytest.raises(TypeError if where == "garbage" else Boom):
        async with c.stream("x") as reply:
            await texts(reply)
    assert provider.open == 0
    assert ends.statuses == ["error", "error"]


async def test_a_stream_that_is_being_read_takes_no_further_stages():
    async with chain(MockProvider(default="hello")).stream("x") as reply:
        await anext(reply)
        with pytest.raises(RuntimeError, match="no further stages"):
            reply.pipe(Upper())


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_chunking_changes_nothing(text: str, cuts: list[int]):
    places = sorted({0, len(text), *(cut for cut in cuts if cut <= len(text))})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)] or [text]

    @plain(500, "upper")
    async def upper(call: Call, call_next: Handler):
        return (await call_next(call)).pipe(Upper()).pipe(Hold())

    async def main() -> None:
        ends = Ends()
        async with chain(MockProvider([pieces]), ends.yielder("outer", 1), upper).stream("x") as reply:
            assert await texts(reply) == text.upper()
        assert ends[0][1].completion.text == text.upper()

    # capitals of single characters only: "ß".upper() is two, and still cut-invariant
    run(main())


# ------------------------------------------------------------ broken


async def test_a_stream_cut_before_its_finish_is_broken():
    ends = Ends()
    feed = Feed("a", "b")
    with pytest.raises(StreamBroken, match="without a finish") as caught:
        async with chain(streaming(feed), ends.yielder()).stream("x") as reply:
            await texts(reply)
    assert caught.value.partial.text == "ab"
    assert ends.statuses == ["error"]
    assert ends[0][1].error is caught.value
    assert ends[0][1].usage.source == "estimated"


@pytest.mark.parametrize("kind", [Boom, StreamBroken, KeyError])
@pytest.mark.parametrize("whole", [False, True])
async def test_what_breaks_a_stream_reaches_the_reader_as_it_is_and_the_frames(kind: Any, whole: bool):
    ends, error = Ends(), kind("cut")
    provider = MockProvider([["a", error]])
    with pytest.raises(kind) as caught:
        async with chain(provider, ends.yielder(), ends.yielder("slow", 1, waits=1.0)).stream("x") as reply:
            await (reply.full() if whole else texts(reply))
    assert caught.value is error
    assert ends.statuses == ["error", "error"]
    assert all(outcome.error is error for _, outcome in ends)
    assert provider.open == 0


async def test_a_broken_stream_stays_broken():
    error = StreamBroken("cut")
    async with chain(MockProvider([["a", error]])).stream("x") as reply:
        for _ in range(2):
            with pytest.raises(StreamBroken, match="cut"):
                await reply.full()
            with pytest.raises(StreamBroken, match="cut"):
                await texts(reply)


async def test_a_partial_reply_that_cannot_be_amended_does_not_hide_the_error():
    def amend(done: Completion) -> Completion:
        if done.finish_reason is None:
            raise Boom("half a reply")
        return done

    @plain(500, "amend")
    async def amending(call: Call, call_next: Handler):
        return (await call_next(call)).amend(amend)

    ends, runtime = Ends(), Remembering()
    provider = MockProvider([["a", StreamBroken("cut")]])
    with pytest.raises(StreamBroken, match="cut") as caught:
        async with chain(provider, ends.yielder("outer", 1), amending, runtime=runtime).stream("x") as reply:
            await texts(reply)
    assert caught.value.partial is None
    assert ends.statuses == ["error"]
    assert provider.open == 0
    assert [str(error) for _, error in runtime.reports] == ["half a reply"]


# ------------------------------------------------------------ closed


@pytest.mark.parametrize("events", [0, 1, 2, 3])
@pytest.mark.parametrize("waits", [None, 0.5])
async def test_a_stream_closed_before_its_end_is_abandoned(events: int, waits: float | None):
    ends, provider = Ends(), MockProvider(default=["a", "b", "c"])
    async with chain(provider, ends.yielder(waits=waits)).stream("x") as reply:
        for _ in range(events):
            await anext(reply)
    assert ends.statuses == ["abandoned"]
    assert provider.open == 0
    assert ends[0][1].usage.output_tokens > 0, "what came in, read or not, is counted"


async def test_a_full_reply_that_nobody_reads_is_abandoned():
    ends = Ends()
    async with chain(MockProvider("hello"), ends.yielder()).stream("x", timeout=5) as reply:
        assert reply.streamed
    c = chain(MockProvider("hello"), ends.yielder())
    reply = await c(c.new_call(Request(messages="x")))
    await reply.aclose()
    assert ends.statuses == ["abandoned", "abandoned"]


async def test_a_full_reply_read_event_by_event_up_to_its_finish_is_a_success():
    ends = Ends()
    c = chain(MockProvider("hello"), ends.yielder())
    async with await c(c.new_call(Request(messages="x"))) as reply:
        async for event in reply:
            if type(event) is Finish:
                break
    assert ends.statuses == ["ok"]


@pytest.mark.parametrize("full", [False, True])
async def test_reading_a_reply_that_was_closed_early_does_not_look_like_its_end(full: bool):
    c = chain(MockProvider(default=["a", "b", "c"]))
    reply = await c(c.new_call(Request(messages="x", stream=not full)))
    await anext(reply)
    await reply.aclose()
    with pytest.raises(ReplyClosed):
        await anext(reply)
    if not full:
        with pytest.raises(ReplyClosed):
            await reply.full()


async def test_closing_twice_or_after_the_end_changes_nothing():
    ends = Ends()
    c = chain(MockProvider(default="hello"), ends.yielder())
    async with c.stream("x") as reply:
        await texts(reply)
        await reply.aclose()
        await reply.aclose("cancelled")
    assert await texts(reply) == ""
    assert ends.statuses == ["ok"]


async def test_closing_waits_for_a_close_that_is_under_way():
    ends = Ends()
    c = chain(MockProvider(default="hello"), ends.yielder(waits=1.0))
    reply = await a_stream(c)
    closers = [asyncio.create_task(reply.aclose()) for _ in range(3)]
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in closers)
    await asyncio.gather(*closers)
    assert asyncio.get_running_loop().time() == 1.0
    assert ends.statuses == ["abandoned"]


# ------------------------------------------------------------ the usage behind the finish


async def test_a_consumer_that_stops_at_the_finish_still_learns_the_usage():
    """Through the stages, as if it had read on: every layer learns it."""

    class Billed(Upper):
        def feed(self, event):
            return [UsageUpdate(event.usage + Usage(1, 0))] if type(event) is UsageUpdate else [event]

    @plain(500, "billed")
    async def billed(call: Call, call_next: Handler):
        return (await call_next(call)).pipe(Billed())

    ends = Ends()
    provider = MockProvider([["a", STOP, Wait(0.5), UsageUpdate(Usage(7, 9))]])
    layers = ends.yielder("outer", 1), billed, ends.yielder("inner", 900)
    async with chain(provider, *layers).stream("x") as reply:
        async for event in reply:
            if type(event) is Finish:
                break
    assert ends.statuses == ["ok", "ok"]
    assert [outcome.usage for _, outcome in ends] == [Usage(7, 9), Usage(8, 9)]
    assert provider.open == 0


@pytest.mark.parametrize("late", [Wait(100), StreamBroken("cut"), Boom("bad")])
async def test_what_goes_wrong_after_the_finish_leaves_the_call_a_success_and_nothing_open(late: Any):
    ends, runtime = Ends(), Remembering()
    provider = MockProvider([["a", STOP, late, UsageUpdate(Usage(7, 9))]])
    loop = asyncio.get_running_loop()
    async with chain(provider, ends.yielder(), runtime=runtime).stream("x") as reply:
        async for event in reply:
            if type(event) is Finish:
                break
    assert loop.time() <= 1.0
    assert ends.statuses == ["ok"]
    assert ends[0][1].usage.source == "estimated"
    assert provider.open == 0
    assert [type(error) for _, error in runtime.reports] == ([Boom] if isinstance(late, Boom) else [])


async def test_cancelled_while_the_usage_is_awaited_is_a_success_and_cancelled():
    ends = Ends()
    provider = MockProvider([["a", STOP, Wait(100)]])

    async def consume() -> None:
        async with chain(provider, ends.yielder()).stream("x") as reply:
            async for event in reply:
                if type(event) is Finish:
                    break

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends.statuses == ["ok"]
    assert provider.open == 0


async def test_a_stage_that_keeps_the_finish_back_is_waited_for():
    class Late(Upper):
        """Gives everything out in flush, the finish too."""

        def __init__(self) -> None:
            self.kept: list[Any] = []

        def feed(self, event):
            self.kept.append(event)
            return []

        def flush(self):
            return self.kept

    @plain(500, "late")
    async def late(call: Call, call_next: Handler):
        return (await call_next(call)).pipe(Late())

    ends = Ends()
    c = chain(MockProvider(default=["a", STOP, Wait(0.5)]), ends.yielder("outer", 1), late)
    async with c.stream("x") as reply:
        assert await texts(reply) == "a"
    task = asyncio.create_task((await a_stream(c)).full())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends.statuses == ["ok", "cancelled"]
    assert ends[1][1].completion.text == ""


# ------------------------------------------------------------ tasks


async def test_a_reply_opened_in_one_task_is_read_in_another():
    ends = Ends()
    c = chain(MockProvider(default=["a", Wait(1), "b"]), ends.yielder(waits=0.0))
    reply = await asyncio.create_task(a_stream(c))
    assert await asyncio.create_task(texts(reply)) == "ab"
    assert ends.statuses == ["ok"]


@pytest.mark.parametrize("waits", [None, 1.0])
async def test_closed_by_another_task_while_it_is_being_read(waits: float | None):
    ends, provider = Ends(), MockProvider(default=["a", Wait(100), "b"])
    c = chain(provider, ends.yielder(waits=waits))
    reply = await a_stream(c)
    reader = asyncio.create_task(texts(reply))
    await asyncio.sleep(1)
    await asyncio.gather(reply.aclose(), reply.aclose())
    assert ends.statuses == ["abandoned"]
    assert provider.open == 0
    with pytest.raises(ReplyClosed) as caught:
        await reader
    assert caught.value.partial.text == "a"
    assert reader.cancelling() == 0


async def test_closed_by_another_task_between_two_reads():
    ends, provider = Ends(), MockProvider(default=["a", "b", "c"])
    c = chain(provider, ends.yielder())
    reply = await a_stream(c)
    ready = asyncio.Event()

    async def read() -> None:
        async for _ in reply:
            await ready.wait()

    reader = asyncio.create_task(read())
    await asyncio.sleep(1)
    await reply.aclose()
    ready.set()
    with pytest.raises(ReplyClosed):
        await reader
    assert ends.statuses == ["abandoned"]
    assert provider.open == 0


async def test_a_second_consumer_is_refused_and_the_first_one_undisturbed():
    ends = Ends()
    c = chain(MockProvider(default=["a", Wait(1), "b"]), ends.yielder())
    reply = await a_stream(c)
    first = asyncio.create_task(texts(reply))
    await asyncio.sleep(0.5)
    with pytest.raises(RuntimeError, match="one consumer"):
        await anext(reply)
    with pytest.raises(RuntimeError, match="one consumer"):
        await reply.full()
    assert await first == "ab"
    assert ends.statuses == ["ok"]


async def test_a_reader_cancelled_while_another_task_closes_is_cancelled():
    ends, provider = Ends(), MockProvider(default=["a", Wait(100), "b"])
    c = chain(provider, ends.yielder(waits=0.5))
    reply = await a_stream(c)
    reader = asyncio.create_task(texts(reply))
    await asyncio.sleep(1)
    closer = asyncio.create_task(reply.aclose())
    await asyncio.sleep(0)
    reader.cancel()
    await closer
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert ends.statuses == ["cancelled"]
    assert provider.open == 0


async def test_a_closer_that_is_cancelled_leaves_the_close_under_way():
    ends, provider = Ends(), MockProvider(default=["a", Wait(100), "b"])
    c = chain(provider, ends.yielder(waits=1.0))
    reply = await a_stream(c)
    reader = asyncio.create_task(texts(reply))
    await asyncio.sleep(1)
    closer = asyncio.create_task(reply.aclose())
    await asyncio.sleep(0.5)
    closer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closer
    with pytest.raises(ReplyClosed):
        await reader
    assert ends.statuses == ["abandoned"]
    assert provider.open == 0


async def test_a_source_that_swallows_the_interruption_is_interrupted_all_the_same():
    class Deaf(Feed):
        async def read(self):
            try:
                return await super().read()
            except asyncio.CancelledError:
                return (TextDelta("late"),)

    ends, feed = Ends(), Deaf("a", 100.0)
    c = chain(streaming(feed), ends.yielder())
    reply = await a_stream(c)
    reader = asyncio.create_task(texts(reply))
    await asyncio.sleep(1)
    async with asyncio.timeout(10):
        await reply.aclose()
    with pytest.raises(ReplyClosed):
        await reader
    assert reader.cancelling() == 0
    assert ends.statuses == ["abandoned"]
    assert feed.closed == 1


async def test_a_source_that_turns_the_interruption_into_its_own_error_does_not_hide_it():
    class Own(Feed):
        async def read(self):
            try:
                return await super().read()
            except asyncio.CancelledError:
                raise Boom("my own") from None

    c = chain(streaming(Own("a", 100.0)))
    reply = (await a_stream(c)).limit(idle=5)

    async def read() -> tuple[str, int]:
        task = asyncio.current_task()
        assert task is not None
        try:
            return await texts(reply), 0
        except IdleTimeout:
            return "idle", task.cancelling()

    assert await asyncio.create_task(read()) == ("idle", 0)


# ------------------------------------------------------------ cancelled


@pytest.mark.parametrize("layers", [0, 1, 3])
async def test_a_cancelled_read_cancels_the_reply_and_passes_through(layers: int):
    ends, provider = Ends(), MockProvider(default=["a", Wait(100), "b"])
    c = chain(provider, *[ends.yielder(f"y{at}", at, waits=0.0 if at % 2 else None) for at in range(layers)])

    async def consume() -> None:
        async with c.stream("x") as reply:
            await texts(reply)

    task = asyncio.create_task(consume())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert ends.statuses == ["cancelled"] * layers
    assert provider.open == 0


async def test_a_consumer_cancelled_outside_a_read_cancels_the_reply():
    ends, provider = Ends(), MockProvider(default=["a", "b"])

    async def consume() -> None:
        async with chain(provider, ends.yielder()).stream("x") as reply:
            await anext(reply)
            await asyncio.sleep(100)

    task = asyncio.create_task(consume())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends.statuses == ["cancelled"]
    assert provider.open == 0


async def test_an_asyncio_timeout_round_a_stream_is_a_timeout():
    ends, provider = Ends(), MockProvider(default=["a", Wait(100), "b"])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), chain(provider, ends.yielder(waits=0.5)).stream("x") as reply:
            await texts(reply)
    assert ends.statuses == ["cancelled"]
    assert provider.open == 0
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_anyio_scope_round_a_stream_ends_it_and_lets_clean_up_finish():
    from anyio import move_on_after

    ends, provider = Ends(), MockProvider(default=["a", Wait(100), "b"])
    with move_on_after(1) as scope:
        async with chain(provider, ends.yielder(waits=2.0)).stream("x") as reply:
            await texts(reply)
    assert scope.cancelled_caught
    assert ends.statuses == ["cancelled"]
    assert provider.open == 0
    assert asyncio.get_running_loop().time() == 3.0


async def test_cancelled_during_the_last_clean_up_the_call_is_cancelled_and_the_outcome_ok():
    ends = Ends()
    task = asyncio.create_task(chain(MockProvider("hello"), ends.yielder(waits=1.0)).complete("x"))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends.statuses == ["ok"]


# ------------------------------------------------------------ outcomes


async def test_an_outcome_knows_when_it_began_and_ended():
    ends = Ends()
    provider = MockProvider([[Wait(1), "a", Wait(2), "b"]])
    c = chain(provider, ends.yielder())
    call = c.new_call(Request(messages="x", stream=True))
    await texts(await c(call))
    outcome = ends[0][1]
    assert (outcome.committed_at, outcome.ended_at) == (1.0, 3.0)
    (attempt,) = call.ledger.attempts
    assert (attempt.started_at, attempt.committed_at, attempt.ended_at) == (0.0, 1.0, 3.0)
    assert attempt.status == "ok"
    assert attempt.usage == outcome.usage


async def test_usage_told_at_the_start_is_topped_up_when_the_stream_is_cut():
    ends = Ends()
    script: list[Any] = [UsageUpdate(Usage(50, 0)), "some words that were generated", StreamBroken("cut")]
    with pytest.raises(StreamBroken):
        async with chain(MockProvider([script]), ends.yielder()).stream("x") as reply:
            await texts(reply)
    usage = ends[0][1].usage
    assert usage.input_tokens == 50
    assert usage.output_tokens > 3
    assert usage.source == "estimated"


async def test_a_reply_outside_any_chain_can_be_read_and_closed():
    assert await Reply.of(DONE).full() == DONE
    assert await texts(Reply.of(DONE)) == "hello"
    feed = Feed("a", STOP)
    assert await texts(Reply.stream(feed)) == "a"
    feed = Feed("a", STOP)
    await Reply.stream(feed).aclose()
    assert feed.closed == 1

    async def events():
        yield TextDelta("x")
        yield STOP

    assert await texts(Reply.stream(events())) == "x"
    generator = events()
    reply = Reply.stream(generator)
    await anext(reply)
    await reply.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(generator)


async def test_a_dropped_reply_outside_any_chain_warns():
    with pytest.warns(ResourceWarning, match="never closed"):
        Reply.stream(Feed("a"))
        gc.collect()


async def test_a_dropped_reply_is_closed_even_when_warnings_are_errors(monkeypatch: pytest.MonkeyPatch):
    told: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    ends, provider = Ends(), MockProvider(default="hello there")
    reply = await a_stream(chain(provider, ends.yielder()))
    del reply
    gc.collect()
    await turns()
    assert ends.statuses == ["abandoned"]
    assert provider.open == 0
    assert len(told) == 1
