"""Anthropic's own SDK against the server's side of the dialect, over a real connection."""

from __future__ import annotations

import anthropic
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.errors import (
    AuthenticationFailed,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    NetworkError,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    RequestTooLarge,
    ServiceUnavailable,
    Timeout,
)
from llmpipe.types import (
    Completion,
    Message,
    ModelInfo,
    NamedTool,
    Opaque,
    Ping,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    unfold,
)

pytestmark = pytest.mark.real_time

DIALECT = AnthropicMessages()
SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {
            "type": "web_search_result",
            "title": "t",
            "url": "https://x",
            "encrypted_content": "e",
            "page_age": None,
        }
    ],
}
CITATION = {
    "type": "web_search_result_location",
    "cited_text": "c",
    "url": "https://x",
    "title": "t",
    "encrypted_index": "i",
}
DONE = Completion(
    id="msg_1",
    model="claude-test",
    message=Message(
        "assistant",
        [
            Reasoning("why", "sig=="),
            Reasoning("", None, "secret"),
            Opaque("anthropic.messages", SEARCH),
            Opaque("anthropic.messages", FOUND),
            Text("Grüße ✓", {"citations": [CITATION]}),
            ToolCall("toolu_1", "weather", '{"city":"Paris"}'),
            ToolCall("toolu_2", "time", "{}"),
        ],
    ),
    finish_reason="tool_calls",
    usage=Usage(135, 9, 100, 30, 4, extra={"service_tier": "standard"}),
)


class Server:
    """POST /v1/messages and its neighbours, answering `done` or failing with `error`."""

    def __init__(self) -> None:
        self.url = ""
        self.done = DONE
        self.error: LLMError | None = None
        self.requests = []

    async def messages(self, http: web.Request) -> web.StreamResponse:
        try:
            request = DIALECT.decode_request(orjson.loads(await http.read()))
            self.requests.append(request)
            if self.error is not None and not request.stream:
                raise self.error
        except LLMError as error:
            return self.failed(error)
        if not request.stream:
            return self.json(DIALECT.encode_reply(self.done))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(http)
        encoder = DIALECT.encoder(request)
        for event in (Ping(), *unfold(self.done)):
            await response.write(encoder.feed(event))
        await response.write(encoder.close() if self.error is None else encoder.fail(self.error))
        return response

    async def count(self, http: web.Request) -> web.Response:
        self.requests.append(DIALECT.decode_request(orjson.loads(await http.read())))
        return self.json({"input_tokens": 12})

    async def models(self, http: web.Request) -> web.Response:
        return self.json(DIALECT.encode_models([ModelInfo("claude-test", created=1_735_689_600.0)]))

    def failed(self, error: LLMError) -> web.Response:
        status, headers, body = DIALECT.encode_error(error)
        return self.json(body, status, headers)

    @staticmethod
    def json(body, status=200, headers=None) -> web.Response:
        headers = {"content-type": "application/json", **(headers or {})}
        return web.Response(body=orjson.dumps(body), status=status, headers=headers)


@pytest.fixture
async def server():
    fake = Server()
    app = web.Application()
    app.router.add_post("/v1/messages", fake.messages)
    app.router.add_post("/v1/messages/count_tokens", fake.count)
    app.router.add_get("/v1/models", fake.models)
    async with TestServer(app) as running:
        fake.url = str(running.make_url("/")).rstrip("/")
        yield fake


@pytest.fixture
async def client(server):
    async with anthropic.AsyncAnthropic(api_key="key", base_url=server.url, max_retries=0) as client:
        yield client


