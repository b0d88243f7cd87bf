"""OpenAI's SDK, chat completions: what it sends is understood, and it understands what comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import Audio, Document, Image, Reasoning, Refusal, Text
from tests.testing.sdks.common import (
    BOTH,
    EMBED,
    GPT,
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

openai: Any = pytest.importorskip("openai")

pytestmark = pytest.mark.real_time

SAID: Any = [{"role": "user", "content": HELLO}]
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": PLACE, "strict": True}}
    for name in ("weather", "forecast")
]


@pytest.fixture
async def gpt(simulator: Simulator) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(
        api_key="sk-test",
        base_url=f"{simulator.url}/v1",
        max_retries=0,
        _strict_response_validation=True,  # nothing missing, nothing of another kind
    ) as client:
        yield client


async def test_calls_results_and_the_answer_make_a_conversation(gpt, model: Model):
    asked: Any = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": BOTH}]
    async with gpt.chat.completions.stream(model=GPT, messages=asked, tools=TOOLS) as stream:
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
        first = (await stream.get_final_completion()).choices[0].message
    assert [json.loads(event.arguments) for event in done] == [{"place": "Paris"}] * 2
    assert [call.function.parsed_arguments for call in first.tool_calls] == [{"place": "Paris"}] * 2
    told = {call.id: f"sunny after {call.function.name}" for call in first.tool_calls}
    answers: Any = [
        *asked,
        first.model_dump(exclude_none=True),
        *({"role": "tool", "tool_call_id": key, "content": said} for key, said in told.items()),
    ]
    last = await gpt.chat.completions.create(model=GPT, messages=answers, tools=TOOLS)
    assert last.choices[0].message.content
    assert results(model.asked[1]) == told
    assert [call.id for call in model.asked[1].messages[2].tool_calls] == list(told)
    assert model.asked[1].system == "Be brief."


async def test_pictures_files_and_sound_arrive(gpt, model: Model):
    said: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/cat.png"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
        },
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
    ]
    done = await gpt.chat.completions.create(model=GPT, messages=[{"role": "user", "content": said}])
    assert done.choices[0].message.content
    text, near, far, paper, sound = model.parts
    assert text == Text("What is this?")
    assert isinstance(near, Image)
    assert (near.data, near.media_type) == (PNG, "image/png")
    assert isinstance(far, Image)
    assert far.url == "https://pictures.example/cat.png"
    assert isinstance(paper, Document)
    assert paper.data == PDF
    assert isinstance(sound, Audio)


async def test_structured_output_is_parsed_whole_and_in_a_stream(gpt, model: Model):
    done = await gpt.chat.completions.parse(model=GPT, messages=SAID, response_format=Plan)
    assert done.choices[0].message.parsed.steps[0].kind == "think"
    form = model.asked[0].response_format
    assert form is not None
    assert (form.type, form.name, form.strict) == ("json_schema", "Plan", True)
    async with gpt.chat.completions.stream(model=GPT, messages=SAID, response_format=Plan) as stream:
        contents = [event async for event in stream if event.type == "content.done"]
    assert contents[0].parsed == done.choices[0].message.parsed


async def test_a_tool_of_a_pydantic_model_has_its_arguments_parsed(gpt):
    tool = openai.pydantic_function_tool(Plan, name="make_plan")
    done = await gpt.chat.completions.parse(model=GPT, messages=SAID, tools=[tool])
    (call,) = done.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Plan)


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_is_shown_and_its_proof_comes_back(gpt, model: Model, stream: bool):
    asked: Any = {"model": "o4-mini", "messages": SAID, "reasoning_effort": "low"}
    if stream:
        async with gpt.chat.completions.stream(**asked) as events:
            said = (await events.get_final_completion()).choices[0].message
    else:
        said = (await gpt.chat.completions.create(**asked)).choices[0].message
    assert said.content
    assert said.model_extra["reasoning_content"].startswith("Let me think")
    more: Any = [*SAID, said.model_dump(exclude_none=True), {"role": "user", "content": "Go on"}]
    await gpt.chat.completions.create(**{**asked, "messages": more})
    (before,) = [p for p in model.script(model.asked[0]).message.parts if isinstance(p, Reasoning)]
    thoughts = [part for part in model.parts if isinstance(part, Reasoning)]
    assert "".join(part.text for part in thoughts) == before.text
    assert [part.signature for part in thoughts if part.signature] == [before.signature]


async def test_a_refusal_and_an_end_at_the_limit_are_seen(gpt, model: Model):
    model.script = saying(Refusal("I will not."), finish="refusal")
    done = await gpt.chat.completions.parse(model=GPT, messages=SAID, response_format=Plan)
    assert (done.choices[0].message.refusal, done.choices[0].message.parsed) == ("I will not.", None)
    async with gpt.chat.completions.stream(model=GPT, messages=SAID, response_format=Plan) as stream:
        refused = [event.refusal async for event in stream if event.type == "refusal.done"]
    assert refused == ["I will not."]
    model.script = saying(Text('{"title": "A'), finish="length")
    with pytest.raises(openai.LengthFinishReasonError):
        await gpt.chat.completions.parse(model=GPT, messages=SAID, response_format=Plan)
    model.script = saying(Text("{}"), finish="content_filter")
    with pytest.raises(openai.ContentFilterFinishReasonError):
        async with gpt.chat.completions.stream(model=GPT, messages=SAID, response_format=Plan) as stream:
            await stream.get_final_completion()


async def test_embeddings_are_the_same_as_numbers_and_in_base64(gpt):
    gpt._strict_response_validation = False  # it looks before it has unpacked the numbers
    packed = await gpt.embeddings.create(model=EMBED, input=["one", "two"])  # the SDK asks for base64
    plain = await gpt.embeddings.create(model=EMBED, input=["one", "two"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert packed.usage.prompt_tokens == packed.usage.total_tokens > 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (503, "InternalServerError"),
        (529, "InternalServerError"),
    ],
)
async def test_a_stream_that_is_refused_is_refused_at_once(gpt, simulator, status: int, kind: str):
    refusing(simulator, status)
    with pytest.raises(getattr(openai, kind)) as caught:
        await gpt.chat.completions.create(model=GPT, messages=SAID, stream=True)
    assert caught.value.status_code == status
    assert caught.value.type
    assert caught.value.response.headers["retry-after"] == "3"
    assert f"simulated {status}" in caught.value.message
    with pytest.raises(getattr(openai, kind)):
        await gpt.embeddings.create(model=EMBED, input="one")


async def test_a_wrong_field_is_named(gpt):
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.chat.completions.create(model=GPT, messages=[{"role": "user", "content": [{"type": 3}]}])
    assert caught.value.param.startswith("messages[0].content[0]")
    with pytest.raises(openai.NotFoundError):
        await gpt.post("/nothing/here", cast_to=object, body={})


async def test_a_stream_that_is_cut_is_no_success(gpt, simulator):
    simulator.rules = (Rule(Fault(cut_after=3)),)
    text = ""
    with pytest.raises(Exception, match=r"closed|incomplete|Connection") as caught:
        async for chunk in await gpt.chat.completions.create(model=GPT, messages=SAID, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text
    assert not isinstance(caught.value, AssertionError)
    assert simulator.book.ends["broken"] == 1


async def test_an_error_in_a_stream_is_the_sdks_own(gpt, simulator):
    simulator.rules = (Rule(Fault(error_after=3)),)
    with pytest.raises(openai.APIError, match="simulated 529") as caught:
        async with gpt.chat.completions.stream(model=GPT, messages=SAID) as stream:
            await stream.get_final_completion()
    assert caught.value.type


async def test_a_client_without_asyncio_works_as_well(simulator):
    def calls() -> tuple[str, str]:
        with openai.OpenAI(api_key="sk", base_url=f"{simulator.url}/v1", max_retries=0) as client:
            done = client.chat.completions.create(model=GPT, messages=SAID)
            chunks = client.chat.completions.create(model=GPT, messages=SAID, stream=True)
            streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return done.choices[0].message.content, streamed

    whole, streamed = await asyncio.to_thread(calls)
    assert whole == streamed


# -- Azure


@pytest.fixture
async def azure(simulator: Simulator) -> AsyncIterator[Any]:
    async with openai.AsyncAzureOpenAI(
        api_key="az-key", azure_endpoint=simulator.url, api_version="2024-10-21", max_retries=0
    ) as client:
        yield client


async def test_azure_names_the_deployment_in_the_address(azure, simulator, model: Model):
    simulator.keys = {"az-key"}
    done = await azure.chat.completions.create(model="my-deployment", messages=SAID)
    assert done.choices[0].message.content
    stream = await azure.chat.completions.create(model="my-deployment", messages=SAID, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == done.choices[0].message.content
    vectors = await azure.embeddings.create(model="my-embeddings", input="one")
    assert len(vectors.data[0].embedding) == 8
    answer = await azure.responses.create(model="my-deployment", input=HELLO)
    assert answer.output_text == done.choices[0].message.content
    assert [one.id async for one in azure.models.list()]
    assert [entry.path for entry in simulator.book.entries] == [
        "/openai/deployments/my-deployment/chat/completions",
        "/openai/deployments/my-deployment/chat/completions",
        "/openai/deployments/my-embeddings/embeddings",
        "/openai/responses",
    ]
    assert {request.model for request in model.asked} == {"my-deployment"}


async def test_azure_with_a_wrong_key_is_refused(azure, simulator):
    simulator.keys = {"another"}
    with pytest.raises(openai.AuthenticationError):
        await azure.chat.completions.create(model="my-deployment", messages=SAID)
