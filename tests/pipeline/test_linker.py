"""The laws of `llmpipe.pipeline.linker`."""

from __future__ import annotations

import asyncio
import gc
import sys
from functools import partial, partialmethod, wraps
from typing import Any

import pytest
from attrs import frozen

from llmpipe.errors import InvalidRequest, ReplyClosed, ServiceUnavailable, StreamBroken
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler, settles_at_once
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.types import Completion, Message, Request
from tests.pipeline.kit import STOP, Boom, Ends, Feed, Remembering, chain, plain, streaming, texts, turns

# ------------------------------------------------------------ law 1: one reply, resumed exactly once


@pytest.mark.parametrize("waits", [None, 0.0, 1.0])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_yielder_is_resumed_once_with_the_outcome(waits: float | None, stream: bool):
    ends = Ends()
    c = chain(MockProvider("hello"), ends.yielder(waits=waits))
    if stream:
        async with c.stream("x") as reply:
            assert await texts(reply) == "hello"
    else:
        assert (await c.complete("x")).text == "hello"
    assert ends.statuses == ["ok"]
    assert ends[0][1].completion.text == "hello"


@pytest.mark.parametrize("waits", [None, 0.0, 1.0])
async def test_frames_are_resumed_innermost_first(waits: float | None):
    ends = Ends()
    layers = [ends.yielder(f"y{at}", at, waits=waits if at % 2 else None) for at in range(5)]
    await chain(MockProvider("hello"), *layers).complete("x")
    assert ends.names == ["y4", "y3", "y2", "y1", "y0"]


@pytest.mark.parametrize("waits", [None, 0.0])
async def test_a_middleware_that_yields_twice_is_reported_and_its_frame_closed(waits: float | None):
    ends, closed = Ends(), []

    @plain(500, "twice")
    async def twice(call: Call, call_next: Handler):
        reply = await call_next(call)
        try:
            yield reply
            if waits is not None:
                await asyncio.sleep(waits)
            yield reply
        finally:
            closed.append(True)

    runtime = Remembering()
    c = chain(
        MockProvider("hello"), ends.yielder("outer", 1), twice, ends.yielder("inner", 900), runtime=runtime
    )
    assert (await c.complete("x")).text == "hello"
    assert ends.names == ["inner", "outer"]
    assert closed == [True]
    ((_, error),) = runtime.reports
    assert "yielded twice" in str(error)


async def test_a_middleware_that_yields_thrice_even_when_it_is_told_to_stop_is_reported():
    ends = Ends()

    @plain(500, "stubborn")
    async def stubborn(call: Call, call_next: Handler):
        reply = await call_next(call)
        for _ in range(3):
            try:
                yield reply
            except GeneratorExit:
                yield reply

    runtime = Remembering()
    c = chain(MockProvider("hello"), ends.yielder("outer", 1), stubborn, runtime=runtime)
    await c.complete("x")
    assert ends.names == ["outer"]
    assert "yielded twice" in str(runtime.reports[0][1])


async def test_a_generator_that_ends_without_yielding_is_a_type_error_and_what_it_opened_is_closed():
    provider = MockProvider("hello there")
    ends = Ends()

    @plain(500, "mute")
    async def mute(call: Call, call_next: Handler):
        await call_next(call)
        if call.tags:
            yield Reply.of(Completion())

    with pytest.raises(TypeError, match="'mute' ended without yielding"):
        async with chain(provider, mute, ends.yielder("inner", 900)).stream("x"):
            pass
    assert ends.statuses == ["abandoned"]
    assert provider.open == 0


