"""Cohere's SDK: what it sends is understood, and it understands what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import Document, Image, Reasoning, Text
from tests.testing.sdks.common import (
    BOTH,
    COMMAND,
    HELLO,
    PLACE,
    PNG,
    Model,
    refusing,
    results,
    saying,
)
from tests.testing.sdks.plan import Plan

cohere: Any = pytest.importorskip("cohere")

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]

SAID: Any = [{"role": "user", "content": HELLO}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": "So", "parameters": PLACE}}
    for name in ("weather", "forecast")
]


@pytest.fixture
async def command(simulator: Simulator) -> AsyncIterator[Any]:
    async with cohere.AsyncClientV2(api_key="key", base_url=simulator.url, max_retries=0) as client:
        yield client


class Streamed:
    """What a stream's events add up to."""

    def __init__(self) -> None:
        self.text = self.thinking = ""
        self.calls: dict[int, list[str]] = {}
        self.kinds: list[str] = []
        self.last: Any = None

    def add(self, event: Any) -> None:
        self.kinds.append(event.type)
        if event.type in ("content-start", "content-delta"):
            self.text += event.delta.message.content.text or ""
            self.thinking += event.delta.message.content.thinking or ""
        elif event.type == "tool-call-start":
            call = event.delta.message.tool_calls
            self.calls[event.index] = [call.id, call.function.name, call.function.arguments]
        elif event.type == "tool-call-delta":
            self.calls[event.index][2] += event.delta.message.tool_calls.function.arguments
        elif event.type == "message-end":
            self.last = event.delta


async def streamed(command: Any, **asked: Any) -> Streamed:
    found = Streamed()
    async for event in command.chat_stream(**asked):
        found.add(event)
    return found


async def test_text_is_the_same_whole_and_in_a_stream(command, simulator, model: Model):
    asked: Any = {
        "model": COMMAND,
        "messages": [{"role": "system", "content": "Be brief."}, *SAID],
        "max_tokens": 60,
        "temperature": 0.5,
        "seed": 3,
        "p": 0.9,
    }
    done = await command.chat(**asked)
    found = await streamed(command, **asked)
    assert found.text == done.message.content[0].text
    assert (done.finish_reason, found.last.finish_reason) == ("COMPLETE", "COMPLETE")
    used = simulator.book.entries[0].usage
    for usage in (done.usage, found.last.usage):
        assert (usage.tokens.input_tokens, usage.tokens.output_tokens) == (
            used.input_tokens,
            used.output_tokens,
        )
    request = model.asked[0]
    assert (request.system, request.max_tokens, request.temperature) == ("Be brief.", 60, 0.5)
    assert (request.seed, request.top_p) == (3, 0.9)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_results_and_the_answer_make_a_conversation(command, model: Model, stream: bool):
    asked: Any = {"model": COMMAND, "tools": TOOLS, "messages": [{"role": "user", "content": BOTH}]}
    if stream:
        found = await streamed(command, **asked)
        calls = list(found.calls.values())
        said: Any = {
            "role": "assistant",
            "tool_calls": [
                {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}
                for key, name, arguments in calls
            ],
        }
        assert found.last.finish_reason == "TOOL_CALL"
    else:
        done = await command.chat(**asked)
        said = done.message
        calls = [[call.id, call.function.name, call.function.arguments] for call in said.tool_calls]
        assert done.finish_reason == "TOOL_CALL"
    assert [(name, json.loads(arguments)) for _, name, arguments in calls] == [
        ("weather", {"place": "Paris"}),
        ("forecast", {"place": "Paris"}),
    ]
    told = {key: f"sunny after {name}" for key, name, _ in calls}
    answers: Any = [
        {"role": "tool", "tool_call_id": key, "content": [{"type": "document", "document": {"data": said}}]}
        for key, said in told.items()
    ]
    answers[0]["content"] = told[answers[0]["tool_call_id"]]  # a string will do as well
    last = await command.chat(**{**asked, "messages": [*asked["messages"], said, *answers]})
    assert last.message.content[0].text
    assert list(results(model.asked[1])) == list(told)
    assert results(model.asked[1])[answers[0]["tool_call_id"]] == answers[0]["content"]
    none = await command.chat(**asked, tool_choice="NONE")
    assert not none.message.tool_calls
    required = await command.chat(**asked, tool_choice="REQUIRED")
    assert required.message.tool_calls


async def test_pictures_and_documents_arrive(command, model: Model):
    said: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}},
    ]
    papers: Any = ["Notes", {"id": "d1", "data": {"title": "A paper", "snippet": "Facts"}}]
    done = await command.chat(
        model="command-a-vision-07-2025", messages=[{"role": "user", "content": said}], documents=papers
    )
    assert done.message.content[0].text
    notes, facts, text, near, far = model.parts
    assert isinstance(notes, Document)
    assert notes.text == "Notes"
    assert isinstance(facts, Document)
    assert text == Text("What is this?")
    assert isinstance(near, Image)
    assert (near.data, near.media_type) == (PNG, "image/png")
    assert isinstance(far, Image)
    assert far.url == "https://pictures.example/cat.png"


