"""OpenAI's own SDK against the server's side of the dialect, over a real connection."""

from __future__ import annotations

import openai
import orjson
import pydantic
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from attrs import evolve
from openai.types.responses import Response, ResponseStreamEvent

from llmpipe.dialects.openai_responses import OpenAIResponses
from llmpipe.errors import (
    AuthenticationFailed,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
)
from llmpipe.types import (
    Completion,
    Image,
    Message,
    NamedTool,
    Opaque,
    Ping,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    unfold,
)

pytestmark = pytest.mark.real_time

DIALECT = OpenAIResponses()
SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "x"},
}
CITATION = {"type": "url_citation", "url": "https://x", "title": "t", "start_index": 0, "end_index": 2}
DONE = Completion(
    id="resp_1",
    model="gpt-test",
    message=Message(
        "assistant",
        [
            Reasoning("first\n\nsecond", None, "proof", {"item": {"id": "rs_1", "sizes": [5, 6]}}),
            Opaque("openai.responses", SEARCH),
            Text("Grüße ✓", {"annotations": [CITATION], "item": {"id": "msg_1", "phase": "final_answer"}}),
            ToolCall("call_1", "weather", '{"city":"Paris"}', {"item": {"id": "fc_1"}}),
            ToolCall("call_2", "time", "{}"),
            ToolCall("call_3", "shell", "ls -l", {"type": "custom"}),
        ],
        dialect="openai.responses",
    ),
    finish_reason="tool_calls",
    usage=Usage(135, 9, 100, 30, 4),
    created=1_735_689_600.0,
    extra={"service_tier": "default"},
)


class Server:
    """POST /v1/responses and its neighbours, answering `done` or failing with `error`."""

    def __init__(self) -> None:
        self.url = ""
        self.done = DONE
        self.error: LLMError | None = None
        self.requests = []

    async def responses(self, http: web.Request) -> web.StreamResponse:
        try:
            request = DIALECT.decode_request(orjson.loads(await http.read()))
            self.requests.append(request)
            if self.error is not None and not request.stream:
                raise self.error
        except LLMError as error:
            status, headers, body = DIALECT.encode_error(error)
            return self.json(body, status, headers)
        if not request.stream:
            return self.json(DIALECT.encode_reply(self.done))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(http)
        encoder = DIALECT.encoder(request)
        for event in (Ping(), *unfold(self.done)):
            await response.write(encoder.feed(event))
        await response.write(encoder.close() if self.error is None else encoder.fail(self.error))
        return response

    @staticmethod
    def json(body, status=200, headers=None) -> web.Response:
        headers = {"content-type": "application/json", **(headers or {})}
        return web.Response(body=orjson.dumps(body), status=status, headers=headers)


@pytest.fixture
async def server():
    fake = Server()
    app = web.Application()
    app.router.add_post("/v1/responses", fake.responses)
    async with TestServer(app) as running:
        fake.url = str(running.make_url("/v1"))
        yield fake


@pytest.fixture
async def client(server):
    async with openai.AsyncOpenAI(api_key="key", base_url=server.url, max_retries=0) as client:
        yield client


ASKED = {
    "model": "gpt-test",
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "function_call", "call_id": "t", "name": "weather", "arguments": '{"city":"P"}'},
        {"type": "function_call_output", "call_id": "t", "output": "sunny"},
    ],
    "tools": [
        {
            "type": "function",
            "name": "weather",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        }
    ],
    "tool_choice": {"type": "function", "name": "weather"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
}