@pytest.mark.parametrize("garbage", [None, "text", Completion(), 7])
@pytest.mark.parametrize("yields", [False, True])
async def test_what_is_no_reply_is_refused_and_what_was_opened_is_closed(garbage: Any, yields: bool):
    provider, ends, over = MockProvider("hello there"), Ends(), []

    @plain(500, "garbage")
    async def returning(call: Call, call_next: Handler):
        await call_next(call)
        return garbage

    @plain(500, "garbage")
    async def yielding(call: Call, call_next: Handler):
        await call_next(call)
        try:
            yield garbage
        finally:
            over.append(True)

    c = chain(provider, yielding if yields else returning, ends.yielder("inner", 900))
    with pytest.raises(TypeError, match=f"'garbage' gave a {type(garbage).__name__}"):
        async with c.stream("x"):
            pass
    assert ends.statuses == ["abandoned"]
    assert provider.open == 0
    assert over == ([True] if yields else [])


# ------------------------------------------------------------ law 2: what is opened is closed


async def test_replies_that_were_not_handed_on_are_closed():
    provider, ends = MockProvider(default="hello there"), Ends()

    @plain(500, "best of three")
    async def best(call: Call, call_next: Handler):
        replies = [await call_next(call) for _ in range(3)]
        return replies[1]

    async with chain(provider, best, ends.yielder("inner", 900)).stream("x") as reply:
        assert provider.open == 1
        assert ends.statuses == ["abandoned", "abandoned"]
        assert await texts(reply) == "hello there"
    assert ends.statuses == ["abandoned", "abandoned", "ok"]
    assert provider.open == 0


@pytest.mark.parametrize("error", [Boom("b"), InvalidRequest("i"), asyncio.CancelledError()])
@pytest.mark.parametrize("yields", [False, True])
async def test_replies_are_closed_when_the_middleware_fails_afterwards(error: BaseException, yields: bool):
    provider, ends = MockProvider(default="hello there"), Ends()

    @plain(500, "failing")
    async def returning(call: Call, call_next: Handler):
        await call_next(call)
        await call_next(call)
        raise error

    @plain(500, "failing")
    async def yielding(call: Call, call_next: Handler):
        await call_next(call)
        reply = await call_next(call)
        if reply:
            raise error
        yield reply

    c = chain(provider, yielding if yields else returning, ends.yielder("inner", 900))
    with pytest.raises(type(error)) as caught:
        await c(c.new_call(Request(messages="x", stream=True)))
    assert caught.value is error
    assert provider.open == 0
    assert ends.statuses == ["cancelled" if isinstance(error, asyncio.CancelledError) else "abandoned"] * 2


@pytest.mark.parametrize("yields", [False, True])
async def test_a_cancellation_while_losers_are_closed_leaves_nothing_open(yields: bool):
    provider, ends = MockProvider(default="hello there"), Ends()

    @plain(500, "best of three")
    async def returning(call: Call, call_next: Handler):
        replies = [await call_next(call) for _ in range(3)]
        return replies[1]

    @plain(500, "best of three")
    async def yielding(call: Call, call_next: Handler):
        replies = [await call_next(call) for _ in range(3)]
        outcome = yield replies[1]
        ends.append(("best", outcome))

    slow = ends.yielder("slow", 900, waits=1.0)
    c = chain(provider, ends.yielder("outer", 1), yielding if yields else returning, slow)
    task = asyncio.create_task(c(c.new_call(Request(messages="x", stream=True))))
    await asyncio.sleep(0.5)
    assert provider.open == 2  # the first loser's source is closed, and its slow frame at work
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert provider.open == 0
    expected = ["slow"] * 3 + (["best"] if yields else [])
    assert sorted(ends.names) == sorted(expected)


async def test_an_error_while_losers_are_closed_is_not_the_callers():
    ends = Ends()

    class Broken(Feed):
        async def aclose(self) -> None:
            await super().aclose()
            raise Boom("the socket is gone")

    feeds = [Broken("a", STOP), Broken("b", STOP)]

    class Provider(MockProvider):
        async def __call__(self, call: Call) -> Reply:
            return Reply.stream(feeds[len(self.requests)], self.requests.append(call.request) or ())

    @plain(500, "second")
    async def second(call: Call, call_next: Handler):
        await call_next(call)
        return await call_next(call)

    runtime = Remembering()
    c = chain(Provider(), second, ends.yielder("inner", 900), runtime=runtime)
    async with c.stream("x") as reply:
        assert await texts(reply) == "b"
    assert [str(error) for _, error in runtime.reports] == ["the socket is gone"]
    assert feeds[0].closed == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("waits", [None, 0.0])
