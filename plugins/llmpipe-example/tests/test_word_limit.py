from __future__ import annotations

import asyncio
from importlib.metadata import entry_points

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe import Chain, ConfigError, Embeddings, MockProvider, Reasoning, ToolCall
from llmpipe.pipeline import registry
from llmpipe.testing import conform
from llmpipe.types import Completion, Message, Text, fold
from llmpipe_example import WordLimit


async def streamed(chain: Chain) -> Completion:
    async with chain.stream("go on") as reply:
        return fold([event async for event in reply])


@pytest.mark.parametrize(
    ("text", "kept"),
    [("one two three four", "one two three "), ("one\ntwo  three", "one\ntwo  three"), ("", ""), ("x", "x")],
)
async def test_a_full_and_a_streamed_reply_are_cut_at_the_same_place(text: str, kept: str):
    chain = Chain(MockProvider(default=text, chunk_chars=3), WordLimit(words=3))
    for done in (await chain.complete("go on"), await streamed(chain)):
        assert done.text == kept
        assert done.finish_reason == ("length" if kept != text else "stop")


@given(st.text(alphabet="ab \n\u3000", max_size=40), st.integers(1, 6), st.integers(1, 5))
def test_the_cut_does_not_depend_on_how_the_stream_is_cut(text: str, words: int, size: int):
    async def both() -> tuple[Completion, Completion]:
        chain = Chain(MockProvider(default=text or " ", chunk_chars=size), WordLimit(words=words))
        return await chain.complete("go on"), await streamed(chain)

    full, stream = asyncio.run(both())
    assert full.text == stream.text
    assert full.finish_reason == stream.finish_reason
    assert full.text.split() == text.split()[:words]


async def test_it_keeps_the_laws_of_a_middleware_however_a_call_goes():
    report = await conform(lambda: WordLimit(words=3))
    assert report.cancellations > 100


async def test_reasoning_and_tool_calls_pass_untouched():
    parts = (Reasoning("a b c"), Text("one two"), ToolCall("id", "name", '{"a": 1}'))
    answer = Completion(message=Message("assistant", parts), finish_reason="tool_calls")
    done = await Chain(MockProvider(default=answer), WordLimit(words=1)).complete("go on")
    assert (done.reasoning, done.text, done.finish_reason) == ("a b c", "one ", "length")
    assert [call.arguments for call in done.tool_calls] == ['{"a": 1}']


async def test_embeddings_pass_untouched():
    chain = Chain(MockProvider(default=Embeddings(((1.0, 2.0),))), WordLimit(words=1))
    assert (await chain.embed(["some text here"])).vectors == ((1.0, 2.0),)


def test_it_is_found_by_its_entry_point_and_built_from_settings():
    assert "word_limit" in {point.name for point in entry_points(group=registry.GROUP)}
    assert registry.build("word_limit", {"words": 5}) == WordLimit(words=5)
    assert registry.origin("word_limit").startswith("llmpipe-example ")


@pytest.mark.parametrize("settings", [{}, {"words": 0}, {"words": "5"}, {"word": 5}])
def test_a_bad_setting_is_refused_at_construction(settings: dict[str, object]):
    with pytest.raises(ConfigError, match="word_limit"):
        registry.build("word_limit", settings)
