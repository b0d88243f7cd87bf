"""Where each kind of call goes at each provider, and what goes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from llmpipe import Capabilities, Chain, EmbeddingRequest, Message, Request, Tool
from llmpipe.errors import ConfigError, InvalidRequest, LLMError, Unsupported
from llmpipe.providers import factory
from llmpipe.providers.http import HTTPProvider
from llmpipe.providers.profiles import PROFILES, Profile
from llmpipe.types import Audio, Document
from tests.providers.kit import BODY, Peer, Server, response

pytestmark = pytest.mark.real_time
provider: Any = factory.provider  # whose providers are looked at from inside here

CHAT = {
    "openai": "POST /v1/chat/completions",
    "anthropic": "POST /v1/messages",
    "azure": "POST /v1/chat/completions",
    "azure-deployments": "POST /v1/deployments/m/chat/completions?api-version=2024-10-21",
    "azure-anthropic": "POST /v1/messages",
    "gemini": "POST /v1/models/m:generateContent",
    "vertex": "POST /v1/publishers/google/models/m:generateContent",
    "vertex-anthropic": "POST /v1/publishers/anthropic/models/m:rawPredict",
    "cohere": "POST /v1/v2/chat",
    "perplexity": "POST /v1/chat/completions",
}
STREAM = {
    **CHAT,
    "gemini": "POST /v1/models/m:streamGenerateContent?alt=sse",
    "vertex": "POST /v1/publishers/google/models/m:streamGenerateContent?alt=sse",
    "vertex-anthropic": "POST /v1/publishers/anthropic/models/m:streamRawPredict",
}


@asynccontextmanager
async def desk(body: bytes = b"{}", status: str = "404 Not Found") -> AsyncIterator[Server]:
    """A server that says the same to all, and keeps what it was asked."""

    async def script(peer: Peer, number: int) -> None:
        while True:
            head, sent = await peer.request()
            server.requests.append(head)
            server.bodies.append(sent)
            await peer.send(response(body, status=status))

    async with Server(script) as server:
        yield server


async def asked(core: Any, server: Server, request: Any) -> tuple[str, dict[str, str], Any]:
    """The request line, the headers and the body that `request` becomes; how it ends does not matter."""
    with pytest.raises(LLMError):
        await core(Chain(core).new_call(request))
    lines = server.requests[-1].decode().strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    body = server.bodies[-1]
    return lines[0].removesuffix(" HTTP/1.1"), headers, orjson.loads(body) if body else None


@pytest.mark.parametrize("kind", PROFILES)
async def test_a_chat_goes_where_its_provider_wants_it(kind):
    async with desk() as server:
        core = provider(kind, api_key="sk-the-key", base_url=server.url)
        line, headers, body = await asked(core, server, Request("m", "hi"))
        assert line == CHAT.get(kind, "POST /v1/chat/completions")
        profile = PROFILES[kind]
        assert headers[profile.key_header.lower()] == profile.key_prefix + "sk-the-key"
        assert ("model" in body) is ("{model}" not in profile.chat_path or kind == "azure-deployments")
        line, _, body = await asked(core, server, Request("m", "hi", stream=True))
        assert line == STREAM.get(kind, "POST /v1/chat/completions")
        await core.aclose()


@pytest.mark.parametrize("kind", [k for k, profile in PROFILES.items() if profile.also])
async def test_a_provider_speaks_its_other_dialects(kind):
    for name, changes in PROFILES[kind].also.items():
        async with desk() as server:
            core = provider(kind, api_key="sk-the-key", base_url=server.url, dialect=name)
            line, _, _ = await asked(core, server, Request("m", "hi"))
            assert line == f"POST /v1{changes['chat_path']}".format(api_version="2025-04-01-preview")
            assert core.dialect.name == name
            await core.aclose()
    with pytest.raises(ConfigError, match=r"speaks .*, not .gemini\.generate."):
        provider(kind, api_key="sk-the-key", base_url="https://x.example", dialect="gemini.generate")
    with pytest.raises(ConfigError, match=r"no such dialect is known; did you mean '[a-z.]+'\?"):
        provider(kind, api_key="sk-the-key", base_url="https://x.example", dialect=f"{name}s")


async def test_anthropic_on_vertex_names_its_version_in_the_body():
    async with desk() as server:
        core = provider("vertex-anthropic", api_key="sk-the-key", base_url=server.url)
        _, headers, body = await asked(core, server, Request("claude-x@20250101", "hi", max_tokens=5))
        assert body["anthropic_version"] == "vertex-2023-10-16"
        assert "model" not in body
        assert "anthropic-version" not in headers
        await core.aclose()


@pytest.mark.parametrize(
    ("kind", "options", "url"),
    [
        ("azure", {"resource": "mine"}, "https://mine.openai.azure.com/openai/v1"),
        ("azure-deployments", {"resource": "mine"}, "https://mine.openai.azure.com/openai"),
        ("azure-anthropic", {"resource": "mine"}, "https://mine.services.ai.azure.com/anthropic/v1"),
        (
            "vertex",
            {"project": "p-1", "location": "europe-west1"},
            "https://europe-west1-aiplatform.googleapis.com/v1/projects/p-1/locations/europe-west1",
        ),
        (
            "vertex-anthropic",
            {"project": "p-1"},
            "https://aiplatform.googleapis.com/v1/projects/p-1/locations/global",
        ),
        (
            "vertex",
            {"project": "p-1", "location": "eu"},
            "https://aiplatform.eu.rep.googleapis.com/v1/projects/p-1/locations/eu",
        ),
    ],
)
def test_settings_are_put_into_the_address(kind, options, url):
    assert provider(kind, api_key="sk-the-key", **options).profile.base_url == url


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("azure", {}, "needs resource=…"),
        ("azure", {"resource": "evil.example/x?"}, "resource must be letters, digits"),
        ("azure", {"resource": 7}, "resource must be"),
        ("azure", {"resource": "a", "api_version": "1"}, "no 'api_version'"),
        ("azure-deployments", {"resource": "a", "api_version": "1&x=2"}, "api_version must be"),
        ("vertex", {}, "needs project=…, or GOOGLE_CLOUD_PROJECT"),
        ("vertex", {"project": "a/../b"}, "project must be"),
        ("openai", {"resource": "a"}, "takes no 'resource'"),
    ],
)
def test_a_wrong_setting_is_told(kind, options, says, monkeypatch):
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    with pytest.raises(ConfigError, match=says):
        provider(kind, api_key="sk-the-key", **options)


@pytest.mark.parametrize("model", ["../../v2/secrets", "a/../b", "..", "/x", "a//b"])
async def test_a_model_cannot_climb_out_of_its_path(model):
    async with desk() as server:
        for kind in ("gemini", "azure-deployments"):
            core = provider(kind, api_key="sk-the-key", base_url=server.url)
            with pytest.raises(InvalidRequest, match="no name of a model"):
                await core(Chain(core).new_call(Request(model, "hi")))
            await core.aclose()
        assert server.requests == []


async def test_a_model_is_quoted_in_its_path():
    async with desk() as server:
        core = provider("gemini", api_key="sk-the-key", base_url=server.url)
        for model, path in {
            "gemini-x": "/v1/models/gemini-x:generateContent",
            "models/gemini-x": "/v1/models/gemini-x:generateContent",
            "tunedModels/my one": "/v1/tunedModels/my%20one:generateContent",
            "a?key=b#c:d": "/v1/models/a%3Fkey%3Db%23c%3Ad:generateContent",
            "ü": "/v1/models/%C3%BC:generateContent",
        }.items():
            line, _, _ = await asked(core, server, Request(model, "hi"))
            assert line == f"POST {path}"
        await core.aclose()


async def test_routes_of_ever_new_models_are_not_kept_for_ever():
    async with desk() as server:
        core = provider("gemini", api_key="sk-the-key", base_url=server.url)
        for number in range(600):
            core._at._route("POST", "/{model}:x", f"m{number}", None)
        assert len(core._at._routes) <= 512
        await core.aclose()


@pytest.mark.parametrize(
    ("kind", "request_", "what"),
    [
        ("perplexity", Request("m", "hi", tools=[Tool("look")]), "no tools, which tools asks for"),
        (
            "cerebras",
            Request("m", [Message("user", ["a", Audio("QQ==")])]),
            r"no audio, which messages\[0\]\.parts\[1\] asks for",
        ),
        (
            "groq",
            Request("m", [Message("user", [Document(data="QQ==", media_type="application/pdf")])]),
            r"no documents, which messages\[0\]\.parts\[0\]",
        ),
        ("anthropic", Request("m", [Message("user", [Audio("QQ==")])]), r"no audio, which messages\[0\]"),
        ("anthropic", EmbeddingRequest("m", ["a"]), "no embeddings"),
    ],
)
async def test_a_capability_that_is_lacking_is_told_before_anything_is_sent(kind, request_, what):
    async with desk() as server:
        core = provider(kind, api_key="sk-the-key", base_url=server.url)
        with pytest.raises(Unsupported, match=what) as caught:
            await core(Chain(core).new_call(request_))
        assert not caught.value.sent
        assert server.requests == []
        await core.aclose()


async def test_capabilities_can_be_said_by_who_knows_better():
    async with desk(BODY, "200 OK") as server:
        can = Capabilities(tools=True)
        core = provider("perplexity", api_key="sk-x-y-z", base_url=server.url, model="m", capabilities=can)
        assert (await Chain(core).complete("hi", tools=[Tool("look")])).text == "Hello there."
        assert b'"tools"' in server.bodies[0]
        await core.aclose()


async def test_a_provider_without_streams_is_asked_for_the_whole():
    async with desk(BODY, "200 OK") as server:
        profile = Profile("old", "openai.chat", server.url, capabilities=Capabilities(streaming=False))
        core = HTTPProvider(profile, api_key="sk-x-y-z", model="m")
        async with Chain(core) as chain, chain.stream("hi") as reply:
            assert "".join([text async for text in reply.texts()]) == "Hello there."
        assert b'"stream"' not in server.bodies[0]


async def test_what_is_left_out_is_told_with_the_reply_or_refused():
    async with desk(
        orjson.dumps({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "ok"}], "usage": {"input_tokens": 1, "output_tokens": 1},
        }),
        "200 OK",
    ) as server:  # fmt: skip
        core = provider("anthropic", api_key="sk-x-y-z", base_url=server.url, model="m")
        done = await Chain(core).complete("hi", seed=7)
        assert any(warning.startswith("seed dropped") for warning in done.warnings), done.warnings
        assert (await Chain(core).complete("hi")).warnings == ()
        strict = provider("anthropic", api_key="sk-x-y-z", base_url=server.url, model="m", on_loss="refuse")
        sent = len(server.requests)
        with pytest.raises(Unsupported, match="seed"):
            await Chain(strict).complete("hi", seed=7)
        assert len(server.requests) == sent
        await core.aclose()
        await strict.aclose()


async def test_tokens_are_counted_where_the_provider_does():
    async with desk(b'{"input_tokens": 42}', "200 OK") as server:
        core = provider("anthropic", api_key="sk-x-y-z", base_url=server.url, model="m")
        assert await core.count_tokens("hi") == 42
        assert server.requests[0].startswith(b"POST /v1/messages/count_tokens ")
        assert b"max_tokens" not in server.bodies[0]
        other = provider("openai", api_key="sk-x-y-z", base_url=server.url, model="m")
        with pytest.raises(Unsupported, match="counts no tokens"):
            await other.count_tokens("hi")
        await core.aclose()


class Tokens:
    """An `Auth` that gives another token each time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes | None]] = []

    async def headers(self, method: str, url: str, body: bytes | None) -> dict[str, str]:
        self.asked.append((method, url, body))
        return {"authorization": f"Bearer token-number-{len(self.asked)}"}


async def test_an_auth_gives_every_request_its_headers_and_they_are_kept_out_of_errors():
    auth = Tokens()
    said = orjson.dumps({"error": {"message": "token-number-2 is not known", "code": "x"}})
    async with desk(said, "400 Bad Request") as server:
        core = provider("openai-compatible", base_url=server.url, model="m", auth=auth)
        _, headers, _ = await asked(core, server, Request("m", "hi"))
        assert headers["authorization"] == "Bearer token-number-1"
        with pytest.raises(LLMError) as caught:
            await Chain(core).complete("hi")
        assert "token-number-2" not in str(caught.value)
        assert "is not known" in str(caught.value)
        method, url, body = auth.asked[0]
        assert (method, url) == ("POST", f"{server.url}/chat/completions")
        assert body == server.bodies[0]
        await core.aclose()


def test_what_is_no_auth_is_refused():
    with pytest.raises(ConfigError, match="auth must have an async method headers"):
        provider("openai", auth="sk-token")
