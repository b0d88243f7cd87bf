"""The mock says what its script says, full and streamed, and counts what it holds open."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from llmpipe.errors import ConfigError, RateLimited, StreamBroken
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.types import (
    Completion,
    EmbeddingRequest,
    Embeddings,
    Finish,
    Message,
    Ping,
    ReasoningDelta,
    Request,
    Start,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    UsageUpdate,
)


async def both(mock: MockProvider) -> tuple[Any, Any]:
    """The next two lines: as a full reply, and as a stream."""
    chain = Chain(mock)
    full = await chain.complete("hi")
    async with chain.stream("hi") as reply:
        async for _ in reply:
            pass
        streamed = reply.completion
    assert mock.open == 0
    return full, streamed


DONE = Completion(
    message=Message("assistant", [ToolCall("c1", "f", '{"a": 12345678}')]), finish_reason="tool_calls"
)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("a longer answer than one piece", "a longer answer than one piece"),
        (DONE, ""),
        (["a", Wait(1), "b"], "ab"),
        ([ReasoningDelta("hm"), "yes"], "yes"),
        (TextDelta("one event"), "one event"),
        ([Ping(), "pong"], "pong"),
        (lambda request: f"you said {request.messages[-1].text}", "you said hi"),
        (lambda request: lambda again: "twice", "twice"),
        ([ToolDelta(0, "c1", "f", "{}")], ""),
    ],
)
async def test_a_line_is_the_same_full_and_streamed(line, text):
    full, streamed = await both(MockProvider([line, line]))
    assert full.text == streamed.text == text
    assert full.message.tool_calls == streamed.message.tool_calls
    assert full.finish_reason == streamed.finish_reason
    assert full.finish_reason == ("tool_calls" if full.tool_calls else "stop")
    assert full.usage == streamed.usage
    assert full.usage.input_tokens > 0
    assert full.provider == streamed.provider == "mock"
    assert full.model == streamed.model == "mock-1"


async def test_pieces_have_the_size_that_was_asked_for():
    chain = Chain(MockProvider(["abcdefgh", DONE], chunk_chars=3))
    async with chain.stream("hi") as reply:
        assert [event.text async for event in reply if isinstance(event, TextDelta)] == ["abc", "def", "gh"]
    async with chain.stream("hi") as reply:
        deltas = [event async for event in reply if isinstance(event, ToolDelta)]
    assert "".join(delta.arguments for delta in deltas) == DONE.tool_calls[0].arguments
    assert all(len(delta.arguments) <= 3 for delta in deltas)
    with pytest.raises(ConfigError):
        MockProvider(chunk_chars=0)


async def test_usage_finish_and_start_of_the_script_stand():
    own: Any = [Start("id-1", "m-1"), "x", Finish("length"), UsageUpdate(Usage(7, 8))]
    for done in await both(MockProvider([own, own])):
        assert (done.id, done.model, done.finish_reason, done.usage.output_tokens) == (
            "id-1",
            "m-1",
            "length",
            8,
        )
    full, _ = await both(MockProvider(default="x", usage=Usage(1, 2)))
    assert full.usage == Usage(1, 2)


async def test_an_error_is_raised_where_it_stands():
    mock = MockProvider(
        [RateLimited("slow", retry_after=2), [RateLimited("slow")], ["a", StreamBroken("cut")]]
    )
    chain = Chain(mock)
    for _ in range(2):
        with pytest.raises(RateLimited):
            async with chain.stream("hi"):
                pass
    with pytest.raises(StreamBroken) as caught:
        async with chain.stream("hi") as reply:
            async for _ in reply:
                pass
    assert caught.value.partial.text == "a"
    assert mock.open == 0


async def test_an_error_that_is_raised_again_is_another_one():
    """A call writes its attempt into its error; the next call must not read it there."""
    error = RateLimited("slow", retry_after=2)
    chain = Chain(MockProvider(default=error))
    seen = []
    for _ in range(3):
        with pytest.raises(RateLimited) as caught:
            await chain.complete("hi")
        caught.value.provider = "marked"
        seen.append(caught.value)
    assert len({id(one) for one in seen}) == 3
    assert all((one.message, one.retry_after, one.status) == ("slow", 2, 429) for one in seen)


async def test_an_exception_of_another_kind_passes_through():
    with pytest.raises(ZeroDivisionError):
        await Chain(MockProvider([ZeroDivisionError()])).complete("hi")


async def test_waits_are_of_the_loops_time():
    loop = asyncio.get_running_loop()
    began = loop.time()
    await Chain(MockProvider([[Wait(600), "x"]])).complete("hi")
    assert loop.time() - began == pytest.approx(600)


async def test_a_script_that_has_ended_says_so_unless_there_is_a_default():
    chain = Chain(MockProvider("only this"))
    assert (await chain.complete("hi")).text == "only this"
    with pytest.raises(LookupError, match="the script of provider 'mock' has no line for request 2"):
        await chain.complete("hi")
    chain = Chain(MockProvider(["a"], default="b"))
    assert [(await chain.complete("hi")).text for _ in range(3)] == ["a", "b", "b"]


async def test_a_script_without_content_is_an_empty_reply():
    for done in await both(MockProvider([[Ping()], []])):
        assert (done.text, done.finish_reason) == ("", "stop")


async def test_requests_are_kept_in_order():
    mock = MockProvider(default="ok")
    chain = Chain(mock)
    await chain.complete("one")
    await chain.embed("two", model="e")
    assert [type(request) for request in mock.requests] == [Request, EmbeddingRequest]


@pytest.mark.parametrize("read", [0, 1, 2])
async def test_what_is_left_early_is_closed(read):
    mock = MockProvider([["a", Wait(5), "b", Wait(5), "c"]])
    async with Chain(mock).stream("hi") as reply:
        assert mock.open == 1
        for _ in range(read):
            await anext(reply)
    assert mock.open == 0


async def test_a_cancelled_call_leaves_nothing_open():
    lines: Any = ([Wait(5), "a"], ["a", Wait(5), "b"])
    for line in lines:
        mock = MockProvider([line])

        async def read(mock: MockProvider = mock) -> None:
            async with Chain(mock).stream("hi") as reply:
                async for _ in reply:
                    pass

        task = asyncio.create_task(read())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mock.open == 0


async def test_embeddings_depend_on_the_input_alone():
    chain = Chain(MockProvider(default="ok"))
    one = await chain.embed(["a", "b"], model="e", dimensions=5)
    assert [len(vector) for vector in one.vectors] == [5, 5]
    assert one.vectors[0] != one.vectors[1]
    assert one.vectors == (await chain.embed(["a", "b"], model="e", dimensions=5)).vectors
    assert one.usage.input_tokens > 0
    scripted = Embeddings(([1.0, 2.0],), "e")
    assert (await Chain(MockProvider([scripted])).embed("a")).vectors == ([1.0, 2.0],)


def test_embeddings_are_the_same_in_another_process():
    code = (
        "import asyncio\nfrom llmpipe import Chain, MockProvider\n"
        "print((asyncio.run(Chain(MockProvider(default='x')).embed('a'))).vectors)"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


async def test_documents_are_ranked_by_the_words_they_share_with_the_query():
    async with Chain(MockProvider(default="ok")) as chain:
        found = await chain.rerank("red cars", ["blue cars", "a tree", "fast red cars"], top_n=2)
    assert [(one.index, one.score) for one in found.results] == [(2, 1.0), (0, 0.5)]
    assert found.usage is not None
    assert found.usage.input_tokens > 0