async def test_a_reply_read_to_its_end_by_a_middleware_is_handed_on_whole(stream: bool, waits: float | None):
    ends, provider = Ends(), MockProvider("hello there")

    @plain(500, "check")
    async def check(call: Call, call_next: Handler):
        reply = await call_next(call)
        done = await reply.full()
        assert isinstance(done, Completion)
        return reply

    c = chain(provider, ends.yielder("outer", 1, waits=waits), check, ends.yielder("inner", 900))
    if stream:
        async with c.stream("x") as reply:
            assert ends.statuses == ["ok"]
            assert await texts(reply) == "hello there"
    else:
        assert (await c.complete("x")).text == "hello there"
    assert ends.names == ["inner", "outer"]
    assert ends.statuses == ["ok", "ok"]


@pytest.mark.parametrize("yields", [False, True])
async def test_a_reply_that_was_closed_early_cannot_be_handed_on(yields: bool):
    ends, provider = Ends(), MockProvider("hello there")

    @plain(500, "closer")
    async def returning(call: Call, call_next: Handler):
        async with await call_next(call) as reply:
            return reply

    @plain(500, "closer")
    async def yielding(call: Call, call_next: Handler):
        reply = await call_next(call)
        await reply.aclose()
        outcome = yield reply
        ends.append(("closer", outcome))

    c = chain(provider, ends.yielder("outer", 1), yielding if yields else returning)
    with pytest.raises(ReplyClosed):
        async with c.stream("x"):
            pass
    assert provider.open == 0
    assert ends.names == (["closer"] if yields else [])


async def test_a_reply_opened_twice_in_a_row_by_nested_retries_is_handed_on_once():
    ends = Ends()
    script = [ServiceUnavailable("1"), ServiceUnavailable("2"), "third time"]
    provider = MockProvider(script)

    def again(name: str, priority: int):
        @plain(priority, name)
        async def retry(call: Call, call_next: Handler):
            for left in (1, 0):
                try:
                    return await call_next(call)
                except ServiceUnavailable:
                    if not left:
                        raise
            return None

        return retry

    c = chain(
        provider, ends.yielder("outer", 1), again("a", 100), again("b", 200), ends.yielder("inner", 900)
    )
    call = c.new_call(Request(messages="x"))
    done = await (await c(call)).full()
    assert isinstance(done, Completion)
    assert done.text == "third time"
    assert [attempt.status for attempt in call.ledger.attempts] == ["error", "error", "ok"]
    assert ends.names == ["inner", "outer"]


@pytest.mark.parametrize("yields", [False, True])
async def test_an_amendment_that_fails_as_the_reply_is_handed_on_is_raised_and_nothing_left_open(
    yields: bool,
):
    provider, ends = MockProvider(default="hello there"), Ends()

    def bad(completion: Completion) -> Completion:
        raise Boom("amended")

    async def read_one_of_two(call: Call, call_next: Handler) -> Reply:
        await call_next(call)
        reply = (await call_next(call)).amend(bad)
        await texts(reply)
        return reply

    @plain(500, "amending")
    async def returning(call: Call, call_next: Handler):
        return await read_one_of_two(call, call_next)

    @plain(500, "amending")
    async def yielding(call: Call, call_next: Handler):
        outcome = yield await read_one_of_two(call, call_next)
        ends.append(("amending", outcome))

    c = chain(provider, yielding if yields else returning, ends.yielder("inner", 900))
    with pytest.raises(Boom, match="amended"):
        async with c.stream("x"):
            pass
    assert provider.open == 0
    assert ends.names == ["inner", "inner"] + (["amending"] if yields else [])


