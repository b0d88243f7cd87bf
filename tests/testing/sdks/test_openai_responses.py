"""OpenAI's SDK, the Responses API: what it sends is understood, and it understands what comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import Document, Image, Reasoning, Refusal, Text
from tests.testing.sdks.common import (
    BOTH,
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

TOOLS: Any = [
    {"type": "function", "name": name, "parameters": PLACE, "strict": True}
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


async def test_text_is_the_same_whole_and_in_a_stream(gpt, simulator, model: Model):
    done = await gpt.responses.create(model=GPT, instructions="Be brief.", input=HELLO, max_output_tokens=60)
    assert (done.object, done.status, done.error) == ("response", "completed", None)
    async with gpt.responses.stream(
        model=GPT, instructions="Be brief.", input=HELLO, max_output_tokens=60
    ) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == done.output_text == final.output_text
    assert final.usage == done.usage
    assert [(e.usage.input_tokens, e.usage.output_tokens) for e in simulator.book.entries] == [
        (done.usage.input_tokens, done.usage.output_tokens)
    ] * 2
    assert model.asked[0].system == "Be brief."
    assert model.asked[0].max_tokens == 60


async def test_raw_events_are_all_of_known_classes(gpt, model: Model):
    tools: Any = TOOLS
    stream = await gpt.responses.create(
        model="o4-mini", input=BOTH, tools=tools, reasoning={"effort": "low"}, stream=True
    )
    events = [event async for event in stream]
    assert all(type(event).__name__.startswith("Response") for event in events), events
    assert events[-1].type == "response.completed"
    kinds = [item.type for item in events[-1].response.output]
    assert kinds == ["reasoning", "function_call", "function_call"]
    for event in events:
        # The SDK makes objects without looking; a strict look shows what is missing or of another kind.
        type(event).model_validate(event.to_dict(mode="json"), strict=False)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_results_and_the_answer_make_a_conversation(gpt, model: Model, stream: bool):
    asked: Any = {"model": GPT, "tools": TOOLS, "input": [{"role": "user", "content": BOTH}]}
    if stream:
        async with gpt.responses.stream(**asked) as events:
            first = await events.get_final_response()
    else:
        first = await gpt.responses.parse(**asked)
    calls = [item for item in first.output if item.type == "function_call"]
    assert [call.name for call in calls] == ["weather", "forecast"]
    assert [call.parsed_arguments for call in calls] == [{"place": "Paris"}] * 2
    told = {call.call_id: f"sunny after {call.name}" for call in calls}
    more: Any = [
        *asked["input"],
        *first.output,
        *({"type": "function_call_output", "call_id": key, "output": said} for key, said in told.items()),
    ]
    last = await gpt.responses.create(**{**asked, "input": more})
    assert last.output_text
    assert results(model.asked[1]) == told
    assert [call.id for message in model.asked[1].messages for call in message.tool_calls] == list(told)

    alone = await gpt.responses.create(**asked, parallel_tool_calls=False)
    assert len(alone.output) == 1
    named: Any = {"type": "function", "name": "forecast"}
    chosen = await gpt.responses.create(**asked, tool_choice=named, parallel_tool_calls=False)
    assert chosen.output[0].name == "forecast"


async def test_pictures_and_files_arrive(gpt, model: Model):
    said: Any = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "low"},
        {"type": "input_image", "image_url": "https://pictures.example/cat.png", "detail": "auto"},
        {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
    ]
    done = await gpt.responses.create(model=GPT, input=[{"role": "user", "content": said}])
    assert done.output_text
    text, near, far, paper = model.parts
    assert isinstance(text, Text)
    assert isinstance(near, Image)
    assert (near.data, near.media_type) == (PNG, "image/png")
    assert isinstance(far, Image)
    assert far.url == "https://pictures.example/cat.png"
    assert isinstance(paper, Document)
    assert paper.data == PDF


async def test_structured_output_is_parsed_whole_and_in_a_stream(gpt):
    done = await gpt.responses.parse(model=GPT, input=HELLO, text_format=Plan)
    assert isinstance(done.output_parsed, Plan)
    async with gpt.responses.stream(model=GPT, input=HELLO, text_format=Plan) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == done.output_parsed
    plain = await gpt.responses.create(model=GPT, input=HELLO, text={"format": {"type": "json_object"}})
    assert json.loads(plain.output_text) == {"answer": "yes"}
    tool = openai.pydantic_function_tool(Plan, name="make_plan")["function"]
    called = await gpt.responses.parse(model=GPT, input=HELLO, tools=[{"type": "function", **tool}])
    assert called.output[0].name == "make_plan"


@pytest.mark.parametrize("stream", [False, True])
async def test_reasoning_is_shown_and_its_proof_comes_back(gpt, model: Model, stream: bool):
    shown = Reasoning("Let me think.", encrypted="cHJvb2Y=")
    model.script = saying(shown, Text("Hello."))
    asked: Any = {
        "model": "o4-mini",
        "input": [{"role": "user", "content": HELLO}],
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    }
    if stream:
        async with gpt.responses.stream(**asked) as events:
            done = await events.get_final_response()
    else:
        done = await gpt.responses.create(**asked)
    thought, said = done.output
    assert (thought.type, thought.summary[0].text) == ("reasoning", "Let me think.")
    assert thought.encrypted_content
    assert said.content[0].text == "Hello."
    more: Any = [*asked["input"], *done.output, {"role": "user", "content": "Go on"}]
    await gpt.responses.create(**{**asked, "input": more})
    (back,) = [part for part in model.parts if isinstance(part, Reasoning)]
    assert (back.text, back.encrypted) == (shown.text, shown.encrypted)
    assert model.asked[1].messages[1].text == "Hello."


async def test_a_conversation_that_openai_keeps_is_named(gpt, model: Model):
    first = await gpt.responses.create(model=GPT, input=HELLO)
    await gpt.responses.create(model=GPT, input="Go on", previous_response_id=first.id)
    assert model.asked[1].extra["previous_response_id"] == first.id


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_and_an_end_at_the_limit_are_seen(gpt, model: Model, stream: bool):
    async def ask() -> Any:
        if not stream:
            return await gpt.responses.create(model=GPT, input=HELLO)
        events = [event async for event in await gpt.responses.create(model=GPT, input=HELLO, stream=True)]
        return events[-1].response

    model.script = saying(Refusal("I will not."), finish="refusal")
    done = await ask()
    assert (done.status, done.output[0].content[0].refusal) == ("completed", "I will not.")
    model.script = saying(Text("A lon"), finish="length")
    done = await ask()
    assert (done.status, done.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert done.output_text == "A lon"
    model.script = saying(Text("A"), finish="content_filter")
    assert (await ask()).incomplete_details.reason == "content_filter"


async def test_tokens_are_counted_beforehand(gpt):
    counted = await gpt.responses.input_tokens.count(model=GPT, input=HELLO, instructions="Be brief.")
    done = await gpt.responses.create(model=GPT, input=HELLO, instructions="Be brief.")
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == done.usage.input_tokens


@pytest.mark.parametrize("stream", [False, True])
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
async def test_errors_are_the_sdks_own(gpt, simulator, status: int, kind: str, stream: bool):
    refusing(simulator, status)
    with pytest.raises(getattr(openai, kind)) as caught:
        await gpt.responses.create(model=GPT, input=HELLO, stream=stream)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "3"
    assert f"simulated {status}" in caught.value.message


async def test_a_wrong_field_is_named(gpt):
    with pytest.raises(openai.BadRequestError) as caught:
        await gpt.responses.create(model=GPT, input=[{"role": "user", "content": [{"type": 3}]}])
    assert caught.value.param.startswith("input[0].content[0]")


async def test_a_stream_that_breaks_is_no_success(gpt, simulator):
    simulator.rules = (Rule(Fault(error_after=3)),)
    with pytest.raises(openai.APIError, match="simulated 529"):
        async with gpt.responses.stream(model=GPT, input=HELLO) as stream:
            await stream.get_final_response()
    for fault in (Fault(cut_after=3), Fault(unfinished=True)):
        simulator.rules = (Rule(fault),)
        with pytest.raises(Exception, match=r"closed|incomplete|Connection|completed") as caught:
            async with gpt.responses.stream(model=GPT, input=HELLO) as stream:
                await stream.get_final_response()
        assert not isinstance(caught.value, AssertionError)
    assert simulator.book.ends["broken"] == 3
