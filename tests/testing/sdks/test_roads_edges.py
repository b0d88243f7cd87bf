"""The whole road where it is narrow: what one wire says and another does not."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe.types import Reasoning, Text, ToolCall, ToolResult
from tests.testing.sdks.callers import CALLERS
from tests.testing.sdks.common import BOTH, EMBED, HELLO, saying
from tests.testing.sdks.roads import CALLS, PROVIDERS, every_road, road

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@every_road
async def test_a_call_without_arguments_is_an_empty_object(inbound: str, outbound: str, stream: bool):
    async with road(inbound, outbound) as way:
        way.model.script = saying(ToolCall("call_1", "weather", "{}"), finish="tool_calls")
        way.caller.user(HELLO)
        said = await way.caller.ask(stream=stream, tools=True)
        assert [(name, arguments) for _, name, arguments in said.calls] == [("weather", {})]
        way.caller.results({said.calls[0][0]: ""})
        way.model.script = saying(Text("Nothing came."))
        assert (await way.caller.ask(stream=stream, tools=True)).text == "Nothing came."
        (call,) = [part for part in way.model.parts if isinstance(part, ToolCall)]
        assert (call.id, call.arguments) == ("call_1", "{}")
        (result,) = [part for part in way.model.parts if isinstance(part, ToolResult)]
        assert (result.id, result.text) == ("call_1", "")


@pytest.mark.parametrize("stream", [pytest.param(False, id="full"), pytest.param(True, id="stream")])
@pytest.mark.parametrize("inbound", list(CALLERS))
async def test_calls_without_ids_are_answered_in_their_order(inbound: str, stream: bool):
    """Gemini's API often gives none, and every other wire needs them."""
    async with road(inbound, "gemini.generate") as way:
        calls = [ToolCall("", "weather", f'{{"place":"{place}"}}') for place in ("Paris", "Rome")]
        seen: set[str] = set()
        way.caller.user(BOTH)
        for _ in range(2):
            way.model.script = saying(*calls, finish="tool_calls")
            said = await way.caller.ask(stream=stream, tools=True)
            assert [arguments["place"] for _, _, arguments in said.calls] == ["Paris", "Rome"]
            told = {key: f"sunny in {arguments['place']}" for key, _, arguments in said.calls}
            assert seen.isdisjoint(told)
            seen |= told.keys()
            assert len(told) == 2
            way.caller.results(told)
        way.model.script = saying(Text("Sunny."))
        assert (await way.caller.ask(stream=stream, tools=True)).text == "Sunny."
        parts = way.model.parts
        made = [part for part in parts if isinstance(part, ToolCall)]
        answers = [part for part in parts if isinstance(part, ToolResult)]
        assert [call.arguments for call in made] == [call.arguments for call in calls] * 2
        assert ["Paris" in part.text for part in answers] == [True, False] * 2


@every_road
async def test_a_reply_at_its_limit_says_so(inbound: str, outbound: str, stream: bool):
    async with road(inbound, outbound) as way:
        way.model.script = saying(Text("A lon"), finish="length")
        way.caller.user(HELLO)
        if inbound == "openai.chat":  # its SDK has an error for it
            with pytest.raises(Exception, match="length limit was reached") as caught:
                await way.caller.ask(stream=stream)
            error: Any = caught.value
            assert error.completion.choices[0].message.content == "A lon"
            return
        said = await way.caller.ask(stream=stream)
        assert (said.text, said.finish) == ("A lon", way.caller.words[2])


@every_road
async def test_no_empty_texts_and_no_pieces_come_of_a_long_conversation(
    inbound: str, outbound: str, stream: bool
):
    """Some SDKs keep a streamed answer in its pieces; a provider is told it as it was said."""
    text = "First this, then that.\n\nAnd – at last – the end of it."
    async with road(inbound, outbound) as way:
        way.model.script = saying(Reasoning("I take my time to think."), Text(text))
        for _ in range(3):
            way.caller.user(HELLO)
            assert (await way.caller.ask(stream=stream, think=True)).text == text
        told = [message for message in way.model.asked[-1].messages if message.role == "assistant"]
        assert len(told) == 2
        for message in told:
            assert [part.text for part in message.parts if isinstance(part, Text)] == [text]
            assert len([part for part in message.parts if isinstance(part, Reasoning)]) <= 1