async def test_a_reply_opened_while_another_is_closed_belongs_to_the_task_that_opened_it():
    provider, ends, heard = MockProvider(default=["a", Wait(5), "b"]), Ends(), []

    @plain(500, "refreshing")
    async def refreshing(call: Call, call_next: Handler):
        async def refresh() -> None:
            await asyncio.sleep(1)
            async with await call_next(call) as reply:
                heard.append(await texts(reply))

        call.runtime.spawn(refresh(), "refresh")
        await call_next(call)  # is closed by the linker, which takes three seconds
        return Reply.of(Completion(message=Message("assistant", "stale"), finish_reason="stop"))

    c = chain(provider, refreshing, ends.yielder("slow", 900, waits=3.0))
    async with c.stream("x") as reply:
        assert await texts(reply) == "stale"
    await asyncio.sleep(20)
    assert heard == ["ab"]
    assert ends.statuses == ["abandoned", "ok"]
    assert provider.open == 0


# ------------------------------------------------------------ law 3: clean-up never replaces the outcome


@pytest.mark.parametrize(
    "error", [Boom("late"), asyncio.CancelledError(), StreamBroken("x"), GeneratorExit()]
)
@pytest.mark.parametrize("waits", [None, 0.0])
@pytest.mark.parametrize("way", ["full", "read", "abandon"])
async def test_what_a_frame_raises_is_reported_and_the_others_are_still_resumed(
    error: BaseException, waits: float | None, way: str
):
    ends = Ends()

    @plain(500, "late")
    async def at_once(call: Call, call_next: Handler):
        yield await call_next(call)
        raise error

    @plain(500, "late")
    async def later(call: Call, call_next: Handler):
        yield await call_next(call)
        await asyncio.sleep(0)
        raise error

    runtime = Remembering()
    late = at_once if waits is None else later
    c = chain(
        MockProvider("hello"), ends.yielder("outer", 1), late, ends.yielder("inner", 900), runtime=runtime
    )
    if way == "full":
        assert (await c.complete("x")).text == "hello"
    else:
        async with c.stream("x") as reply:
            if way == "read":
                assert await texts(reply) == "hello"
    assert ends.names == ["inner", "outer"]
    assert [reported for _, reported in runtime.reports] == [error]


async def test_an_error_in_a_frame_does_not_replace_the_streams_own_error():
    @plain(500, "late")
    async def late(call: Call, call_next: Handler):
        yield await call_next(call)
        raise Boom("late")

    runtime = Remembering()
    c = chain(MockProvider([["a", StreamBroken("cut")]]), late, runtime=runtime)
    with pytest.raises(StreamBroken, match="cut") as caught:
        async with c.stream("x") as reply:
            await texts(reply)
    assert caught.value.partial.text == "a"
    assert caught.value.attempt == 1
    assert [str(error) for _, error in runtime.reports] == ["late"]


# ------------------------------------------------------------ law 4: shielded, and bounded


@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_resuming_is_not_cut_by_cancellation(cancels: int):
    ends = Ends()
    provider = MockProvider([["a", Wait(100), "b"]])
    slow = [ends.yielder(f"slow{at}", at, waits=1.0) for at in range(3)]
    c = chain(provider, *slow)

    async def consume() -> None:
        async with c.stream("x") as reply:
            async for _ in reply:
                pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(1)
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0.9)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert ends.names == ["slow2", "slow1", "slow0"]
    assert ends.statuses == ["cancelled"] * 3
    assert provider.open == 0


async def test_a_frame_that_hangs_is_cut_and_does_not_keep_the_others_from_being_resumed():
    ends = Ends()

    @plain(500, "hanging")
    async def hanging(call: Call, call_next: Handler):
        yield await call_next(call)
        await asyncio.sleep(1000)

    runtime = Remembering(cleanup_seconds=2.0)
    layers = [ends.yielder("outer", 1), hanging, ends.yielder("inner", 900, waits=0.5)]
    c = chain(MockProvider("hello"), *layers, runtime=runtime)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await c.complete("x")).text == "hello"
    assert loop.time() - began <= 2.1
    assert ends.names == ["inner", "outer"]
    ((what, error),) = runtime.reports
    assert "hanging" in what
    assert isinstance(error, TimeoutError)


