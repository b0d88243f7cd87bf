"""Anthropic's SDK: what it sends is understood, and it understands what comes back."""

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
    CLAUDE,
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

anthropic: Any = pytest.importorskip("anthropic")

pytestmark = pytest.mark.real_time

SAID: Any = [{"role": "user", "content": HELLO}]
TOOLS: Any = [{"name": name, "input_schema": PLACE} for name in ("weather", "forecast")]


@pytest.fixture
async def claude(simulator: Simulator) -> AsyncIterator[Any]:
    async with anthropic.AsyncAnthropic(
        api_key="sk-test",
        base_url=simulator.url,
        max_retries=0,
        _strict_response_validation=True,  # nothing missing, nothing of another kind
    ) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_results_and_the_answer_make_a_conversation(claude, model: Model, stream: bool):
    asked: Any = {
        "model": CLAUDE,
        "max_tokens": 99,
        "tools": TOOLS,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": BOTH}],
    }
    if stream:
        async with claude.messages.stream(**asked) as events:
            inputs = [event async for event in events if event.type == "input_json"]
            first = await events.get_final_message()
        assert inputs[-1].snapshot == {"place": "Paris"}
    else:
        first = await claude.messages.create(**asked)
    assert [(block.name, block.input) for block in first.content] == [
        ("weather", {"place": "Paris"}),
        ("forecast", {"place": "Paris"}),
    ]
    told = {block.id: f"sunny after {block.name}" for block in first.content}
    answers: Any = [
        {"type": "tool_result", "tool_use_id": key, "content": said} for key, said in told.items()
    ]
    answers[1] |= {"is_error": True, "content": [{"type": "text", "text": answers[1]["content"]}]}
    more: Any = [
        *asked["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": answers},
    ]
    last = await claude.messages.create(**{**asked, "messages": more})
    assert (last.stop_reason, last.content[0].type) == ("end_turn", "text")
    assert results(model.asked[1]) == told
    assert model.asked[1].system == "Be brief."

    named: Any = {"type": "tool", "name": "forecast", "disable_parallel_tool_use": True}
    chosen = await claude.messages.create(**asked, tool_choice=named)
    assert [block.name for block in chosen.content] == ["forecast"]
    none = await claude.messages.create(**asked, tool_choice={"type": "none"})
    assert none.stop_reason == "end_turn"


async def test_the_sdk_runs_tools_by_itself(claude, model: Model):
    called: list[str] = []

    @anthropic.beta_async_tool  # type: ignore[untyped-decorator]  # imported only where it is
    async def weather(place: str) -> str:
        """The weather.

        Args:
            place: Where.
        """
        called.append(place)
        return f"sunny in {place}"

    for stream in (False, True):
        runner = claude.beta.messages.tool_runner(
            model=CLAUDE, max_tokens=99, tools=[weather], messages=SAID, stream=stream
        )
        final = await runner.until_done()
        assert final.stop_reason == "end_turn"
        assert list(results(model.asked[-1]).values()) == ["sunny in Paris"]
    assert called == ["Paris", "Paris"]


