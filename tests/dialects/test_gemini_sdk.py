"""Google's own SDK against the server's side of the dialect, over a real connection."""

from __future__ import annotations

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmpipe.dialects.gemini_generate import GeminiGenerate
from llmpipe.errors import (
    AuthenticationFailed,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    RateLimited,
)
from llmpipe.types import (
    Completion,
    Embeddings,
    Image,
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

genai = pytest.importorskip("google.genai")
types = pytest.importorskip("google.genai.types")
api_errors = pytest.importorskip("google.genai.errors")

pytestmark = [
    pytest.mark.real_time,
    # The SDK's own doings: it inherits from aiohttp's session.
    pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning"),
]

NAME = "gemini.generate"
DIALECT = GeminiGenerate()
SIGNATURE = "c2ln/+8="
DONE = Completion(
    id="r1",
    model="gemini-test",
    message=Message(
        "assistant",
        [
            Reasoning("why"),
            Opaque(NAME, {"executableCode": {"language": "PYTHON", "code": "print(1)"}}),
            Opaque(NAME, {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}}),
            Text("Grüße ✓"),
            Image(data="iVBORw0KGgo=", media_type="image/png"),
            Reasoning("", SIGNATURE, origin=NAME),
            ToolCall("c1", "weather", '{"city":"Paris"}'),
            ToolCall("c2", "time", "{}"),
        ],
        dialect=NAME,
    ),
    finish_reason="tool_calls",
    usage=Usage(135, 9, 100, 0, 4, extra={"trafficType": "ON_DEMAND"}),
    extra={"safetyRatings": [{"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "LOW"}]},
)
CLAUDE = Completion(
    id="msg_1",
    model="claude",
    message=Message(
        "assistant",
        [
            Reasoning("hm", "sig of claude", origin="anthropic.messages"),
            Reasoning("", None, "redacted", origin="anthropic.messages"),
            Text("Hi", {"citations": []}),
            ToolCall("toolu_1", "weather", '{"city":"Paris"}'),
        ],
        extra={"service_tier": "x"},
        dialect="anthropic.messages",
    ),
    finish_reason="tool_calls",
    usage=Usage(5, 6, extra={"service_tier": "standard"}),
    extra={"stop_sequence": "END"},
)


class Server:
    """The paths of the Gemini API, answering `done` or failing with `error`."""

    def __init__(self) -> None:
        self.url = ""
        self.done = DONE
        self.error: LLMError | None = None
        self.bodies = []
        self.requests = []

    async def post(self, http: web.Request) -> web.StreamResponse:
        model, _, method = http.match_info["call"].partition(":")
        assert model == "gemini-test"
        body = orjson.loads(await http.read())
        self.bodies.append(body)
        try:
            if self.error is not None and method != "streamGenerateContent":
                raise self.error
            return await getattr(self, method)(http, body)
        except LLMError as error:
            status, headers, wire = DIALECT.encode_error(error)
            return self.json(wire, status, headers)

    async def generateContent(self, http: web.Request, body) -> web.StreamResponse:
        self.requests.append(DIALECT.decode_request(body))
        return self.json(DIALECT.encode_reply(self.done))

    async def streamGenerateContent(self, http: web.Request, body) -> web.StreamResponse:
        assert http.query["alt"] == "sse"
        request = DIALECT.decode_request(body)
        self.requests.append(request)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(http)
        encoder = DIALECT.encoder(request)
        for event in (Ping(), *unfold(self.done)):
            await response.write(encoder.feed(event))
        await response.write(encoder.close() if self.error is None else encoder.fail(self.error))
        return response

    async def countTokens(self, http: web.Request, body) -> web.StreamResponse:
        self.requests.append(DIALECT.decode_count_request(body))
        return self.json(DIALECT.encode_count(12))

    async def batchEmbedContents(self, http: web.Request, body) -> web.StreamResponse:
        request = DIALECT.decode_embedding_request(body)
        self.requests.append(request)
        found = Embeddings(tuple([float(i), 0.5] for i, _ in enumerate(request.inputs)), usage=Usage(3))
        return self.json(DIALECT.encode_embeddings(found, request))

    async def models(self, http: web.Request) -> web.Response:
        listed = [ModelInfo("gemini-test", context_tokens=1000, max_output_tokens=10), ModelInfo("b")]
        return self.json(DIALECT.encode_models(listed))

    @staticmethod
    def json(body, status=200, headers=None) -> web.Response:
        headers = {"content-type": "application/json", **(headers or {})}
        return web.Response(body=orjson.dumps(body), status=status, headers=headers)


@pytest.fixture
async def server():
    fake = Server()
    app = web.Application()
    app.router.add_post("/{version}/models/{call}", fake.post)
    app.router.add_get("/{version}/models", fake.models)
    async with TestServer(app) as running:
        fake.url = str(running.make_url("/")).rstrip("/")
        yield fake


@pytest.fixture
async def client(server):
    found = genai.Client(api_key="key", http_options=types.HttpOptions(base_url=server.url)).aio
    yield found
    await found.aclose()


def check(parts, response):
    """What the SDK made of `DONE`."""
    thought, code, ran, text, image, weather, time = parts
    assert (thought.thought, thought.text) == (True, "why")
    assert code.executable_code.code == "print(1)"
    assert ran.code_execution_result.output == "1"
    assert text.text == "Grüße ✓"
    assert (image.inline_data.mime_type, image.inline_data.data[:4]) == ("image/png", b"\x89PNG")
    assert (weather.function_call.id, weather.function_call.name) == ("c1", "weather")
    assert weather.function_call.args == {"city": "Paris"}
    assert weather.thought_signature == b"sig\xff\xef"
    assert (time.function_call.id, time.function_call.args) == ("c2", {})
    assert (response.response_id, response.model_version) == ("r1", "gemini-test")
    assert response.candidates[0].finish_reason == types.FinishReason.STOP
    usage = response.usage_metadata
    assert (usage.prompt_token_count, usage.cached_content_token_count) == (135, 100)
    assert (usage.candidates_token_count, usage.thoughts_token_count, usage.total_token_count) == (5, 4, 144)
    assert response.candidates[0].safety_ratings[0].probability == types.HarmProbability.LOW


def weather(city: str) -> str:
    """The weather of a city."""
    raise AssertionError(city)


CONFIG = {
    "system_instruction": "Be brief.",
    "temperature": 0.5,
    "max_output_tokens": 99,
    "top_k": 4,
    "stop_sequences": ["END"],
    "tools": [weather],
    "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["weather"]}},
    "automatic_function_calling": {"disable": True},
    "thinking_config": {"thinking_budget": 128, "include_thoughts": True},
}


async def test_the_sdk_reads_a_full_reply(client, server):
    response = await client.models.generate_content(model="gemini-test", contents="Hello", config=CONFIG)
    check(response.candidates[0].content.parts, response)
    (request,) = server.requests
    assert [(m.role, m.text) for m in request.messages] == [("system", "Be brief."), ("user", "Hello")]
    assert (request.temperature, request.max_tokens, request.stop) == (0.5, 99, ("END",))
    assert request.extra == {"topK": 4}
    assert request.tool_choice == NamedTool("weather")
    (tool,) = request.tools
    assert (tool.name, tool.description) == ("weather", "The weather of a city.")
    assert tool.parameters["properties"] == {"city": {"type": "string"}}
    assert request.reasoning.max_tokens == 128


async def test_the_sdk_reads_a_stream(client, server):
    chunks = [
        chunk
        async for chunk in await client.models.generate_content_stream(model="gemini-test", contents="Hello")
    ]
    parts = [part for chunk in chunks for part in chunk.candidates[0].content.parts or []]
    assert parts.pop().text == ""  # the last chunk's, which has the finish reason
    check(parts, chunks[-1])


async def test_the_sdk_sends_back_what_it_got(client, server):
    first = await client.models.generate_content(model="gemini-test", contents="Hello")
    answers = [
        types.Part.from_function_response(name="time", response={"output": "now"}),
        types.Part(
            function_response=types.FunctionResponse(id="c1", name="weather", response={"error": "no"})
        ),
    ]
    history = [
        types.UserContent("Hello"),
        first.candidates[0].content,
        types.Content(role="user", parts=answers),
    ]
    await client.models.generate_content(model="gemini-test", contents=history)
    request = server.requests[-1]
    turn, time, sky = request.messages[1:]
    # The SDK writes bytes in base64's other alphabet.
    signatures = [part.signature for part in turn.parts if isinstance(part, Reasoning) and part.signature]
    assert signatures == [SIGNATURE.replace("/", "_").replace("+", "-")]
    assert [part for part in turn.parts if not isinstance(part, Reasoning)] == [
        part for part in DONE.message.parts if not isinstance(part, Reasoning)
    ]
    assert time.parts == (ToolResult("c2", "now", name="time"),)
    assert sky.parts == (ToolResult("c1", "no", is_error=True, name="weather"),)
    sent = DIALECT.encode_request(request)["contents"][2]["parts"]
    assert [part["functionResponse"]["id"] for part in sent] == ["c1", "c2"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_another_providers_proofs_come_back_whole(client, server, streamed):
    server.done = CLAUDE
    chat = client.chats.create(model="gemini-test")
    if streamed:
        async for _ in await chat.send_message_stream("Hello"):
            pass
    else:
        await chat.send_message("Hello")
    await chat.send_message("And?")
    turns = [message for message in server.requests[-1].messages if message.role == "assistant"]
    parts = [part for part in turns[0].parts if part != Text("")]
    assert parts == [*CLAUDE.message.parts[:2], Text("Hi"), CLAUDE.message.parts[3]]
    assert [part.origin for part in parts[:2]] == ["anthropic.messages"] * 2


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (InvalidRequest("no such field", metadata={"param": "contents"}), 400, "INVALID_ARGUMENT"),
        (AuthenticationFailed("who are you"), 401, "UNAUTHENTICATED"),
        (ModelNotFound("no such model"), 404, "NOT_FOUND"),
        (RateLimited("slow down", retry_after=1.5), 429, "RESOURCE_EXHAUSTED"),
        (Overloaded("full"), 503, "UNAVAILABLE"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_sdk_raises_its_own_errors(client, server, error, status, word, streamed):
    server.error = error
    with pytest.raises(api_errors.APIError) as caught:
        if streamed:
            async for _ in await client.models.generate_content_stream(model="gemini-test", contents="x"):
                pass
        else:
            await client.models.generate_content(model="gemini-test", contents="x")
    assert (caught.value.code, caught.value.status, caught.value.message) == (status, word, error.message)


async def test_the_sdk_counts_embeds_and_lists(client, server):
    assert (await client.models.count_tokens(model="gemini-test", contents="Hello")).total_tokens == 12
    assert server.requests[-1].messages[0].text == "Hello"
    found = await client.models.embed_content(
        model="gemini-test",
        contents=[types.Content(parts=[types.Part(text=text)]) for text in ("a", "b")],
        config={"output_dimensionality": 2, "task_type": "RETRIEVAL_QUERY"},
    )
    assert [one.values for one in found.embeddings] == [[0.0, 0.5], [1.0, 0.5]]
    request = server.requests[-1]
    assert (request.model, request.inputs) == ("gemini-test", ("a", "b"))
    assert (request.dimensions, request.input_type) == (2, "query")
    assert DIALECT.encode_embedding_request(request) == server.bodies[-1]
    models = [model async for model in await client.models.list()]
    assert [(model.name, model.input_token_limit) for model in models] == [
        ("models/gemini-test", 1000),
        ("models/b", None),
    ]