async def test_frames_after_one_that_was_cut_run_as_if_nothing_had_been_cancelled():
    told: list[Any] = []

    @plain(100, "outer")
    async def outer(call: Call, call_next: Handler):
        yield await call_next(call)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        told.append(task.cancelling())
        raise asyncio.CancelledError

    @plain(500, "hanging")
    async def hanging(call: Call, call_next: Handler):
        yield await call_next(call)
        await asyncio.sleep(1000)

    runtime = Remembering(cleanup_seconds=2.0)
    await chain(MockProvider("hello"), outer, hanging, runtime=runtime).complete("x")
    assert told == [0]
    assert [type(error) for _, error in runtime.reports] == [TimeoutError, asyncio.CancelledError]


async def test_a_source_that_hangs_when_closed_is_cut_and_the_frames_are_resumed():
    ends = Ends()
    runtime = Remembering(cleanup_seconds=2.0)
    feed = Feed("a", 1000.0, close_seconds=1000.0)
    c = chain(
        streaming(feed), ends.yielder("slow", 1, waits=0.5), ends.yielder("inner", 900), runtime=runtime
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with c.stream("x") as reply:
        await anext(reply)
    assert loop.time() - began <= 2.1
    assert ends.names == ["inner", "slow"]
    assert [what for what, _ in runtime.reports] == ["closing a stream"]


async def test_a_frame_that_ignores_its_cancellation_is_left_to_itself_in_the_end():
    stop = asyncio.Event()

    @plain(500, "deaf")
    async def deaf(call: Call, call_next: Handler):
        yield await call_next(call)
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                continue

    runtime = Remembering(cleanup_seconds=2.0)
    c = chain(MockProvider("hello"), deaf, runtime=runtime)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await c.complete("x")).text == "hello"
    assert loop.time() - began <= 5
    assert runtime.reports
    stop.set()
    await turns()


async def test_a_frame_may_close_its_own_reply():
    """As ``async with await call_next(call) as reply: yield reply`` does; it must not wait for itself."""
    ends = Ends()

    @plain(500, "closing")
    async def closing(call: Call, call_next: Handler):
        async with await call_next(call) as reply:
            outcome = yield reply
        ends.append(("closing", outcome))

    runtime = Remembering()
    c = chain(MockProvider(default=["a", Wait(10), "b"]), closing, runtime=runtime)
    loop = asyncio.get_running_loop()

    async with c.stream("x") as reply:
        assert await texts(reply) == "ab"

    reply = await c(c.new_call(Request(messages="x", stream=True)))
    reader = asyncio.create_task(reply.full())
    await asyncio.sleep(1)
    began = loop.time()
    await reply.aclose()
    with pytest.raises(ReplyClosed):
        await reader
    assert loop.time() == began
    assert ends.statuses == ["ok", "abandoned"]
    assert not runtime.reports


# ------------------------------------------------------------ what a middleware may be


class _Returning:
    name, priority = "m", 500

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        return await call_next(call)


@frozen
class _Yielding:
    ends: Ends
    name: str = "m"
    priority: int = 500

    async def __call__(self, call: Call, call_next: Handler):
        outcome = yield await call_next(call)
        self.ends.append(("m", outcome))


class _Counting:
    """A plain function that hands on what another made, and counts its calls."""

    name, priority = "m", 500

    def __init__(self, made: Any) -> None:
        self.made, self.calls = made, 0

    def __call__(self, call: Call, call_next: Handler) -> Any:
        self.calls += 1
        return self.made(call, call_next)


@pytest.mark.parametrize("made", [_Returning(), _Yielding(Ends())], ids=["returning", "yielding"])
async def test_a_sync_callable_is_called_once_for_each_call(made: Any):
    counting = _Counting(made)
    assert (await chain(MockProvider("hello"), counting).complete("x")).text == "hello"
    assert counting.calls == 1