async def test_pictures_and_documents_arrive(claude, model: Model):
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    paper_source = {"type": "base64", "media_type": "application/pdf", "data": PDF}
    said: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": source},
        {"type": "image", "source": {"type": "url", "url": "https://pictures.example/cat.png"}},
        {"type": "document", "source": paper_source, "title": "A paper"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Notes"}},
    ]
    done = await claude.messages.create(
        model=CLAUDE, max_tokens=99, messages=[{"role": "user", "content": said}]
    )
    assert done.content[0].text
    text, near, far, paper, notes = model.parts
    assert isinstance(text, Text)
    assert isinstance(near, Image)
    assert (near.data, near.media_type) == (PNG, "image/png")
    assert isinstance(far, Image)
    assert far.url == "https://pictures.example/cat.png"
    assert isinstance(paper, Document)
    assert (paper.data, paper.name) == (PDF, "A paper")
    assert isinstance(notes, Document)
    assert notes.text == "Notes"


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_is_shown_and_its_signature_comes_back(claude, model: Model, stream: bool):
    thoughts = (Reasoning("Let me think.", signature="c2ln"), Reasoning(encrypted="c2VjcmV0"))
    model.script = saying(*thoughts, Text("Hello."))
    asked: Any = {
        "model": CLAUDE,
        "max_tokens": 2000,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": SAID,
    }
    if stream:
        async with claude.messages.stream(**asked) as events:
            seen = [event async for event in events]
            done = await events.get_final_message()
        assert "".join(event.thinking for event in seen if event.type == "thinking") == "Let me think."
        assert [event.signature for event in seen if event.type == "signature"] == ["c2ln"]
    else:
        done = await claude.messages.create(**asked)
    assert [block.type for block in done.content] == ["thinking", "redacted_thinking", "text"]
    assert (done.content[0].thinking, done.content[0].signature) == ("Let me think.", "c2ln")
    more: Any = [
        *SAID,
        {"role": "assistant", "content": done.content},
        {"role": "user", "content": "Go on"},
    ]
    await claude.messages.create(**{**asked, "messages": more})
    assert [part for part in model.parts if isinstance(part, Reasoning)] == list(thoughts)
    options = model.asked[1].reasoning
    assert options is not None
    assert options.max_tokens == 1024


async def test_structured_output_is_parsed_whole_and_in_a_stream(claude, model: Model):
    if not hasattr(claude.messages, "parse"):
        pytest.skip("this anthropic has no structured outputs")
    done = await claude.messages.parse(model=CLAUDE, max_tokens=500, messages=SAID, output_format=Plan)
    assert isinstance(done.parsed_output, Plan)
    async with claude.messages.stream(
        model=CLAUDE, max_tokens=500, messages=SAID, output_format=Plan
    ) as stream:
        final = await stream.get_final_message()
    assert final.parsed_output == done.parsed_output
    config: Any = {"effort": "low", "format": {"type": "json_schema", "schema": PLACE}}
    plain = await claude.messages.create(model=CLAUDE, max_tokens=500, messages=SAID, output_config=config)
    assert json.loads(plain.content[-1].text) == {"place": "Paris"}
    assert all(request.response_format is not None for request in model.asked)


@pytest.mark.parametrize("stream", [False, True])
async def test_how_a_reply_ends_is_told(claude, model: Model, stream: bool):
    for finish, reason in (("length", "max_tokens"), ("refusal", "refusal"), ("stop", "end_turn")):
        model.script = saying(Text("A"), finish=finish)
        if stream:
            async with claude.messages.stream(model=CLAUDE, max_tokens=9, messages=SAID) as events:
                done = await events.get_final_message()
        else:
            done = await claude.messages.create(model=CLAUDE, max_tokens=9, messages=SAID)
        assert done.stop_reason == reason


async def test_tokens_are_counted_beforehand(claude):
    asked: Any = {"model": CLAUDE, "messages": SAID, "system": "Be brief.", "tools": TOOLS}
    counted = await claude.messages.count_tokens(**asked)
    done = await claude.messages.create(**asked, max_tokens=99)
    assert counted.input_tokens == done.usage.input_tokens
    beta = await claude.beta.messages.count_tokens(**asked)
    assert beta.input_tokens == counted.input_tokens