def check(response):
    """What the SDK made of `DONE`."""
    assert (response.id, response.model, response.status) == ("resp_1", "gpt-test", "completed")
    assert (response.created_at, response.error, response.incomplete_details) == (1_735_689_600, None, None)
    assert response.output_text == "Grüße ✓"
    thought, search, message, weather, time, shell = response.output
    assert (thought.type, thought.id, thought.encrypted_content) == ("reasoning", "rs_1", "proof")
    assert [piece.text for piece in thought.summary] == ["first", "second"]
    assert (search.type, search.id, search.action.query) == ("web_search_call", "ws_1", "x")
    assert (message.type, message.id, message.role) == ("message", "msg_1", "assistant")
    assert (message.status, message.phase) == ("completed", "final_answer")
    assert message.content[0].annotations[0].url == "https://x"
    assert (weather.id, weather.call_id, weather.name) == ("fc_1", "call_1", "weather")
    assert weather.arguments == '{"city":"Paris"}'
    assert (time.call_id, time.arguments, time.status) == ("call_2", "{}", "completed")
    assert (shell.type, shell.call_id, shell.input) == ("custom_tool_call", "call_3", "ls -l")
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (135, 9, 144)
    assert (usage.input_tokens_details.cached_tokens, usage.input_tokens_details.cache_write_tokens) == (
        100,
        30,
    )
    assert usage.output_tokens_details.reasoning_tokens == 4
    assert response.service_tier == "default"


def test_the_sdks_types_accept_a_reply():
    Response.model_validate(DIALECT.encode_reply(DONE))
    Response.model_validate(DIALECT.encode_reply(Completion("r", "m", Message("assistant", "hi"), "stop")))
    for reason in ("length", "content_filter", "refusal", "error", None):
        Response.model_validate(DIALECT.encode_reply(Completion("r", "m", finish_reason=reason)))


def test_the_sdks_types_accept_every_event():
    event_type = pydantic.TypeAdapter(ResponseStreamEvent)
    open_thoughts = Reasoning("raw", None, None, {"item": {"kind": "content"}})
    more = (open_thoughts, Refusal("no"), Image(data="aGk=", media_type="image/png"))
    done = evolve(DONE, message=evolve(DONE.message, parts=(*DONE.message.parts, *more)))
    encoder = DIALECT.encoder(DIALECT.decode_request(ASKED))
    body = b"".join(map(encoder.feed, unfold(done))) + encoder.close()
    kinds = []
    for chunk in body.split(b"\n\n")[:-1]:
        name, data = chunk.split(b"\n")
        wire = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + wire["type"].encode()
        kinds.append(event_type.validate_python(wire).type)
    assert {
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.added",
        "response.output_text.annotation.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
        "response.completed",
    } == set(kinds)
    event_type.validate_python(
        orjson.loads(encoder.fail(Overloaded("busy", code="slow_down")).split(b"data: ")[1])
    )


async def test_the_sdk_reads_a_full_reply(client, server):
    check(await client.responses.create(**ASKED))
    (request,) = server.requests
    assert request.tool_choice == NamedTool("weather")
    assert (request.reasoning.effort, request.reasoning.extra) == ("low", {"summary": "auto"})
    assert request.extra == {"store": False, "include": ["reasoning.encrypted_content"]}
    assert request.messages == (
        Message("system", "Be brief.", extra={"field": "instructions"}),
        Message("user", "Hello"),
        Message("assistant", ToolCall("t", "weather", '{"city":"P"}')),
        Message("tool", ToolResult("t", "sunny")),
    )


async def test_the_sdk_reads_a_stream_to_the_final_response(client, server):
    async with client.responses.stream(**ASKED) as stream:
        events = [event async for event in stream]
        check(await stream.get_final_response())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    check(events[-1].response)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Grüße ✓"
    assert server.requests[0].stream


async def test_the_sdk_reads_raw_events(client):
    stream = await client.responses.create(**ASKED, stream=True)
    kinds = [event.type async for event in stream]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 6
    assert kinds[-1] == "response.completed"


class City(pydantic.BaseModel):
    name: str
    people: int