async def test_a_callable_may_return_a_task():
    ends = Ends()

    class Eager:
        name, priority = "eager", 500

        def __call__(self, call: Call, call_next: Handler) -> asyncio.Task[Reply]:
            return asyncio.ensure_future(_Returning()(call, call_next))

    c = chain(MockProvider("hello"), Eager(), ends.yielder("inner", 900))
    assert (await c.complete("x")).text == "hello"
    assert ends.statuses == ["ok"]


async def test_partials_methods_and_decorated_functions_are_middlewares_of_their_form():
    ends = Ends()

    async def outcome_of(label: str, call: Call, call_next: Handler):
        outcome = yield await call_next(call)
        ends.append((label, outcome))

    part: Any = partial(outcome_of, "partial")
    part.name, part.priority = "partial", 100

    class Methods:
        name, priority = "partialmethod", 200

        async def run(self, label: str, call: Call, call_next: Handler):
            outcome = yield await call_next(call)
            ends.append((label, outcome))

        __call__ = partialmethod(run, "partialmethod")

    @plain(300, "decorated")
    @wraps(outcome_of)
    def decorated(call: Call, call_next: Handler):
        return outcome_of("decorated", call, call_next)

    c = chain(MockProvider("hello"), part, Methods(), decorated)
    assert (await c.complete("x")).text == "hello"
    assert ends.names == ["decorated", "partialmethod", "partial"]


class _Begun:
    """A coroutine after its first step, which an eager task takes at once."""

    def __init__(self, work: Any) -> None:
        self.steps = work.__await__()
        next(self.steps)

    def __await__(self):
        return (yield from self.steps)


async def test_a_callable_may_ask_the_rest_of_the_chain_before_it_returns():
    ends = Ends()

    class Eager:
        name, priority = "eager", 500

        def __call__(self, call: Call, call_next: Handler) -> Any:
            return _Begun(call_next(call))

    c = chain(MockProvider("hello"), Eager(), ends.yielder("inner", 900))
    assert (await c.complete("x")).text == "hello"
    assert ends.statuses == ["ok"]


async def test_a_sync_function_that_returns_a_reply_is_told_what_it_should_be():
    @plain(500, "sync")
    def sync(call: Call, call_next: Handler):
        return Reply.of(Completion(message=Message("assistant", "hi")))

    with pytest.raises(TypeError, match=r"'sync'.*async def"):
        await chain(MockProvider("hello"), sync).complete("x")


async def test_a_middleware_that_never_calls_next_answers_by_itself():
    ends, provider = Ends(), MockProvider("never")

    @plain(500, "short")
    async def short(call: Call, call_next: Handler):
        outcome = yield Reply.of(Completion(message=Message("assistant", "hi"), finish_reason="stop"))
        ends.append(("short", outcome))

    c = chain(provider, ends.yielder("outer", 1), short)
    assert (await c.complete("x")).text == "hi"
    assert provider.requests == []
    assert ends.names == ["short", "outer"]
    async with c.stream("x") as reply:
        assert await texts(reply) == "hi"


async def test_an_answer_of_a_middlewares_own_belongs_to_its_call():
    ends, runtime = Ends(), Remembering()

    @plain(500, "short")
    async def short(call: Call, call_next: Handler):
        await asyncio.sleep(3)
        yield Reply.of(Completion(message=Message("assistant", "hi"), finish_reason="stop"))
        raise Boom("late")

    await chain(MockProvider(), ends.yielder("outer", 1), short, runtime=runtime).complete("some words")
    assert [str(error) for _, error in runtime.reports] == ["late"]
    outcome = ends[0][1]
    assert outcome.committed_at == outcome.ended_at == 3.0
    assert outcome.usage.input_tokens > 0


async def test_an_iteration_error_from_inside_does_not_pass_for_the_end_of_a_generator():
    c = chain(MockProvider([StopAsyncIteration()]), Ends().yielder("outer", 1))
    with pytest.raises(RuntimeError):
        await c.complete("x")


# ------------------------------------------------------------ dropped replies


