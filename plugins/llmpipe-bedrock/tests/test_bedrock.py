"""The provider against a local server that checks each signature with botocore."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from botocore.auth import SigV4Auth  # type: ignore[import-untyped]  # botocore has no types
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]  # as above
from botocore.credentials import Credentials  # type: ignore[import-untyped]  # as above

from llmpipe import (
    AuthenticationFailed,
    Chain,
    ConfigError,
    RateLimited,
    Retry,
    StreamBroken,
    Tool,
    Unsupported,
    provider,
)
from llmpipe.dialects.eventstream import encode
from llmpipe.types import Completion, fold
from llmpipe_bedrock import SigV4, bedrock

ID, KEY, TOKEN = "AKIDEXAMPLEEXAMPLEID", "wJalrXUtnFEMIexampleKEYexample", "session-token-example=="
KEYS = {"access_key_id": ID, "secret_access_key": KEY, "session_token": TOKEN}
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/1arbu5hu2sjr"
WIRE = Path(os.environ.get("LLMPIPE_WIRE") or Path(__file__).parents[4] / "shared" / "wire") / "bedrock"

REPLY = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Hello there."}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
    "metrics": {"latencyMs": 5},
}


def event(kind: str, **fields: Any) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps(fields).encode())


STREAM = b"".join(
    (
        event("messageStart", role="assistant"),
        event("contentBlockDelta", contentBlockIndex=0, delta={"text": "Hello "}),
        event("contentBlockDelta", contentBlockIndex=0, delta={"text": "there."}),
        event("contentBlockStop", contentBlockIndex=0),
        event("messageStop", stopReason="end_turn"),
        event("metadata", usage=REPLY["usage"], metrics=REPLY["metrics"]),
    )
)


def signed_by(request: web.Request, body: bytes) -> bool:
    """Whether botocore, given the same request and the same key, signs it in the same way."""
    told = request.headers["Authorization"]
    names = told.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    again = AWSRequest(
        method=request.method,
        url=f"http://{request.headers['Host']}{request.raw_path}",
        data=body,
        headers={name: request.headers[name] for name in names},
    )
    again.context["timestamp"] = request.headers["X-Amz-Date"]
    signer = SigV4Auth(Credentials(ID, KEY, TOKEN), "bedrock", "us-east-1")
    signature = signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
    return {"host", "x-amz-date"} <= set(names) and told.endswith(f"Signature={signature}")


class Server:
    """Answers as Bedrock does: what is not signed, and carries no known key, with 403."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.stream = STREAM
        self.pieces = 1
        self.failures: list[tuple[int, str, str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.raw_path, dict(request.headers), json.loads(body)))
        if request.headers.get("Authorization") != "Bearer bedrock-api-key-example" and not signed_by(
            request, body
        ):
            return failure(
                403, "InvalidSignatureException", "The request signature we calculated does not match"
            )
        if self.failures:
            return failure(*self.failures.pop())
        named = {"x-amzn-RequestId": "r-1"}
        if not request.path.endswith("-stream"):
            return web.json_response(REPLY, headers=named)
        response = web.StreamResponse(headers={**named, "Content-Type": "application/vnd.amazon.eventstream"})
        await response.prepare(request)
        step = -(-len(self.stream) // self.pieces)
        for at in range(0, len(self.stream), step):
            await response.write(self.stream[at : at + step])
            await asyncio.sleep(0)
        return response


def failure(status: int, name: str, message: str) -> web.Response:
    headers = {"x-amzn-ErrorType": f"{name}:http://internal.amazon.com/coral/", "x-amzn-RequestId": "r-2"}
    return web.json_response({"message": message}, status=status, headers=headers)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application(client_max_size=2**24)
    app.router.add_route("POST", "/{any:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


@asynccontextmanager
async def chain_to(server: Server, *middleware: Any, **options: Any) -> AsyncIterator[Chain]:
    options = {"region": "us-east-1", "model": CLAUDE, **options}
    target = bedrock(base_url=server.url, **options)
    chain = Chain(target, *middleware)
    try:
        yield chain
    finally:
        await target.aclose()


async def streamed(chain: Chain, prompt: str = "hi") -> Completion:
    async with chain.stream(prompt) as reply:
        return fold([event async for event in reply])


async def test_signed_requests_are_answered_whole_and_streamed():
    async with serving() as server, chain_to(server, **KEYS) as chain:
        for done in (await chain.complete("hi"), await streamed(chain)):
            assert (done.text, done.finish_reason) == ("Hello there.", "stop")
            assert (done.usage.input_tokens, done.usage.output_tokens) == (3, 4)
            assert (done.provider, done.request_id) == ("bedrock", "r-1")
            assert done.message.dialect == "bedrock.converse"
    paths = [path for path, _, _ in server.requests]
    model = CLAUDE.replace(":", "%3A")
    assert paths == [f"/model/{model}/converse", f"/model/{model}/converse-stream"]
    for _, headers, body in server.requests:
        assert body == {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}
        assert headers["X-Amz-Security-Token"] == TOKEN
        assert KEY not in str(headers)


async def test_models_that_are_addresses_of_their_own_are_signed_too():
    async with serving() as server, chain_to(server, **KEYS) as chain:
        assert (await chain.complete("hi", model=ARN)).text == "Hello there."
        assert (await chain.complete("hi", model="custom model/ä~é")).text == "Hello there."
    assert server.requests[0][0] == f"/model/{ARN.replace(':', '%3A').replace('/', '%2F')}/converse"


async def test_an_api_key_is_sent_as_it_is(monkeypatch):
    async with serving() as server:
        async with chain_to(server, api_key="bedrock-api-key-example") as chain:
            assert (await chain.complete("hi")).text == "Hello there."
        monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-example")
        async with chain_to(server) as chain:
            assert (await streamed(chain)).text == "Hello there."
    assert all("X-Amz-Date" not in headers for _, headers, _ in server.requests)


async def test_what_is_given_counts_more_than_the_surroundings(monkeypatch):
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "another")
    async with serving() as server, chain_to(server, **KEYS) as chain:
        assert (await chain.complete("hi")).text == "Hello there."


async def test_credentials_of_the_surroundings_sign(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    async with serving() as server, chain_to(server) as chain:
        assert (await chain.complete("hi")).text == "Hello there."


async def test_without_credentials_nothing_is_sent():
    async with serving() as server, chain_to(server) as chain:
        with pytest.raises(AuthenticationFailed, match="no AWS credentials") as caught:
            await chain.complete("hi")
    assert server.requests == []
    assert (caught.value.provider, caught.value.sent) == ("bedrock", False)


async def test_a_wrong_key_is_a_failed_authentication():
    wrong = {"access_key_id": ID, "secret_access_key": "another-key-than-the-one"}
    async with serving() as server, chain_to(server, **wrong) as chain:
        with pytest.raises(AuthenticationFailed, match="signature") as caught:
            await chain.complete("hi")
    assert (caught.value.code, caught.value.request_id) == ("InvalidSignatureException", "r-2")


async def test_each_attempt_is_signed_anew():
    async with serving() as server, chain_to(server, Retry(base=0.001), **KEYS) as chain:
        server.failures = [(429, "ThrottlingException", "Too many requests")]
        assert (await streamed(chain)).text == "Hello there."
        server.failures = [(429, "ThrottlingException", "Too many requests")] * 9
        with pytest.raises(RateLimited):
            await chain.complete("hi")


async def test_a_stream_that_ends_too_soon_is_broken():
    async with serving() as server, chain_to(server, **KEYS) as chain:
        for cut in (len(STREAM) // 2, 300, 200):
            server.stream = STREAM[:cut]
            with pytest.raises(StreamBroken):
                await streamed(chain)


async def test_what_the_wire_cannot_say_is_told():
    async with serving() as server, chain_to(server, **KEYS) as chain:
        done = await chain.complete("hi", seed=1, tools=[Tool("t")], tool_choice="none")
        assert [warning.split(" ")[0] for warning in done.warnings] == ["tool_choice", "seed"]
    with pytest.raises(Unsupported, match="embeddings"):
        await Chain(bedrock(region="us-east-1", model="x", **KEYS)).embed(["x"])


def recorded() -> list[Any]:
    streams = []
    for path in sorted(WIRE.glob("converse_stream-*.json")):
        exchange = json.loads(path.read_text("utf-8"))
        if "body_base64" in exchange:
            streams.append(pytest.param(base64.b64decode(exchange["body_base64"]), id=path.stem))
    return streams or [pytest.param(STREAM, id="made by hand")]


@pytest.mark.parametrize("stream", recorded())
async def test_recorded_streams_come_through_in_any_pieces(stream):
    async with serving() as server, chain_to(server, **KEYS) as chain:
        server.stream = stream
        whole = await streamed(chain)
        assert whole.finish_reason
        assert whole.usage
        server.pieces = 50
        assert await streamed(chain) == whole


# ------------------------------------------------------------ settings


def test_it_is_found_by_its_entry_point():
    if "bedrock" not in {point.name for point in entry_points(group="llmpipe.providers")}:
        pytest.skip("the package is not installed")
    made = provider("bedrock", region="eu-central-1", model="m", **KEYS)
    assert (made.name, made.endpoint, made.model) == (
        "bedrock", "bedrock-runtime.eu-central-1.amazonaws.com", "m"
    )  # fmt: skip
    with pytest.raises(ConfigError, match="did you mean 'region'"):
        provider("bedrock", regin="eu-central-1")


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-gov-west-1", "bedrock-runtime.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "bedrock-runtime.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_a_region_has_its_host(region, host):
    assert bedrock(region=region, **KEYS).endpoint == host


def test_the_region_is_that_of_the_surroundings(monkeypatch, tmp_path):
    (tmp_path / "config").write_text("[default]\nregion=us-east-2\n[profile work]\nregion=us-west-1\n")
    assert "us-east-2" in bedrock(**KEYS).endpoint
    assert "us-west-1" in bedrock(profile="work").endpoint
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert "eu-west-1" in bedrock(**KEYS).endpoint
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert "eu-west-2" in bedrock(**KEYS).endpoint
    assert "eu-west-3" in bedrock(region="eu-west-3", **KEYS).endpoint


def test_a_key_for_an_address_of_ones_own_needs_no_region():
    assert bedrock(api_key="abc", base_url="https://proxy.example/bedrock").endpoint == "proxy.example"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs region"),
        ({"base_url": "https://vpc.example", **KEYS}, "needs region"),
        ({"region": "evil.example/"}, "region must be"),
        ({"region": "us-east-1", "api_key": "x", **KEYS}, "two ways"),
        ({"region": "us-east-1", "access_key_id": "x"}, "go together"),
        ({"region": "us-east-1", "quirks": {"json": 1}, **KEYS}, "no quirk 'json'"),
        ({"profile": "nobodys"}, "nobodys"),
    ],
)
def test_wrong_settings_are_refused_at_construction(options, said):
    with pytest.raises(ConfigError, match=said):
        bedrock(**options)


def test_quirks_reach_the_dialect_and_no_repr_shows_a_secret():
    made = bedrock(region="us-east-1", quirks={"json_schema": False}, **KEYS)
    assert made.dialect.json_schema is False
    for text in (repr(made), repr(vars(made)), repr(SigV4("us-east-1", **KEYS))):
        assert KEY not in text
        assert TOKEN not in text


async def test_no_secret_that_was_sent_stands_in_an_error():
    async with serving() as server, chain_to(server, **KEYS) as chain:
        server.failures = [(400, "ValidationException", f"what is {TOKEN}?")]
        with pytest.raises(Exception, match="what is") as caught:
            await chain.complete("hi")
    assert TOKEN not in str(caught.value)