ASKED = {
    "model": "claude-test",
    "max_tokens": 50,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "P"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "sunny"}]},
    ],
    "tools": [{"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}


def check(message):
    """What the SDK made of `DONE`."""
    assert (message.id, message.model, message.role, message.type) == (
        "msg_1",
        "claude-test",
        "assistant",
        "message",
    )
    assert (message.stop_reason, message.stop_sequence) == ("tool_use", None)
    thinking, redacted, search, found, text, weather, time = message.content
    assert (thinking.type, thinking.thinking, thinking.signature) == ("thinking", "why", "sig==")
    assert (redacted.type, redacted.data) == ("redacted_thinking", "secret")
    assert (search.type, search.name, search.input) == ("server_tool_use", "web_search", {"query": "x"})
    assert (found.type, found.content[0].url) == ("web_search_tool_result", "https://x")
    assert (text.type, text.text) == ("text", "Grüße ✓")
    assert text.citations[0].cited_text == "c"
    assert (weather.type, weather.id, weather.name, weather.input) == (
        "tool_use",
        "toolu_1",
        "weather",
        {"city": "Paris"},
    )
    assert (time.id, time.input) == ("toolu_2", {})
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens) == (5, 9)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (100, 30)
    assert usage.output_tokens_details.thinking_tokens == 4


async def test_the_sdk_reads_a_full_reply(client, server):
    check(await client.messages.create(**ASKED))
    (request,) = server.requests
    assert request.tool_choice == NamedTool("weather")
    assert request.parallel_tool_calls is False
    assert request.reasoning.max_tokens == 1024
    assert request.messages[0] == Message(
        "system", Text("Be brief.", {"cache_control": {"type": "ephemeral"}})
    )
    assert request.messages[-1] == Message("tool", ToolResult("t", "sunny"))


async def test_the_sdk_reads_a_stream_to_the_final_message(client, server):
    async with client.messages.stream(**ASKED) as stream:
        kinds = [event.type async for event in stream]
        check(await stream.get_final_message())
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 7
    assert {"text", "thinking", "signature", "citation", "input_json"} <= set(kinds)
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert server.requests[0].stream


async def test_the_sdk_reads_raw_events(client):
    stream = await client.messages.create(**ASKED, stream=True)
    kinds = [event.type async for event in stream]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


async def test_the_sdk_collects_the_text_of_a_stream(client, server):
    server.done = Completion(
        "msg_2",
        "claude-test",
        Message("assistant", "one two"),
        "stop",
        Usage(1, 2),
        extra={"stop_sequence": "END"},
    )
    async with client.messages.stream(**ASKED) as stream:
        assert "".join([text async for text in stream.text_stream]) == "one two"
        final = await stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("end_turn", "END")


async def test_the_sdk_reads_a_refusal(client, server):
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    server.done = Completion(
        "m", "c", finish_reason="refusal", usage=Usage(1, 2), extra={"stop_details": details}
    )
    for final in (await client.messages.create(**ASKED), await _streamed(client)):
        assert final.stop_reason == "refusal"
        assert final.stop_details.category == "cyber"
        assert final.content == []


async def _streamed(client):
    async with client.messages.stream(**ASKED) as stream:
        return await stream.get_final_message()


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (InvalidRequest("x"), anthropic.BadRequestError),
        (ContextTooLong("x"), anthropic.BadRequestError),
        (AuthenticationFailed("x"), anthropic.AuthenticationError),
        (PermissionDenied("x"), anthropic.PermissionDeniedError),
        (ModelNotFound("x"), anthropic.NotFoundError),
        (RateLimited("x", retry_after=7.0), anthropic.RateLimitError),
        (ServiceUnavailable("x"), anthropic.InternalServerError),
        (NetworkError("x"), anthropic.InternalServerError),
        (Overloaded("x"), anthropic.InternalServerError),
        (Timeout("x"), anthropic.InternalServerError),
        (QuotaExceeded("x"), anthropic.APIStatusError),
        (RequestTooLarge("x"), anthropic.APIStatusError),
    ],
)
async def test_the_sdk_raises_its_own_error_for_ours(client, server, error, raised):
    error.request_id = "req_1"
    server.error = error
    with pytest.raises(raised) as caught:
        await client.messages.create(**ASKED)
    status, headers, body = DIALECT.encode_error(error)
    assert caught.value.status_code == status
    assert caught.value.body == body
    assert caught.value.request_id == "req_1"
    assert caught.value.response.headers.get("retry-after") == headers.get("retry-after")


async def test_the_sdk_raises_for_an_error_inside_a_stream(client, server):
    server.error = Overloaded("busy")
    with pytest.raises(anthropic.APIStatusError) as caught:
        await _streamed(client)
    assert caught.value.body == DIALECT.encode_error(server.error)[2]


async def test_the_sdk_learns_which_field_is_wrong(client):
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.0\.content\.0\.text: Field required"):
        await client.messages.create(
            **{**ASKED, "messages": [{"role": "user", "content": [{"type": "text"}]}]}
        )


async def test_the_sdk_counts_and_lists(client, server):
    counted = await client.messages.count_tokens(
        model="claude-test", messages=[{"role": "user", "content": "Hi"}]
    )
    assert counted.input_tokens == 12
    assert server.requests[0].max_tokens is None
    (model,) = (await client.models.list()).data
    assert (model.id, model.type, model.created_at.year) == ("claude-test", "model", 2025)