async def test_structured_output_is_json_of_the_schema(command, model: Model):
    form: Any = {"type": "json_object", "schema": Plan.model_json_schema()}
    done = await command.chat(model=COMMAND, messages=SAID, response_format=form)
    plan = Plan.model_validate_json(done.message.content[0].text)
    found = await streamed(command, model=COMMAND, messages=SAID, response_format=form)
    assert Plan.model_validate_json(found.text) == plan
    assert [r.response_format.type for r in model.asked if r.response_format] == ["json_schema"] * 2
    plain = await command.chat(model=COMMAND, messages=SAID, response_format={"type": "json_object"})
    assert json.loads(plain.message.content[0].text) == {"answer": "yes"}


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_is_shown_and_comes_back(command, model: Model, stream: bool):
    model.script = saying(Reasoning("Let me think."), Text("Hello."))
    asked: Any = {
        "model": "command-a-reasoning-08-2025",
        "messages": SAID,
        "thinking": {"type": "enabled", "token_budget": 512},
    }
    if stream:
        found = await streamed(command, **asked)
        assert (found.thinking, found.text) == ("Let me think.", "Hello.")
        assert found.kinds.count("content-start") == found.kinds.count("content-end") == 2
        said: Any = {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": found.thinking},
                {"type": "text", "text": found.text},
            ],
        }
    else:
        said = (await command.chat(**asked)).message
        assert [block.type for block in said.content] == ["thinking", "text"]
    await command.chat(**{**asked, "messages": [*SAID, said, *SAID]})
    assert model.asked[1].messages[1].parts == (Reasoning("Let me think."), Text("Hello."))
    options = model.asked[1].reasoning
    assert options is not None
    assert (options.enabled, options.max_tokens) == (True, 512)


async def test_how_a_reply_ends_is_told(command, model: Model):
    for finish, reason in (("length", "MAX_TOKENS"), ("stop", "COMPLETE")):
        model.script = saying(Text("A"), finish=finish)
        assert (await command.chat(model=COMMAND, messages=SAID)).finish_reason == reason
        found = await streamed(command, model=COMMAND, messages=SAID)
        assert found.last.finish_reason == reason


async def test_vectors_rankings_and_models(command):
    found = await command.embed(
        model="embed-v4.0",
        texts=["one", "two"],
        input_type="search_document",
        embedding_types=["float"],
        output_dimension=5,
    )
    assert [len(vector) for vector in found.embeddings.float_] == [5, 5]
    assert found.meta.billed_units.input_tokens > 0
    ranked = await command.rerank(
        model="rerank-v3.5",
        query="red cars",
        documents=["a blue car", "some red cars", "a red car"],
        top_n=2,
    )
    assert [result.index for result in ranked.results] == [1, 2]
    assert ranked.results[0].relevance_score > ranked.results[1].relevance_score
    listed = await command.models.list(page_size=100)
    assert COMMAND in [one.name for one in listed.models]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "BadRequestError"),
        (401, "UnauthorizedError"),
        (403, "ForbiddenError"),
        (404, "NotFoundError"),
        (422, "UnprocessableEntityError"),
        (429, "TooManyRequestsError"),
        (500, "InternalServerError"),
        (503, "ServiceUnavailableError"),
    ],
)
async def test_errors_are_the_sdks_own(command, simulator, status: int, kind: str, stream: bool):
    refusing(simulator, status)
    with pytest.raises(getattr(cohere, kind)) as caught:
        if stream:
            await streamed(command, model=COMMAND, messages=SAID)
        else:
            await command.chat(model=COMMAND, messages=SAID)
    assert caught.value.status_code == status
    assert caught.value.body["message"] == f"simulated {status}"
    assert caught.value.headers["retry-after"] == "3"
    with pytest.raises(getattr(cohere, kind)):
        await command.rerank(model="rerank-v3.5", query="a", documents=["b"])


async def test_a_wrong_key_and_a_wrong_field_are_refused(command, simulator):
    with pytest.raises(cohere.BadRequestError) as caught:
        await command.chat(model=COMMAND, messages=[{"role": "user", "content": 7}])
    assert caught.value.body["message"].startswith("messages[0].content")
    simulator.keys = {"another"}
    with pytest.raises(cohere.UnauthorizedError):
        await command.chat(model=COMMAND, messages=SAID)


async def test_a_stream_that_breaks_is_no_success(command, simulator):
    simulator.rules = (Rule(Fault(error_after=3)),)
    found = await streamed(command, model=COMMAND, messages=SAID)
    assert (found.last.finish_reason, found.last.error) == ("ERROR", "simulated 529")
    simulator.rules = (Rule(Fault(cut_after=3)),)
    with pytest.raises(Exception, match=r"closed|incomplete|Connection") as cut:
        await streamed(command, model=COMMAND, messages=SAID)
    assert not isinstance(cut.value, AssertionError)
    assert simulator.book.ends["broken"] == 2


async def test_a_client_without_asyncio_works_as_well(simulator):
    def calls() -> tuple[str, str]:
        found = Streamed()
        with cohere.ClientV2(api_key="key", base_url=simulator.url, max_retries=0) as client:
            done = client.chat(model=COMMAND, messages=SAID)
            for event in client.chat_stream(model=COMMAND, messages=SAID):
                found.add(event)
        return done.message.content[0].text, found.text

    whole, in_pieces = await asyncio.to_thread(calls)
    assert whole == in_pieces