@pytest.mark.parametrize("stream", [pytest.param(False, id="full"), pytest.param(True, id="stream")])
@pytest.mark.parametrize("inbound", [name for name in CALLERS if name != "cohere.chat"])
async def test_several_thoughts_keep_their_proofs_and_their_order(inbound: str, stream: bool):
    thoughts = (
        Reasoning("First this.", "c2lnMQ=="),
        Reasoning(encrypted="c2VjcmV0"),
        Reasoning("Then that, and a little more.", "c2lnMg=="),
    )
    async with road(inbound, "anthropic.messages") as way:
        way.model.script = saying(*thoughts, Text("I look."), *CALLS, finish="tool_calls")
        way.caller.user(BOTH)
        said = await way.caller.ask(stream=stream, tools=True, think=True)
        assert said.thinking == "First this.Then that, and a little more."
        way.caller.results({key: "sunny" for key, _, _ in said.calls})
        await way.caller.ask(stream=stream, tools=True, think=True)
        back = [part for part in way.model.parts if isinstance(part, Reasoning)]
        assert back == list(thoughts)
        (turn,) = [message for message in way.model.asked[1].messages if message.role == "assistant"]
        kinds = [type(part) for part in turn.parts]
        assert kinds == [Reasoning] * 3 + [Text, ToolCall, ToolCall]


@pytest.mark.parametrize("stream", [pytest.param(False, id="full"), pytest.param(True, id="stream")])
@pytest.mark.parametrize("inbound", [name for name in CALLERS if name != "cohere.chat"])
async def test_each_step_of_a_long_turn_keeps_its_own_signature(inbound: str, stream: bool):
    """Gemini signs the first call of each step, and refuses a turn in which one is missing."""
    async with road(inbound, "gemini.generate") as way:
        way.caller.user(BOTH)
        for step in (b"1", b"2", b"3"):
            signature = f"c2ln{step.hex()}"  # eight characters: base64 of something
            parts = (Reasoning("", f"{signature}AA"), *CALLS)
            way.model.script = saying(*parts, finish="tool_calls")
            said = await way.caller.ask(stream=stream, tools=True, think=True)
            way.caller.results({key: "sunny" for key, _, _ in said.calls})
        way.model.script = saying(Text("Sunny."))
        await way.caller.ask(stream=stream, tools=True, think=True)
        kinds: list[Any] = []
        for message in way.model.asked[-1].messages:
            for part in message.parts:
                if isinstance(part, Reasoning):
                    kinds.append(part.signature)
                elif isinstance(part, ToolCall):
                    kinds.append(part.name)
        assert kinds == [
            *("c2ln31AA", "weather", "forecast"),
            *("c2ln32AA", "weather", "forecast"),
            *("c2ln33AA", "weather", "forecast"),
        ]


async def _vectors(inbound: str, client: Any) -> list[list[float]]:
    if inbound == "openai.chat":
        client._strict_response_validation = False  # it looks before it has unpacked the numbers
        done = await client.embeddings.create(model=EMBED, input=["one", "two"], dimensions=6)
        return [item.embedding for item in done.data]
    if inbound == "gemini.generate":
        done = await client.models.embed_content(
            model=EMBED, contents=["one", "two"], config={"output_dimensionality": 6}
        )
        return [item.values for item in done.embeddings]
    done = await client.embed(
        model=EMBED,
        texts=["one", "two"],
        input_type="search_query",
        embedding_types=["float"],
        output_dimension=6,
    )
    vectors: list[list[float]] = done.embeddings.float_
    return vectors


@pytest.mark.parametrize("outbound", ["openai.chat", "gemini.generate", "cohere.chat"])
@pytest.mark.parametrize("inbound", ["openai.chat", "gemini.generate", "cohere.chat"])
async def test_vectors_are_the_same_whoever_asks(inbound: str, outbound: str):
    async with road(inbound, outbound) as way:
        caller: Any = way.caller
        one, two = await _vectors(inbound, caller.client)
        assert len(one) == len(two) == 6
        assert one != two
        # The simulator's: a digest of the text, in shares of 255.
        assert all(round(value * 255, 3) == pytest.approx(round(value * 255), abs=0.01) for value in one)


async def test_a_ranking_comes_through():
    async with road("cohere.chat", "cohere.chat") as way:
        caller: Any = way.caller
        done = await caller.client.rerank(
            model="rerank-v3.5", query="red cars", documents=["a blue car", "some red cars"], top_n=1
        )
        assert [result.index for result in done.results] == [1]


def test_every_dialect_with_a_servers_side_is_driven():
    assert set(CALLERS) == set(PROVIDERS)
