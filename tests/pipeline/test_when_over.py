"""What a middleware asks to be told of a reply's end, beside what it could have yielded for."""

from __future__ import annotations

import asyncio
import gc
from functools import partial
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import StreamBroken
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing.loop import run
from llmpipe.types import Completion, Message, Request, TextDelta
from tests.pipeline.kit import STOP, Boom, Ends, Feed, Remembering, chain, plain, streaming, turns

DONE = Completion(id="c", message=Message("assistant", "hello"), finish_reason="stop")


def teller(ends: Ends, name: str = "teller", priority: int = 500) -> Any:
    """A middleware that writes down what it is told, as `Ends.yielder` does what it is resumed with."""

    def ended(call: Call, outcome: Outcome) -> None:
        ends.append((name, outcome))

    @plain(priority, name)
    async def tells(call: Call, call_next: Handler) -> Reply:
        return (await call_next(call)).when_over(ended, call)

    return tells


def facts(outcome: Outcome) -> tuple[Any, ...]:
    result = outcome.completion
    return (
        outcome.status,
        outcome.error,
        evolve(result, id="") if isinstance(result, Completion) else result,
        outcome.usage,
        outcome.committed_at,
        outcome.ended_at,
    )


async def consume(c: Any, how: str) -> None:
    """Use a reply of `c` in one of the ways there are."""
    if how == "whole":
        await c.complete("x")
        return
    async with asyncio.timeout(5 if how == "late" else None), c.stream("x") as reply:
        if how == "begun":
            await anext(reply)
            return
        async for _ in reply:
            pass


@given(
    line=st.sampled_from(
        [
            ["a", "b"],
            ["a", Wait(1), "b"],
            ["a", Wait(9), "b"],
            ["a", StreamBroken("cut")],
            ["a", Boom("cut")],
            [],
            "hello",
            DONE,
        ]
    ),
    how=st.sampled_from(["whole", "read", "begun", "late"]),
    waits=st.sampled_from([None, 0.0]),
)
def test_who_is_told_hears_what_who_yields_does(line: Any, how: str, waits: float | None):
    async def main() -> None:
        ends, runtime = Ends(), Remembering()
        layers = [
            ends.yielder("resumed far out", 1),
            teller(ends, "told far out", 2),
            ends.yielder("between", 500, waits=waits),
            ends.yielder("resumed far in", 898),
            teller(ends, "told far in", 899),
        ]
        failed = False
        try:
            await consume(chain(MockProvider(default=line), *layers, runtime=runtime), how)
        except (Boom, StreamBroken, TimeoutError):
            failed = True
        await turns()
        assert runtime.reports == []
        if failed and how == "whole":  # there was no reply
            assert not ends
            return
        assert ends.names == ["told far in", "resumed far in", "between", "told far out", "resumed far out"]
        told = dict(ends)
        assert facts(told["told far in"]) == facts(told["resumed far in"])
        assert facts(told["told far out"]) == facts(told["resumed far out"])

    run(main())


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_told_of_the_reply_as_it_was_where_it_asked(stream: bool):
    ends = Ends()

    @plain(1, "outer")
    async def outer(call: Call, call_next: Handler):
        return (await call_next(call)).amend(lambda done: evolve(done, model="outer"))

    @plain(900, "inner")
    async def inner(call: Call, call_next: Handler):
        return (await call_next(call)).amend(lambda done: evolve(done, model="inner"))

    c = chain(MockProvider(default="hello"), outer, teller(ends), inner)
    reply = await c(c.new_call(Request(messages="x", stream=stream)))
    assert (await reply.full()).model == "outer"
    assert [outcome.completion.model for _, outcome in ends] == ["inner"]


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("error", [Boom("no"), StopAsyncIteration("no"), asyncio.CancelledError("no")])
async def test_what_it_raises_is_reported_and_the_others_are_told(error: BaseException, suspends: bool):
    def fails(call: Call, outcome: Outcome, *, more: int = 0) -> None:
        raise error

    @plain(500, "failing")
    async def failing(call: Call, call_next: Handler):
        return (await call_next(call)).when_over(partial(fails, more=1), call)

    ends, runtime = Ends(), Remembering()
    waits = 0.0 if suspends else None
    c = chain(
        MockProvider(default="hello"),
        teller(ends, "outer", 1),
        failing,
        ends.yielder("inner", 900, waits=waits),
        runtime=runtime,
    )
    done = await c.complete("x")
    assert done.text == "hello"
    assert ends.names == ["inner", "outer"]
    [(what, reported)] = runtime.reports
    assert reported is error
    assert "fails, after its reply was over" in what


async def test_who_asks_when_it_is_over_is_told_at_once():
    ends, reports = Ends(), []

    @plain(500, "reading")
    async def reading(call: Call, call_next: Handler):
        reply = await call_next(call)
        await reply.full()
        reply.when_over(lambda call, outcome: ends.append((call.id, outcome)), call)
        assert len(ends) == 1
        reply.when_over(lambda call, outcome: reports.append(1 / 0), call)
        return reply

    runtime = Remembering()
    c = chain(MockProvider(default="hello"), reading, runtime=runtime)
    call = c.new_call(Request(messages="x", stream=True))
    assert (await (await c(call)).full()) is not None
    assert ends.names == [call.id]
    assert ends.statuses == ["ok"]
    assert reports == []
    assert [type(error) for _, error in runtime.reports] == [ZeroDivisionError]


async def test_it_is_told_once_however_often_the_reply_is_closed():
    ends, feed = Ends(), Feed("a", 10.0, "b", STOP)
    c = chain(streaming(feed), teller(ends))
    reply = await c(c.new_call(Request(messages="x", stream=True)))
    assert await anext(reply) == TextDelta("a")
    await asyncio.gather(reply.aclose(), reply.aclose(), reply.aclose())
    await reply.aclose()
    assert ends.statuses == ["abandoned"]
    assert feed.closed == 1


async def test_it_is_told_of_a_reply_that_is_not_handed_on():
    ends = Ends()

    @plain(500, "twice")
    async def twice(call: Call, call_next: Handler):
        await call_next(call)
        return await call_next(call)

    await chain(MockProvider(default="hello"), twice, teller(ends, priority=900)).complete("x")
    assert ends.statuses == ["abandoned", "ok"]


async def test_it_is_told_of_a_dropped_reply_before_garbage_is_next_collected():
    ends, provider = Ends(), MockProvider("hello there")
    c = chain(provider, teller(ends, "outer", 1), teller(ends, "inner", 900))
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
        assert ends.statuses == ["abandoned", "abandoned"]
    finally:
        gc.enable()


async def test_a_whole_reply_that_nobody_reads_is_told_of_too():
    ends = Ends()
    c = chain(MockProvider(default="hello"), teller(ends))
    reply = await c(c.new_call(Request(messages="x")))
    with pytest.warns(ResourceWarning, match="never closed"):
        del reply
    await turns()
    assert ends.statuses == ["abandoned"]
