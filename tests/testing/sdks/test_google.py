"""Google's Gen AI SDK: what it sends is understood, and it understands what comes back."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import Document, Image, Reasoning, Text, ToolCall
from tests.testing.sdks.common import (
    BOTH,
    GEMINI,
    HELLO,
    PDF,
    PLACE,
    PNG,
    Model,
    refusing,
    results,
    saying,
)
from tests.testing.sdks.plan import Plan

genai: Any = pytest.importorskip("google.genai")
types: Any = pytest.importorskip("google.genai.types")
errors: Any = pytest.importorskip("google.genai.errors")

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # of parts that are no text, as .text is read
]

TOOLS: Any = [
    {
        "function_declarations": [
            {"name": "weather", "description": "Now", "parameters_json_schema": PLACE},
            {
                "name": "forecast",
                "parameters": {"type": "OBJECT", "properties": {"place": {"type": "STRING"}}},
            },
        ]
    }
]
SIGNATURE = base64.b64encode(b"sig\xff").decode()


@pytest.fixture
async def gemini(simulator: Simulator) -> AsyncIterator[Any]:
    client = genai.Client(api_key="key", http_options=types.HttpOptions(base_url=simulator.url)).aio
    yield client
    await client.aclose()


async def ask(gemini: Any, contents: Any, config: Any = None, *, stream: bool) -> tuple[list[Any], Any]:
    """All parts of an answer, and the last response of it."""
    if not stream:
        done = await gemini.models.generate_content(model=GEMINI, contents=contents, config=config)
        return done.candidates[0].content.parts, done
    parts: list[Any] = []
    async for done in await gemini.models.generate_content_stream(
        model=GEMINI, contents=contents, config=config
    ):
        content = done.candidates[0].content
        parts += (content.parts or []) if content is not None else []
    return parts, done


async def test_text_is_the_same_whole_and_in_a_stream(gemini, simulator, model: Model):
    config: Any = {"system_instruction": "Be brief.", "max_output_tokens": 60, "temperature": 0.5, "seed": 3}
    whole, done = await ask(gemini, HELLO, config, stream=False)
    pieces, last = await ask(gemini, HELLO, config, stream=True)
    assert len(pieces) > 2
    assert "".join(part.text for part in pieces) == whole[0].text == done.text
    for one in (done, last):
        assert one.candidates[0].finish_reason == types.FinishReason.STOP
        assert one.model_version == GEMINI
        used = simulator.book.entries[0].usage
        assert (one.usage_metadata.prompt_token_count, one.usage_metadata.candidates_token_count) == (
            used.input_tokens,
            used.output_tokens,
        )
    request = model.asked[0]
    assert (request.system, request.max_tokens, request.temperature, request.seed) == (
        "Be brief.",
        60,
        0.5,
        3,
    )
    assert [request.stream for request in model.asked] == [False, True]


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_results_and_the_answer_make_a_conversation(gemini, model: Model, stream: bool):
    config: Any = {"tools": TOOLS}
    said, _ = await ask(gemini, BOTH, config, stream=stream)
    calls = [part.function_call for part in said if part.function_call]
    assert [(call.name, call.args) for call in calls] == [
        ("weather", {"place": "Paris"}),
        ("forecast", {"place": "Paris"}),
    ]
    told = [
        types.Part(
            function_response=types.FunctionResponse(
                id=call.id, name=call.name, response={"output": f"sunny after {call.name}"}
            )
        )
        for call in calls
    ]
    contents = [
        types.UserContent(BOTH),
        types.ModelContent(said),
        types.Content(role="user", parts=told),
    ]
    parts, _ = await ask(gemini, contents, config, stream=stream)
    assert parts[0].text
    asked = model.asked[1]
    ids = [call.id for message in asked.messages for call in message.tool_calls]
    assert list(results(asked)) == ids == [call.id for call in calls]
    assert [text for text in results(asked).values() if "sunny after" not in text] == []

    only: Any = {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["forecast"]}}
    parts, _ = await ask(gemini, HELLO, {**config, "tool_config": only}, stream=stream)
    assert [part.function_call.name for part in parts if part.function_call] == ["forecast"]


async def test_the_sdk_calls_functions_by_itself(gemini, model: Model):
    called: list[str] = []

    async def weather(place: str) -> str:
        """The weather.

        Args:
            place: Where.
        """
        called.append(place)
        return f"sunny in {place}"

    chat = gemini.chats.create(model=GEMINI, config={"tools": [weather]})
    done = await chat.send_message(HELLO)
    assert done.text
    assert called == ["Paris"]
    (result,) = results(model.asked[1]).values()
    assert "sunny in Paris" in result
    again = [chunk.text or "" async for chunk in await chat.send_message_stream("Once more")]
    assert "".join(again)
    assert called == ["Paris", "Paris"]
    assert [message.role for message in model.asked[-1].messages][-2:] == ["assistant", "tool"]


async def test_pictures_and_documents_arrive(gemini, model: Model):
    said = [
        "What is this?",
        types.Part.from_bytes(data=base64.b64decode(PNG), mime_type="image/png"),
        types.Part.from_uri(file_uri="https://pictures.example/cat.png", mime_type="image/png"),
        types.Part.from_bytes(data=base64.b64decode(PDF), mime_type="application/pdf"),
    ]
    parts, _ = await ask(gemini, said, stream=False)
    assert parts[0].text
    text, near, far, paper = model.parts
    assert text == Text("What is this?")
    assert isinstance(near, Image)
    assert (near.data, near.media_type) == (PNG, "image/png")
    assert isinstance(far, Image)
    assert far.url == "https://pictures.example/cat.png"
    assert isinstance(paper, Document)
    assert paper.data == PDF


async def test_structured_output_is_parsed(gemini, model: Model):
    for schema in ({"response_schema": Plan}, {"response_json_schema": Plan.model_json_schema()}):
        config: Any = {"response_mime_type": "application/json", **schema}
        done = await gemini.models.generate_content(model=GEMINI, contents=HELLO, config=config)
        if "response_schema" in schema:
            assert isinstance(done.parsed, Plan)
        assert Plan.model_validate_json(done.text).steps[0].kind == "think"
    assert [r.response_format.type for r in model.asked if r.response_format] == ["json_schema"] * 2
    plain: Any = {"response_mime_type": "application/json"}
    done = await gemini.models.generate_content(model=GEMINI, contents=HELLO, config=plain)
    assert done.parsed == {"answer": "yes"} or done.text == '{"answer": "yes"}'


@pytest.mark.parametrize("stream", [False, True])
async def test_thoughts_are_shown_and_their_signature_comes_back(gemini, model: Model, stream: bool):
    answer = (
        Reasoning("Let me think."),
        Reasoning("", SIGNATURE, origin="gemini.generate"),
        ToolCall("call_1", "weather", '{"place":"Paris"}'),
    )
    model.script = saying(*answer, finish="tool_calls")
    config: Any = {"tools": TOOLS, "thinking_config": {"include_thoughts": True, "thinking_budget": 512}}
    parts, _ = await ask(gemini, HELLO, config, stream=stream)
    thoughts = [part for part in parts if part.thought]
    assert "".join(part.text for part in thoughts) == "Let me think."
    (signed,) = [part for part in parts if part.function_call]
    assert signed.thought_signature == b"sig\xff"
    contents = [types.UserContent(HELLO), types.ModelContent(parts), types.UserContent("Go on")]
    await ask(gemini, contents, config, stream=stream)
    back = [part for part in model.asked[1].messages[1].parts if part != Text("")]  # a stream's last part
    proof, call = back[-2:]
    assert call == answer[-1]
    assert isinstance(proof, Reasoning)
    assert base64.urlsafe_b64decode(proof.signature or "") == b"sig\xff"  # the SDK's alphabet
    assert proof.origin == "gemini.generate"
    options = model.asked[1].reasoning
    assert options is not None
    assert options.max_tokens == 512


@pytest.mark.parametrize("stream", [False, True])
async def test_how_a_reply_ends_is_told(gemini, model: Model, stream: bool):
    for finish, reason in (("length", "MAX_TOKENS"), ("content_filter", "SAFETY"), ("stop", "STOP")):
        model.script = saying(Text("A"), finish=finish)
        _, done = await ask(gemini, HELLO, stream=stream)
        assert done.candidates[0].finish_reason == types.FinishReason[reason]


async def test_vectors_counts_and_models(gemini):
    found = await gemini.models.embed_content(
        model="gemini-embedding-001", contents=["one", "two"], config={"output_dimensionality": 5}
    )
    assert [len(item.values) for item in found.embeddings] == [5, 5]
    assert found.embeddings[0].values != found.embeddings[1].values
    counted = await gemini.models.count_tokens(model=GEMINI, contents=HELLO)
    _, done = await ask(gemini, HELLO, stream=False)
    assert counted.total_tokens == done.usage_metadata.prompt_token_count
    listed = [one.name async for one in await gemini.models.list()]
    assert f"models/{GEMINI}" in listed


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
    ],
)
async def test_errors_are_the_sdks_own(gemini, simulator, status: int, word: str, stream: bool):
    refusing(simulator, status)
    with pytest.raises(errors.ClientError if status < 500 else errors.ServerError) as caught:
        await ask(gemini, HELLO, stream=stream)
    assert (caught.value.code, caught.value.status) == (status, word)
    assert f"simulated {status}" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "3"


async def test_a_wrong_field_is_named(gemini):
    config: Any = {"http_options": {"extra_body": {"generationConfig": {"temperature": "warm"}}}}
    with pytest.raises(errors.ClientError, match=r"generationConfig\.temperature"):
        await ask(gemini, HELLO, config, stream=False)


async def test_a_stream_that_breaks_is_no_success(gemini, simulator):
    simulator.rules = (Rule(Fault(error_after=3)),)
    with pytest.raises(errors.ServerError, match="simulated 529") as caught:
        await ask(gemini, HELLO, stream=True)
    assert (caught.value.code, caught.value.status) == (503, "UNAVAILABLE")  # Google has no 529
    simulator.rules = (Rule(Fault(cut_after=3)),)
    with pytest.raises(Exception, match=r"closed|incomplete|Connection|payload") as cut:
        await ask(gemini, HELLO, stream=True)
    assert not isinstance(cut.value, AssertionError)
    assert simulator.book.ends["broken"] == 2


async def test_a_client_without_asyncio_works_as_well(simulator):
    def calls() -> tuple[str, str]:
        options = types.HttpOptions(base_url=simulator.url)
        with genai.Client(api_key="key", http_options=options) as client:
            done = client.models.generate_content(model=GEMINI, contents=HELLO)
            chunks = client.models.generate_content_stream(model=GEMINI, contents=HELLO)
            return done.text, "".join(chunk.text or "" for chunk in chunks)

    whole, streamed = await asyncio.to_thread(calls)
    assert whole == streamed


async def test_vertex_is_the_same_wire_at_another_address(simulator, model: Model):
    simulator.keys = {"key"}
    options = types.HttpOptions(base_url=simulator.url)
    client = genai.Client(vertexai=True, api_key="key", http_options=options).aio
    whole, _ = await ask(client, HELLO, stream=False)
    pieces, _ = await ask(client, HELLO, stream=True)
    assert "".join(part.text or "" for part in pieces) == whole[0].text
    found = await client.models.embed_content(model="text-embedding-005", contents=["one", "two"])
    assert len(found.embeddings) == 2
    counted = await client.models.count_tokens(model=GEMINI, contents=HELLO)
    assert counted.total_tokens
    await client.aclose()
    assert {request.model for request in model.asked} == {GEMINI}
    assert simulator.book.entries[0].path.endswith(f"/publishers/google/models/{GEMINI}:generateContent")
