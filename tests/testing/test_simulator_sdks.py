"""The vendors' own SDKs, over real sockets, understand everything the simulator says."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest

from llmpipe.testing.simulator import Fault, Rule, Simulator

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")
pydantic: Any = pytest.importorskip("pydantic")

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]

GPT, CLAUDE = "gpt-4o-mini", "claude-haiku-4-5"
HELLO: Any = [{"role": "user", "content": "Say hello"}]
WEATHER = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


class Step(pydantic.BaseModel):  # type: ignore[misc]  # imported only where it is
    text: str
    kind: Literal["think", "act"]


class Plan(pydantic.BaseModel):  # type: ignore[misc]  # the same
    title: str
    steps: list[Step]
    cost: float
    done: bool
    note: str | None


@pytest.fixture
async def simulator():
    async with Simulator(chunk_chars=6) as running:
        yield running


@pytest.fixture
async def gpt(simulator):
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=f"{simulator.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(simulator):
    async with anthropic.AsyncAnthropic(api_key="sk-test", base_url=simulator.url, max_retries=0) as client:
        yield client


def billed(simulator: Simulator) -> list[tuple[int, int]]:
    return [
        (entry.usage.input_tokens, entry.usage.output_tokens)
        for entry in simulator.book.entries
        if entry.usage is not None
    ]


# -- OpenAI


async def test_openai_full_and_streamed(gpt, simulator):
    done = await gpt.chat.completions.create(model=GPT, messages=HELLO, max_tokens=60)
    assert done.object == "chat.completion"
    assert done.choices[0].finish_reason == "stop"
    text, usage = "", None
    stream = await gpt.chat.completions.create(
        model=GPT, messages=HELLO, max_tokens=60, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == done.choices[0].message.content
    assert usage == done.usage
    assert billed(simulator) == [(done.usage.prompt_tokens, done.usage.completion_tokens)] * 2


async def test_openai_usage_is_told_in_a_stream_only_when_asked_for(gpt):
    stream = await gpt.chat.completions.create(model=GPT, messages=HELLO, stream=True)
    assert [chunk.usage for chunk in [chunk async for chunk in stream] if chunk.usage] == []


async def test_openai_tools_one_and_several(gpt):
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": WEATHER}}
        for name in ("weather", "forecast")
    ]
    done = await gpt.chat.completions.create(model=GPT, messages=HELLO, tools=tools)
    assert done.choices[0].finish_reason == "tool_calls"
    assert [call.function.name for call in done.choices[0].message.tool_calls] == ["weather"]
    both: Any = [{"role": "user", "content": "Ask both"}]
    done = await gpt.chat.completions.create(model=GPT, messages=both, tools=tools)
    calls = done.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "forecast"]
    assert json.loads(calls[0].function.arguments) == {"place": "Paris"}
    assert len({call.id for call in calls}) == 2

    async with gpt.chat.completions.stream(model=GPT, messages=both, tools=tools) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    streamed = final.choices[0].message.tool_calls
    assert [(c.id, c.function.name, c.function.arguments) for c in streamed] == [
        (c.id, c.function.name, c.function.arguments) for c in calls
    ]

    answers: Any = [
        *both,
        done.choices[0].message.model_dump(exclude_none=True),
        *({"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls),
    ]
    done = await gpt.chat.completions.create(model=GPT, messages=answers, tools=tools)
    assert done.choices[0].finish_reason == "stop"
    assert done.choices[0].message.content

    alone = await gpt.chat.completions.create(
        model=GPT, messages=both, tools=tools, parallel_tool_calls=False
    )
    assert len(alone.choices[0].message.tool_calls) == 1
    named: Any = {"type": "function", "function": {"name": "forecast"}}
    done = await gpt.chat.completions.create(model=GPT, messages=HELLO, tools=tools, tool_choice=named)
    assert done.choices[0].message.tool_calls[0].function.name == "forecast"
    done = await gpt.chat.completions.create(model=GPT, messages=HELLO, tools=tools, tool_choice="none")
    assert done.choices[0].message.tool_calls is None


async def test_openai_parses_json_of_a_schema(gpt):
    done = await gpt.chat.completions.parse(model=GPT, messages=HELLO, response_format=Plan)
    plan = done.choices[0].message.parsed
    assert isinstance(plan, Plan)
    assert plan.steps[0].kind == "think"
    async with gpt.chat.completions.stream(model=GPT, messages=HELLO, response_format=Plan) as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_completion()).choices[0].message.parsed == plan
    done = await gpt.chat.completions.create(
        model=GPT, messages=HELLO, response_format={"type": "json_object"}
    )
    assert json.loads(done.choices[0].message.content) == {"answer": "yes"}


async def test_openai_reasoning(gpt):
    done = await gpt.chat.completions.create(model="o4-mini", messages=HELLO, reasoning_effort="low")
    message = done.choices[0].message
    assert message.content
    assert message.model_extra["reasoning_content"].startswith("Let me think")


async def test_openai_embeddings_and_models(gpt):
    done = await gpt.embeddings.create(model="text-embedding-3-small", input=["one", "two"])
    assert [item.index for item in done.data] == [0, 1]
    assert {len(item.embedding) for item in done.data} == {8}
    assert done.data[0].embedding != done.data[1].embedding
    one = await gpt.embeddings.create(
        model="text-embedding-3-small", input="one", dimensions=5, encoding_format="float"
    )
    assert len(one.data[0].embedding) == 5
    assert GPT in [model.id async for model in gpt.models.list()]


ERRORS = [
    (400, "BadRequestError"),
    (401, "AuthenticationError"),
    (403, "PermissionDeniedError"),
    (404, "NotFoundError"),
    (409, "ConflictError"),
    (422, "UnprocessableEntityError"),
    (429, "RateLimitError"),
    (500, "InternalServerError"),
    (503, "InternalServerError"),
]


@pytest.mark.parametrize(("status", "name"), ERRORS)
async def test_openai_errors_are_its_own_classes(gpt, simulator, status, name):
    simulator.rules = (Rule(Fault(status=status, headers={"retry-after": "3"})),)
    with pytest.raises(getattr(openai, name)) as caught:
        await gpt.chat.completions.create(model=GPT, messages=HELLO)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "3"
    assert f"simulated {status}" in caught.value.message


async def test_openai_sees_what_breaks(gpt, simulator):
    simulator.rules = (Rule(Fault(error_after=3)),)
    with pytest.raises(openai.APIError, match="simulated 529"):
        async for _ in await gpt.chat.completions.create(model=GPT, messages=HELLO, stream=True):
            pass
    simulator.rules = (Rule(Fault(reset_at=0)),)
    with pytest.raises((openai.APIConnectionError, openai.APIError, Exception)) as caught:
        await gpt.chat.completions.create(model=GPT, messages=HELLO)
    assert not isinstance(caught.value, AssertionError)
    simulator.rules = (Rule(Fault(silent=True)),)
    with pytest.raises(openai.APITimeoutError):
        await gpt.chat.completions.create(model=GPT, messages=HELLO, timeout=0.1)


async def test_openai_waits_as_long_as_it_is_told(simulator, monkeypatch):
    waits: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    simulator.rules = (Rule(Fault(status=429, headers={"retry-after-ms": "1500"}), last=1),)
    async with openai.AsyncOpenAI(api_key="sk", base_url=f"{simulator.url}/v1", max_retries=2) as client:
        monkeypatch.setattr("anyio.sleep", noted)
        assert (await client.chat.completions.create(model=GPT, messages=HELLO)).choices
    assert waits == [1.5]


# -- Anthropic


async def test_anthropic_full_and_streamed(claude, simulator):
    done = await claude.messages.create(model=CLAUDE, messages=HELLO, max_tokens=60)
    assert (done.type, done.role, done.stop_reason) == ("message", "assistant", "end_turn")
    async with claude.messages.stream(model=CLAUDE, messages=HELLO, max_tokens=60) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == done.content[0].text == final.content[0].text
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (
        done.usage.input_tokens,
        done.usage.output_tokens,
    )
    assert billed(simulator) == [(done.usage.input_tokens, done.usage.output_tokens)] * 2


async def test_anthropic_tools_one_and_several(claude):
    tools: Any = [{"name": name, "input_schema": WEATHER} for name in ("weather", "forecast")]
    done = await claude.messages.create(model=CLAUDE, messages=HELLO, max_tokens=99, tools=tools)
    assert done.stop_reason == "tool_use"
    assert [block.name for block in done.content] == ["weather"]
    both: Any = [{"role": "user", "content": "Ask all of them"}]
    done = await claude.messages.create(model=CLAUDE, messages=both, max_tokens=99, tools=tools)
    assert [(block.name, block.input) for block in done.content] == [
        ("weather", {"place": "Paris"}),
        ("forecast", {"place": "Paris"}),
    ]
    async with claude.messages.stream(model=CLAUDE, messages=both, max_tokens=99, tools=tools) as stream:
        final = await stream.get_final_message()
    assert [(b.id, b.name, b.input) for b in final.content] == [(b.id, b.name, b.input) for b in done.content]

    results: Any = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"} for block in done.content
    ]
    answers: Any = [
        *both,
        {"role": "assistant", "content": done.content},
        {"role": "user", "content": results},
    ]
    done = await claude.messages.create(model=CLAUDE, messages=answers, max_tokens=99, tools=tools)
    assert done.stop_reason == "end_turn"
    one: Any = {"type": "auto", "disable_parallel_tool_use": True}
    done = await claude.messages.create(
        model=CLAUDE, messages=both, max_tokens=99, tools=tools, tool_choice=one
    )
    assert len(done.content) == 1


async def test_anthropic_thinking(claude):
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    done = await claude.messages.create(model=CLAUDE, messages=HELLO, max_tokens=2000, thinking=thinking)
    assert [block.type for block in done.content] == ["thinking", "text"]
    assert done.content[0].signature
    async with claude.messages.stream(
        model=CLAUDE, messages=HELLO, max_tokens=2000, thinking=thinking
    ) as stream:
        final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].thinking == done.content[0].thinking
    assert final.content[0].signature == done.content[0].signature


async def test_anthropic_parses_json_of_a_schema(claude):
    if not hasattr(claude.messages, "parse"):
        pytest.skip("this anthropic has no structured outputs")
    done = await claude.messages.parse(model=CLAUDE, messages=HELLO, max_tokens=500, output_format=Plan)
    assert isinstance(done.parsed_output, Plan)


async def test_anthropic_models(claude):
    assert CLAUDE in [model.id async for model in claude.models.list()]


@pytest.mark.parametrize(
    ("status", "name"), [*ERRORS[:-1], (529, "OverloadedError"), (503, "ServiceUnavailableError")]
)
async def test_anthropic_errors_are_its_own_classes(claude, simulator, status, name):
    kind = getattr(anthropic, name, None) or getattr(
        anthropic._exceptions, name, anthropic.InternalServerError
    )
    simulator.rules = (Rule(Fault(status=status, headers={"retry-after": "3"})),)
    with pytest.raises(kind) as caught:
        await claude.messages.create(model=CLAUDE, messages=HELLO, max_tokens=9)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "3"
    assert f"simulated {status}" in caught.value.message


async def test_anthropic_sees_what_breaks(claude, simulator):
    simulator.rules = (Rule(Fault(error_after=3)),)
    with pytest.raises(anthropic.APIStatusError) as caught:
        async with claude.messages.stream(model=CLAUDE, messages=HELLO, max_tokens=60) as stream:
            await stream.get_final_message()
    assert caught.value.body["error"]["type"] == "overloaded_error"
    simulator.rules = (Rule(Fault(silent=True)),)
    with pytest.raises(anthropic.APITimeoutError):
        await claude.messages.create(model=CLAUDE, messages=HELLO, max_tokens=9, timeout=0.1)


async def test_keys_are_the_sdks_own(simulator):
    simulator.keys = {"sk-right"}
    for key, good in (("sk-right", True), ("sk-wrong", False)):
        async with (
            openai.AsyncOpenAI(api_key=key, base_url=f"{simulator.url}/v1", max_retries=0) as gpt,
            anthropic.AsyncAnthropic(api_key=key, base_url=simulator.url, max_retries=0) as claude,
        ):
            if good:
                assert (await gpt.chat.completions.create(model=GPT, messages=HELLO)).choices
                assert (await claude.messages.create(model=CLAUDE, messages=HELLO, max_tokens=9)).content
            else:
                with pytest.raises(openai.AuthenticationError):
                    await gpt.chat.completions.create(model=GPT, messages=HELLO)
                with pytest.raises(anthropic.AuthenticationError):
                    await claude.messages.create(model=CLAUDE, messages=HELLO, max_tokens=9)