async def test_models_are_listed(claude):
    page = await claude.models.list()
    assert CLAUDE in [one.id for one in page.data]
    assert not page.has_more
    assert CLAUDE in [one.id async for one in claude.models.list(limit=1)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "kind", "type_"),
    [
        (400, "BadRequestError", "invalid_request_error"),
        (401, "AuthenticationError", "authentication_error"),
        (403, "PermissionDeniedError", "permission_error"),
        (404, "NotFoundError", "not_found_error"),
        (429, "RateLimitError", "rate_limit_error"),
        (500, "InternalServerError", "api_error"),
        (503, "ServiceUnavailableError", None),
        (529, "OverloadedError", "overloaded_error"),
    ],
)
async def test_errors_are_the_sdks_own(
    claude, simulator, status: int, kind: str, type_: str | None, stream: bool
):
    own = getattr(anthropic, kind, anthropic.InternalServerError)
    refusing(simulator, status)
    with pytest.raises(own) as caught:
        await claude.messages.create(model=CLAUDE, max_tokens=9, messages=SAID, stream=stream)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "3"
    assert f"simulated {status}" in caught.value.message
    assert caught.value.body["type"] == "error"
    assert type_ in (None, caught.value.body["error"]["type"])


async def test_a_wrong_field_is_named(claude):
    wrong: Any = [{"role": "user", "content": [{"type": 3}]}]
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0"):
        await claude.messages.create(model=CLAUDE, max_tokens=9, messages=wrong)


async def test_a_stream_that_breaks_is_no_success(claude, simulator):
    simulator.rules = (Rule(Fault(error_after=3)),)
    with pytest.raises(anthropic.APIStatusError, match="simulated 529") as caught:
        async with claude.messages.stream(model=CLAUDE, max_tokens=60, messages=SAID) as stream:
            await stream.get_final_message()
    assert caught.value.body["error"]["type"] == "overloaded_error"
    simulator.rules = (Rule(Fault(cut_after=3)),)
    with pytest.raises(Exception, match=r"closed|incomplete|Connection") as cut:
        async with claude.messages.stream(model=CLAUDE, max_tokens=60, messages=SAID) as stream:
            await stream.get_final_message()
    assert not isinstance(cut.value, AssertionError)
    assert simulator.book.ends["broken"] == 2


async def test_a_client_without_asyncio_works_as_well(simulator):
    def calls() -> tuple[str, str]:
        with anthropic.Anthropic(api_key="sk", base_url=simulator.url, max_retries=0) as client:
            done = client.messages.create(model=CLAUDE, max_tokens=60, messages=SAID)
            with client.messages.stream(model=CLAUDE, max_tokens=60, messages=SAID) as stream:
                streamed = stream.get_final_text()
        return done.content[0].text, streamed

    whole, streamed = await asyncio.to_thread(calls)
    assert whole == streamed


# -- other clouds


async def test_on_vertex_the_address_names_the_model(simulator, model: Model):
    pytest.importorskip("google.auth")
    async with anthropic.AsyncAnthropicVertex(
        region="us-east5", project_id="p", access_token="ya29", base_url=f"{simulator.url}/v1", max_retries=0
    ) as client:
        done = await client.messages.create(model=CLAUDE, max_tokens=60, messages=SAID)
        async with client.messages.stream(model=CLAUDE, max_tokens=60, messages=SAID) as stream:
            assert await stream.get_final_text() == done.content[0].text
        counted = await client.messages.count_tokens(model=CLAUDE, messages=SAID)
    assert counted.input_tokens == done.usage.input_tokens
    assert {request.model for request in model.asked} == {CLAUDE}
    assert [entry.path.rpartition(":")[2] for entry in simulator.book.entries] == [
        "rawPredict",
        "streamRawPredict",
        "rawPredict",
    ]


async def test_at_azure_the_same_wire_is_spoken(simulator):
    if not hasattr(anthropic, "AsyncAnthropicFoundry"):
        pytest.skip("this anthropic knows no Azure")
    simulator.keys = {"az-key"}
    async with anthropic.AsyncAnthropicFoundry(
        api_key="az-key", base_url=f"{simulator.url}/anthropic", max_retries=0
    ) as client:
        done = await client.messages.create(model=CLAUDE, max_tokens=60, messages=SAID)
    assert done.content[0].text
    assert simulator.book.entries[0].path == "/anthropic/v1/messages"
