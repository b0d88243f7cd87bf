"""Cohere's own SDK against the server's side of the dialect, over a real connection."""

from __future__ import annotations

import asyncio

import cohere
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cohere.core.api_error import ApiError
from cohere.errors import BadRequestError, NotFoundError, TooManyRequestsError, UnauthorizedError

from llmpipe.dialects.cohere_chat import CohereChat
from llmpipe.errors import (
    AuthenticationFailed,
    ContextTooLong,
    LLMError,
    ModelNotFound,
    Overloaded,
    RateLimited,
)
from llmpipe.types import (
    Completion,
    Document,
    Embeddings,
    Message,
    ModelInfo,
    Ping,
    Ranked,
    Ranking,
    Reasoning,
    Request,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    unfold,
)

pytestmark = pytest.mark.real_time

DIALECT = CohereChat()
CITATION = {
    "start": 0,
    "end": 5,
    "text": "Grüße",
    "sources": [{"type": "document", "id": "d1", "document": {"id": "d1", "text": "facts"}}],
    "type": "TEXT_CONTENT",
    "content_index": 1,
}
LOGPROBS = {"text": "Grüße", "token_ids": [1, 2], "logprobs": [-0.5, -0.25]}
DONE = Completion(
    id="reply_1",
    message=Message(
        "assistant",
        [
            Reasoning("I look.", extra={"field": "tool_plan"}),
            Reasoning("why"),
            Text("Grüße ✓"),
            ToolCall("c1", "weather", '{"city":"Paris"}'),
            ToolCall("c2", "time", "{}"),
        ],
        extra={"citations": [CITATION]},
        dialect="cohere.chat",
    ),
    finish_reason="tool_calls",
    usage=Usage(
        5, 9, 0, 0, 4, extra={"tokens": {"input_tokens": 99, "output_tokens": 12}, "cached_tokens": 80}
    ),
    extra={"logprobs": [LOGPROBS]},
)


class Server:
    """POST /v2/chat and its neighbours, answering `done` or failing with `error`."""

    def __init__(self) -> None:
        self.url = ""
        self.done = DONE
        self.error: LLMError | None = None
        self.requests = []

    async def chat(self, http: web.Request) -> web.StreamResponse:
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

    async def embed(self, http: web.Request) -> web.Response:
        request = DIALECT.decode_embedding_request(orjson.loads(await http.read()))
        self.requests.append(request)
        found = Embeddings(
            tuple([[0.5, float(i)] for i, _ in enumerate(request.inputs)]), usage=Usage(3), id="e1"
        )
        return self.json(DIALECT.encode_embeddings(found, request))

    async def rerank(self, http: web.Request) -> web.Response:
        request = DIALECT.decode_rerank_request(orjson.loads(await http.read()))
        self.requests.append(request)
        ranking = Ranking((Ranked(1, 0.9), Ranked(0, 0.1)), id="r1", usage=Usage(4))
        return self.json(DIALECT.encode_ranking(ranking, request))

    async def models(self, http: web.Request) -> web.Response:
        return self.json(DIALECT.encode_models([ModelInfo("command-test", context_tokens=1000)]))

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
    app.router.add_post("/v2/chat", fake.chat)
    app.router.add_post("/v2/embed", fake.embed)
    app.router.add_post("/v2/rerank", fake.rerank)
    app.router.add_get("/v1/models", fake.models)
    async with TestServer(app) as running:
        fake.url = str(running.make_url("/")).rstrip("/")
        yield fake


@pytest.fixture
async def client(server):
    client = cohere.AsyncClientV2(api_key="key", base_url=server.url, max_retries=0)
    async with client:
        yield client


ASKED = {
    "model": "command-test",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "tool_plan": "I look.",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city":"P"}'}}
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": [{"type": "document", "document": {"data": {"sky": "clear"}}}],
        },
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}},
        }
    ],
    "tool_choice": "REQUIRED",
    "documents": [{"id": "d1", "data": {"text": "facts"}}],
    "thinking": {"type": "enabled", "token_budget": 1024},
    "p": 0.5,
}


def check(reply):
    """What the SDK made of `DONE`."""
    assert (reply.id, reply.finish_reason) == ("reply_1", "TOOL_CALL")
    message = reply.message
    assert (message.role, message.tool_plan) == ("assistant", "I look.")
    thinking, text = message.content
    assert (thinking.type, thinking.thinking) == ("thinking", "why")
    assert (text.type, text.text) == ("text", "Grüße ✓")
    weather, time = message.tool_calls
    assert (weather.id, weather.function.name, weather.function.arguments) == (
        "c1",
        "weather",
        '{"city":"Paris"}',
    )
    assert (time.id, time.function.arguments) == ("c2", "{}")
    (citation,) = message.citations
    assert (citation.text, citation.content_index, citation.sources[0].document["text"]) == (
        "Grüße",
        1,
        "facts",
    )
    assert (reply.usage.billed_units.input_tokens, reply.usage.billed_units.output_tokens) == (5, 9)
    assert (reply.usage.tokens.input_tokens, reply.usage.cached_tokens) == (99, 80)
    assert reply.logprobs[0].token_ids == [1, 2]