@pytest.mark.parametrize("waits", [None, 0.0])
@pytest.mark.parametrize("cycle", [False, True])
async def test_a_dropped_reply_is_closed_and_its_frames_resumed(waits: float | None, cycle: bool):
    ends, provider = Ends(), MockProvider("hello there")

    @plain(500, "cyclic")
    async def cyclic(call: Call, call_next: Handler):
        reply = await call_next(call)  # the frame holds the reply, and the reply the frame
        outcome = yield reply
        if waits is not None:
            await asyncio.sleep(waits)
        ends.append(("cyclic", outcome))

    layer = cyclic if cycle else ends.yielder("cyclic", waits=waits)
    c = chain(provider, ends.yielder("outer", 1), layer, ends.yielder("inner", 900))
    reply = await c(c.new_call(Request(messages="x", stream=True)))
    await anext(reply)
    with pytest.warns(ResourceWarning, match="never closed"):
        del reply
        gc.collect()
    await turns()
    assert provider.open == 0
    assert ends.names == ["inner", "cyclic", "outer"]
    assert ends.statuses == ["abandoned"] * 3


async def test_a_dropped_reply_is_closed_at_once_and_not_when_garbage_is_next_collected():
    ends, provider = Ends(), MockProvider("hello there")
    c = chain(provider, ends.yielder("outer", 1), ends.yielder("inner", 900))
    gc.collect()
    gc.disable()
    try:
        reply = await c(c.new_call(Request(messages="x", stream=True)))
        await anext(reply)
        with pytest.warns(ResourceWarning, match="never closed"):
            del reply
        await turns()
        assert provider.open == 0
        assert ends.names == ["inner", "outer"]
    finally:
        gc.enable()


async def test_a_frame_is_never_thrown_a_generator_exit_by_the_event_loop():
    """asyncio closes forgotten async generators; a frame's end belongs to its reply."""
    ends, thrown = Ends(), []

    @plain(500, "watchful")
    async def watchful(call: Call, call_next: Handler):
        try:
            outcome = yield await call_next(call)
        except GeneratorExit:
            thrown.append(True)
            raise
        ends.append(("watchful", outcome))

    c = chain(MockProvider(default="hello there"), watchful)
    for _ in range(20):
        reply = await c(c.new_call(Request(messages="x", stream=True)))
        await anext(reply)
        with pytest.warns(ResourceWarning):
            del reply
            gc.collect()
        await turns()
    assert thrown == []
    assert ends.statuses == ["abandoned"] * 20


@pytest.mark.parametrize("where", ["after the first reply", "while reading"])
@pytest.mark.parametrize("yields", [False, True])
async def test_a_coroutine_that_is_closed_by_hand_drops_its_replies_and_they_close_themselves(
    where: str, yields: bool
):
    ends, provider = Ends(), MockProvider(default=["a", Wait(100), "b"])

    @plain(500, "waiting")
    async def returning(call: Call, call_next: Handler):
        reply = await call_next(call)
        if where == "after the first reply":
            await asyncio.sleep(100)
        return reply

    @plain(500, "waiting")
    async def yielding(call: Call, call_next: Handler):
        reply = await call_next(call)
        if where == "after the first reply":
            await asyncio.sleep(100)
        yield reply

    c = chain(provider, yielding if yields else returning, ends.yielder("inner", 900))

    async def consume() -> None:
        await (await c(c.new_call(Request(messages="x", stream=True)))).full()

    work = consume()
    work.send(None)
    with pytest.warns(ResourceWarning, match="never closed"):
        work.close()
        gc.collect()
    await turns()
    assert provider.open == 0
    assert ends.statuses == ["abandoned"]


# ------------------------------------------------------------ reading byte code


async def _plain(call, call_next):
    yield await call_next(call)


async def _caught(call, call_next):
    try:
        reply = await call_next(call)
    except Boom:
        raise ValueError from None
    outcome = yield reply
    repr(outcome)


async def _finally(call, call_next):
    try:
        yield await call_next(call)
    finally:
        repr(call)