async def test_the_sdk_parses_structured_output(client, server):
    server.done = Completion(
        "r", "m", Message("assistant", '{"name":"Rome","people":3}'), "stop", Usage(1, 2)
    )
    parsed = await client.responses.parse(model="m", input="Which?", text_format=City)
    assert parsed.output_parsed == City(name="Rome", people=3)
    form = server.requests[0].response_format
    assert (form.type, form.name, form.strict) == ("json_schema", "City", True)
    assert form.schema["required"] == ["name", "people"]
    async with client.responses.stream(model="m", input="Which?", text_format=City) as stream:
        assert (await stream.get_final_response()).output_parsed == City(name="Rome", people=3)


async def test_the_sdk_parses_arguments(client):
    tool = openai.pydantic_function_tool(City, name="weather")
    flat = {"type": "function", **tool["function"]}
    response = await client.responses.parse(model="m", input="x", tools=[flat])
    assert response.output[3].parsed_arguments == {"city": "Paris"}


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
        ("refusal", "incomplete", "content_filter"),
        ("error", "failed", None),
    ],
)
async def test_the_sdk_learns_that_a_reply_was_cut(client, server, reason, status, why):
    server.done = Completion("r", "m", Message("assistant", "half"), reason, Usage(1, 2))
    full = await client.responses.create(model="m", input="x")
    events = [event async for event in await client.responses.create(model="m", input="x", stream=True)]
    assert events[-1].type == f"response.{status}"
    for response in (full, events[-1].response):
        assert (response.status, response.output_text) == (status, "half")
        assert (response.incomplete_details and response.incomplete_details.reason) == why
        assert (response.error is not None) is (status == "failed")


async def test_the_sdk_reads_a_refusal(client, server):
    server.done = Completion("r", "m", Message("assistant", Refusal("I will not.")), "refusal", Usage(1, 2))
    async with client.responses.stream(model="m", input="x") as stream:
        streamed = await stream.get_final_response()
    for response in (await client.responses.create(model="m", input="x"), streamed):
        assert response.status == "completed"
        assert (response.output[0].content[0].type, response.output[0].content[0].refusal) == (
            "refusal",
            "I will not.",
        )


async def test_the_sdk_sends_a_reply_back_as_it_came(client, server):
    """What OpenAI's guides do: the output joins the input of the next request."""
    first = await client.responses.create(model="m", input="x")
    await client.responses.create(model="m", input=[{"role": "user", "content": "x"}, *first.output])
    message = server.requests[-1].messages[-1]
    assert message.parts == tuple(
        evolve(part, extra={**part.extra, "item": {"id": item.id, **part.extra.get("item", {})}})
        if isinstance(part, ToolCall)
        else part
        for part, item in zip(DONE.message.parts, first.output, strict=True)
    )


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InvalidRequest("x"), openai.BadRequestError),
        (ContextTooLong("x"), openai.BadRequestError),
        (AuthenticationFailed("x"), openai.AuthenticationError),
        (ModelNotFound("x"), openai.NotFoundError),
        (RateLimited("x", retry_after=7.0), openai.RateLimitError),
        (ServiceUnavailable("x"), openai.InternalServerError),
    ],
)
async def test_the_sdk_raises_its_own_error_for_ours(client, server, error, raised):
    server.error = error
    with pytest.raises(raised) as caught:
        await client.responses.create(**ASKED)
    status, _, body = DIALECT.encode_error(error)
    assert (caught.value.status_code, caught.value.body) == (status, body["error"])


async def test_the_sdk_raises_for_an_error_inside_a_stream(client, server):
    server.error = Overloaded("busy", code="slow_down")
    with pytest.raises(openai.APIError, match="busy") as caught:
        [event async for event in await client.responses.create(**ASKED, stream=True)]
    assert caught.value.code == "slow_down"


async def test_the_sdk_learns_which_field_is_wrong(client):
    with pytest.raises(
        openai.BadRequestError, match=r"input\[0\]\.content\[0\]\.text: is required"
    ) as caught:
        await client.responses.create(
            model="m", input=[{"role": "user", "content": [{"type": "input_text"}]}]
        )
    assert caught.value.param == "input[0].content[0].text"