async def test_the_sdk_reads_a_full_reply(client, server):
    check(await client.chat(**ASKED))
    (request,) = server.requests
    assert isinstance(request, Request)
    assert (request.tool_choice, request.top_p, request.stream) == ("required", 0.5, False)
    assert request.reasoning.max_tokens == 1024
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.messages[1].parts[0] == Document(text="facts", extra={"id": "d1"})
    assert isinstance(request.messages[3].parts[0], ToolResult)


async def test_the_sdk_reads_a_stream(client, server):
    text = thinking = plan = ""
    calls, citations, logprobs, kinds, last = {}, [], [], [], None
    async for event in client.chat_stream(**ASKED):
        kinds.append(event.type)
        if event.type in ("content-start", "content-delta"):
            text += event.delta.message.content.text or ""
            thinking += event.delta.message.content.thinking or ""
            logprobs += [event.logprobs] if getattr(event, "logprobs", None) else []
        elif event.type == "tool-plan-delta":
            plan += event.delta.message.tool_plan
        elif event.type == "tool-call-start":
            call = event.delta.message.tool_calls
            calls[event.index] = [call.id, call.function.name, call.function.arguments]
        elif event.type == "tool-call-delta":
            calls[event.index][2] += event.delta.message.tool_calls.function.arguments
        elif event.type == "citation-start":
            citations.append(event.delta.message.citations)
        elif event.type == "message-end":
            last = event.delta
    assert (plan, thinking, text) == ("I look.", "why", "Grüße ✓")
    assert calls == {0: ["c1", "weather", '{"city":"Paris"}'], 1: ["c2", "time", "{}"]}
    assert [citation.text for citation in citations] == ["Grüße"]
    assert [item.token_ids for item in logprobs] == [[1, 2]]
    assert (last.finish_reason, last.usage.billed_units.output_tokens) == ("TOOL_CALL", 9)
    assert kinds[0] == "message-start"
    assert kinds[-1] == "message-end"
    assert kinds.count("content-start") == kinds.count("content-end") == 2
    assert kinds.count("tool-call-start") == kinds.count("tool-call-end") == 2
    assert server.requests[0].stream


async def test_the_sdk_without_async_reads_the_same(server):
    def ask() -> tuple[object, list[str]]:
        with cohere.ClientV2(api_key="key", base_url=server.url, max_retries=0) as client:
            return client.chat(**ASKED), [event.type for event in client.chat_stream(**ASKED)]

    reply, kinds = await asyncio.to_thread(ask)
    check(reply)
    assert kinds[-1] == "message-end"


async def test_what_the_sdk_gives_back_of_a_reply_is_the_message_that_was_sent(client, server):
    """A caller appends the reply's message, as the SDK has it, to the next request."""
    message = Message(
        "assistant", [Reasoning("why", "sig", origin="gemini.generate"), Text("A")], dialect="x"
    )
    server.done = Completion(id="r", message=message, finish_reason="stop")
    reply = await client.chat(model="m", messages=[{"role": "user", "content": "hi"}])
    await client.chat(model="m", messages=[{"role": "user", "content": "hi"}, reply.message])
    (thought, text) = server.requests[1].messages[1].parts
    assert (thought.text, thought.signature, thought.origin) == ("why", "sig", "gemini.generate")
    assert text.text == "A"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ContextTooLong("too long"), BadRequestError),
        (AuthenticationFailed("who"), UnauthorizedError),
        (ModelNotFound("none"), NotFoundError),
        (RateLimited("slow down", retry_after=2), TooManyRequestsError),
        (Overloaded("busy"), ApiError),
    ],
)
async def test_the_sdk_raises_its_own_errors(client, server, error, kind):
    server.error = error
    with pytest.raises(kind) as caught:
        await client.chat(**ASKED)
    assert caught.value.status_code == error.status
    assert error.message in caught.value.body["message"]


async def test_the_sdk_sees_the_end_of_a_stream_that_fails(client, server):
    server.error = Overloaded("busy")
    events = [event async for event in client.chat_stream(**ASKED)]
    assert (events[-1].delta.finish_reason, events[-1].delta.error) == ("ERROR", "busy")


async def test_a_wrong_request_is_named_to_the_sdk(client):
    with pytest.raises(BadRequestError) as caught:
        await client.chat(model="m", messages=[{"role": "user", "content": 7}])
    assert caught.value.body["message"].startswith("messages[0].content")


async def test_the_sdk_reads_vectors_rankings_and_models(client, server):
    vectors = await client.embed(
        model="m", input_type="search_query", texts=["a", "b"], embedding_types=["float", "base64"]
    )
    assert vectors.embeddings.float_ == [[0.5, 0.0], [0.5, 1.0]]
    assert len(vectors.embeddings.base64) == 2
    assert vectors.meta.billed_units.input_tokens == 3
    assert server.requests[0].input_type == "query"
    ranking = await client.rerank(model="m", query="q", documents=["a", "b"], top_n=2)
    assert [(one.index, one.relevance_score) for one in ranking.results] == [(1, 0.9), (0, 0.1)]
    assert server.requests[1].top_n == 2
    listed = await client.models.list()
    assert [(model.name, model.context_length) for model in listed.models] == [("command-test", 1000)]