async def _branches(call, call_next):
    if call.tags:
        reply = Reply.of(Completion())
    else:
        reply = await call_next(call)
    yield reply


async def _awaits_first_in_a_loop(call, call_next):
    while True:
        reply = await call_next(call)
        if reply:
            break
    outcome = yield reply
    repr(outcome)


async def _awaits(call, call_next):
    yield await call_next(call)
    await asyncio.sleep(0)


async def _awaits_in_finally(call, call_next):
    try:
        yield await call_next(call)
    finally:
        await asyncio.sleep(0)


async def _async_with(call, call_next):
    async with asyncio.Lock():
        yield await call_next(call)


async def _loops_back(call, call_next):
    for _ in range(2):
        await asyncio.sleep(0)
        yield await call_next(call)


async def _yields_twice(call, call_next):
    reply = await call_next(call)
    yield reply
    yield reply


async def _comprehension(call, call_next):
    yield await call_next(call)
    repr([x async for x in call])


@pytest.mark.parametrize("function", [_plain, _caught, _finally, _branches, _awaits_first_in_a_loop])
def test_frames_that_await_nothing_after_their_yield_are_known(function: Any):
    assert settles_at_once(function.__code__)


@pytest.mark.parametrize(
    "function", [_awaits, _awaits_in_finally, _async_with, _loops_back, _yields_twice, _comprehension]
)
def test_frames_that_could_suspend_after_their_yield_are_known(function: Any):
    assert not settles_at_once(function.__code__)


# ------------------------------------------------------------ adopted replies


@pytest.mark.parametrize("way", ["answers", "fails", "is cancelled"])
async def test_an_adopted_reply_is_left_to_the_task_that_adopted_it(way: str):
    provider, ends, heard = MockProvider([["a", Wait(5), "b"]]), Ends(), []

    @plain(500, "shared")
    async def shared(call: Call, call_next: Handler):
        async def fly() -> None:
            async with (await call_next(call)).adopt() as reply:
                heard.append(await texts(reply))

        call.runtime.spawn(fly(), "flight")
        await asyncio.sleep(1)
        if way == "fails":
            raise Boom
        if way == "is cancelled":
            await asyncio.sleep(100)
        return Reply.of(Completion(message=Message("assistant", "mine"), finish_reason="stop"))

    c = chain(provider, shared, ends.yielder("inner", 900))
    task = asyncio.create_task(c.stream("x").__aenter__())
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task])
    assert ends.statuses == []
    await asyncio.sleep(10)
    assert heard == ["ab"]
    assert ends.statuses == ["ok"]
    assert provider.open == 0
    if way == "answers":
        await task.result().aclose()


# ------------------------------------------------------------ the event loop's own arrangements


async def test_the_hooks_of_the_event_loop_for_other_generators_stay_as_they_are():
    before = sys.get_asyncgen_hooks()
    assert before.firstiter is not None
    seen: list[Any] = []

    @plain(500, "look")
    async def look(call: Call, call_next: Handler):
        seen.append(sys.get_asyncgen_hooks())
        outcome = yield await call_next(call)
        seen.append(sys.get_asyncgen_hooks())
        assert outcome

    await chain(MockProvider("hello"), look).complete("x")
    assert [*seen, sys.get_asyncgen_hooks()] == [before] * 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_tasks_change_nothing():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  not there in 3.11
    ends, provider = Ends(), MockProvider(default=["a", Wait(10), "b"])
    layers = [ends.yielder(f"y{at}", at, waits=0.5 if at == 1 else None) for at in range(3)]
    c = chain(provider, *layers)
    assert (await c.complete("x")).text == "ab"
    async with c.stream("x") as reply:
        assert await texts(reply) == "ab"
    async with c.stream("x") as reply:
        await anext(reply)

    async def consume() -> None:
        async with c.stream("x") as reply:
            await texts(reply)

    task = asyncio.create_task(consume())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends.names == ["y2", "y1", "y0"] * 4
    assert ends.statuses[::3] == ["ok", "ok", "abandoned", "cancelled"]
    assert provider.open == 0
