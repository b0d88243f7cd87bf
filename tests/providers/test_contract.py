"""What every provider promises beside answering: who it is, what it can do, keys, models, prices."""

from __future__ import annotations

import traceback
from decimal import Decimal
from typing import Any

import orjson
import pytest

from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ConfigError,
    InvalidRequest,
    LLMError,
    RateLimited,
    Unsupported,
)
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.provider import Capabilities, Provider
from llmpipe.providers import factory
from llmpipe.secret import Secret
from llmpipe.types import EmbeddingRequest, ModelInfo, Request, RerankRequest
from tests.providers.kit import (
    KEY,
    Peer,
    complete,
    leaks,
    nothing_left,
    openai,
    response,
    saying,
    serving,
    stream,
)

pytestmark = pytest.mark.real_time

provider: Any = factory.provider

MADE = {
    "openai": lambda: provider("openai", api_key=KEY, model="gpt-4o-mini"),
    "anthropic": lambda: provider("anthropic", api_key=KEY, model="claude-haiku-4-5"),
    "openai-compatible": lambda: provider("openai-compatible", base_url="http://localhost:1/v1", model="m"),
    "mock": lambda: provider("mock", default="ok"),
}


@pytest.mark.parametrize("kind", MADE)
def test_every_provider_keeps_the_contract(kind):
    core = MADE[kind]()
    assert isinstance(core, Provider)
    assert core.name == kind
    assert core.version
    assert core.endpoint
    assert "/" not in core.endpoint
    assert core.model
    assert isinstance(core.capabilities, Capabilities)
    assert KEY not in repr(core)
    assert core.endpoint in repr(core) or kind == "mock"


@pytest.mark.parametrize("kind", MADE)
async def test_every_provider_can_be_closed_again_and_again(kind):
    core = MADE[kind]()
    await core.aclose()
    await core.aclose()


def test_the_capabilities_are_the_profiles():
    assert MADE["openai"]().capabilities.embeddings
    assert not MADE["anthropic"]().capabilities.embeddings


# -- addresses


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "host/v1",
        "//host/v1",
        "http:///v1",
        "https://",
        "http://[::1/v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://host/v1 HTTP/1.1",
        "http://host/v1\r\nX: 1",
        "file:///etc/passwd",
        "http://host:0/v1",
        "http://a..b/v1",
        "http://" + "a" * 254,
        "http://host\\evil/v1",
        "http://host,other/v1",
        "http://ho%20st/v1",
        "http://[fe80::1%25eth0]/v1",
        "http://[v1.x]/v1",
        "http://host/{model}/v1",
        "http://host/50%/v1",
        "localhost:8000/v1",
        7,
        b"http://host",
    ],
)
def test_a_base_url_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="base_url must be http"):
        openai(url)


@pytest.mark.parametrize("url", ["http://müller.example/v1", "http://host/größe", "http://ｈost/v1"])
def test_a_base_url_is_ascii(url):
    with pytest.raises(ConfigError, match=r"must be ASCII.* xn-- form"):
        openai(url)


@pytest.mark.parametrize(
    "url", ["htp://user:hunter2@host", "user:hunter2@host/v1", "http:/u:hunter2@host/v1", "x?hunter2"]
)
def test_a_password_in_a_base_url_that_is_wrong_is_not_shown(url):
    with pytest.raises(ConfigError) as caught:
        openai(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{KEY}@host/v1",
        f"https://host/v1?key={KEY}",
        "https://host/v1#x",
        "https://host/v1?",
        "https://host/v1#",
        "https://@host/v1",
        "https://:@host/v1",
    ],
)
def test_a_base_url_holds_no_key(url):
    with pytest.raises(ConfigError, match="keys travel in headers only") as caught:
        openai(url)
    assert not leaks(caught.value, frames=False)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://host/v1/", "host"),
        ("http://host:8080", "host:8080"),
        ("http://[::1]:8080/v1", "[::1]:8080"),
        ("https://HOST/a/b/v1//", "HOST"),
        ("HTTPS://host./v1", "host."),
        ("http://my_service:/v1", "my_service:80"),
        ("http://127.0.0.1/models/@first/v1", "127.0.0.1:80"),
    ],
)
def test_an_endpoint_is_the_host_of_the_base_url(url, endpoint):
    assert openai(url).endpoint == endpoint


def test_an_address_of_one_s_own_must_be_named():
    with pytest.raises(ConfigError, match="'openai-compatible' needs base_url"):
        provider("openai-compatible")


@pytest.mark.parametrize(
    "transport",
    [
        {"connect_timeout": 0},
        {"max_connections": 0},
        {"pool_timeout": -1},
        {"keepalive": float("nan")},
        {"max_body_bytes": 0},
        {"max_body_bytes": True},
        {"max_connections": 1.5},
        {"connect_timeout": "5"},
        {"ssl": False},
        {"ssl": None},
        {"ssl": "/etc/ssl/cert.pem"},
        {"timeout": 3},
        {"headers": {}},
        {"base_url": "http://elsewhere"},
    ],
)
def test_the_limits_of_connections_are_checked_when_it_is_made(transport):
    with pytest.raises(ConfigError, match="transport"):
        openai("http://host/v1", transport=transport)


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nY: b"},
        {"X\r\nY": "a"},
        {"": "a"},
        {"X:": "a"},
        {"X": "a\0"},
        {"X": "a\ud800"},
        {"X": 7},
        {"X": None},
        {7: "x"},
        {"Content-Length": "5"},
        {"transfer-encoding": "chunked"},
        {"HOST": "elsewhere"},
        {"Connection": "close"},
        {"Expect": "100-continue"},
    ],
)
def test_a_header_cannot_smuggle_another(headers):
    with pytest.raises(ConfigError, match="header"):
        openai("http://host/v1", headers=headers)


def test_a_header_is_sent_once_in_whatever_case_it_is_given():
    core = openai(
        "http://host/v1", headers={"user-agent": "mine", "AUTHORIZATION": "Bearer theirs", "X": "ü"}
    )
    head = core._chat_route.request(b"").decode().split("\r\n")
    names = [line.partition(":")[0].lower() for line in head[1:-2]]
    assert sorted(names) == sorted(set(names))
    assert "user-agent: mine" in head
    assert f"Authorization: Bearer {KEY}" in head
    assert "X: ü" in head


@pytest.mark.parametrize(
    "options",
    [
        {"model": 7},
        {"name": 7},
        {"headers": ["X"]},
        {"headers": 7},
        {"transport": 7},
        {"transport": [("keepalive", 5)]},
        {"dialect": 7},
    ],
)
def test_a_setting_of_another_kind_is_refused_when_it_is_made(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}.* must be"):
        provider("openai", api_key=KEY, **options)


def test_the_wire_is_one_of_two():
    with pytest.raises(ConfigError, match="wire must be 'auto' or 'stream', not 'both'"):
        openai("http://host/v1", wire="both")


# -- keys


async def test_the_key_is_sent_as_the_profile_says():
    heads: list[bytes] = []

    async def script(peer: Peer, number: int) -> None:
        heads.append((await peer.request())[0])
        await peer.send(response(b"{}"))

    async with serving(script) as server:
        for kind, line in (
            ("openai", f"Authorization: Bearer {KEY}"),
            ("anthropic", f"x-api-key: {KEY}"),
            ("openai-compatible", f"Authorization: Bearer {KEY}"),
        ):
            core = provider(kind, api_key=Secret(KEY), base_url=server.url, model="m")
            with pytest.raises(LLMError):
                await complete(core)
            assert line.encode() in heads[-1]
            assert heads[-1].count(KEY.encode()) == 1
            await nothing_left(core)
        bare = provider("openai-compatible", base_url=server.url, model="m")
        with pytest.raises(LLMError):
            await complete(bare)
        assert b"authorization" not in heads[-1].lower()
        await nothing_left(bare, server)


@pytest.mark.parametrize("ask", [complete, stream])
@pytest.mark.parametrize("key", [KEY, "an-unusual.key:of/no+known/kind", "0123456789abcdef0123456789abcdef"])
@pytest.mark.parametrize("status", ["401 Unauthorized", "400 Bad", "500 Oops", "200 OK"])
async def test_a_key_that_a_server_sends_back_is_in_no_error(ask, key, status, caplog):
    echo = {"message": f"no such key: {key}", "type": f"key {key}", "code": key, "param": key}

    async with serving(
        saying(
            response(orjson.dumps({"error": echo}), status=status, extra=f"x-request-id: {key}\r\n".encode())
        )
    ) as server:
        core = openai(server.url, api_key=key)
        with pytest.raises(LLMError) as caught:
            await ask(core)
        error = caught.value
        shown = [
            str(error),
            repr(error),
            repr(vars(error)),
            repr(error.args),
            *traceback.format_exception(error),
        ]
        assert not any(key in text for text in shown)
        assert key not in caplog.text
        await nothing_left(core, server)


async def test_a_credential_in_a_header_of_ones_own_is_in_no_error_either():
    mine = {
        "api-key": "acme/0123-4567",
        "Cookie": "session=abcdef",
        "Proxy-Authorization": "Basic dXNlcjpwdw==",
    }
    said = " ".join(value.rpartition(" ")[2] for value in mine.values())
    echo = orjson.dumps({"error": {"message": f"no: {said}", "code": said}})
    async with serving(saying(response(echo, status="400 Bad"))) as server:
        core = provider("openai-compatible", base_url=server.url, model="m", headers={**mine, "X-Key": "v1"})
        with pytest.raises(LLMError) as caught:
            await complete(core)
        shown = f"{caught.value!r} {vars(caught.value)!r}"
        assert "no: [REDACTED] [REDACTED] [REDACTED]" in shown
        assert not [value for value in mine.values() if value.rpartition(" ")[2] in shown]
        await nothing_left(core, server)


@pytest.mark.parametrize("ask", [complete, stream])
@pytest.mark.parametrize(
    "extra",
    [{"a": "\ud800"}, {"a": {1, 2}}, {"a": 2**70}, {"a": object()}],
    ids=["surrogate", "set", "large", "object"],
)
async def test_what_is_no_json_is_a_wrong_request_and_nothing_is_sent(ask, extra):
    async with serving(saying(response())) as server:
        core = openai(server.url)
        request = Request("m", "hi", extra=extra, stream=ask is stream)
        with pytest.raises(InvalidRequest, match="cannot be written as JSON") as caught:
            await Chain(core)(Chain(core).new_call(request))
        error = caught.value
        assert (error.sent, error.billed, error.retryable, error.health) == (False, "no", False, "ignore")
        assert error.provider == "openai"
        assert server.connections == 0
        await nothing_left(core, server)


async def test_a_key_is_good_if_its_models_are_listed_or_it_may_not_list_them():
    for status, good in (("200 OK", True), ("401 Unauthorized", False), ("403 Forbidden", True)):
        async with serving(saying(response(b'{"data": []}', status=status))) as server:
            core = openai(server.url)
            assert await core.validate_api_key() is good
            await nothing_left(core, server)


@pytest.mark.parametrize("status", ["429 Slow", "500 Oops", "404 Not Found"])
async def test_whether_a_key_is_good_may_not_be_known(status):
    async with serving(saying(response(b"{}", status=status))) as server:
        core = openai(server.url)
        with pytest.raises(LLMError) as caught:
            await core.validate_api_key()
        assert caught.value.provider == "openai"
        assert not leaks(caught.value)
        await nothing_left(core, server)


# -- models


async def test_models_are_listed_as_the_provider_has_them():
    body = {"data": [{"id": "a", "owned_by": "me", "created": 5}, {"id": "b"}]}
    async with serving(saying(response(orjson.dumps(body)))) as server:
        core = openai(server.url)
        models = await core.get_models()
        assert [(model.id, model.owner) for model in models] == [("a", "me"), ("b", "")]
        assert all(isinstance(model, ModelInfo) for model in models)
        await nothing_left(core, server)


async def test_a_page_instead_of_the_models_is_no_list():
    async with serving(saying(response(b"<html>", kind="text/html"))) as server:
        core = openai(server.url)
        with pytest.raises(BadReply, match="expected JSON and got text/html") as caught:
            await core.get_models()
        assert caught.value.provider == "openai"
        await nothing_left(core, server)


# -- money


def test_the_price_of_a_request_is_known_before_it_is_sent():
    core = MADE["openai"]()
    request = Request("", "hi", max_tokens=1000)
    worst = core.estimate_cost(request)
    assert isinstance(worst, Decimal)
    assert worst > 0
    assert core.estimate_cost(Request("gpt-4o", "hi", max_tokens=1000)) > worst
    assert core.estimate_cost(Request("no-such-model", "hi")) is None
    assert MADE["openai-compatible"]().estimate_cost(request) is None
    assert MADE["mock"]().estimate_cost(request) == 0


def test_a_provider_by_another_name_has_the_same_prices():
    named = provider("openai", api_key=KEY, model="gpt-4o-mini", name="east")
    assert named.name == "east"
    assert named.estimate_cost(Request("", "hi", max_tokens=10)) == MADE["openai"]().estimate_cost(
        Request("", "hi", max_tokens=10)
    )


# -- what it does not do


async def test_what_a_provider_cannot_do_is_said_and_nothing_is_sent():
    async with serving(saying(response())) as server:
        claude = provider("anthropic", api_key=KEY, model="m", base_url=server.url)
        cases: Any = (
            (claude, EmbeddingRequest("e", ("x",))),
            (claude, RerankRequest("r", "q", ("d",))),
            (openai(server.url), RerankRequest("r", "q", ("d",))),
            (openai(server.url, name="nameless"), None),
        )
        for core, request in cases:
            if request is None:
                core.model, request = "", Request("", "hi")
            with pytest.raises(Unsupported) as caught:
                await Chain(core)(Chain(core).new_call(request))
            assert not caught.value.sent
            assert caught.value.billed == "no"
            assert caught.value.provider == core.name
        assert server.connections == 0


async def test_embeddings_come_through_the_same_chain():
    body = {
        "data": [{"index": 0, "embedding": [0.5, 1]}],
        "model": "e",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    async with serving(saying(response(orjson.dumps(body)))) as server:
        core = openai(server.url)
        done = await Chain(core).embed("x", model="e")
        assert [list(vector) for vector in done.vectors] == [[0.5, 1.0]]
        assert done.provider == "openai"
        await nothing_left(core, server)


async def test_errors_say_whose_they_are():
    async with serving(saying(response(b"{}", status="429 Slow"))) as server:
        core = openai(server.url, name="east")
        for ask in (complete, stream):
            with pytest.raises(RateLimited) as caught:
                await ask(core)
            assert (caught.value.provider, caught.value.model) == ("east", "m")
        await nothing_left(core, server)
    assert issubclass(InvalidRequest, LLMError)
    assert issubclass(AuthenticationFailed, LLMError)


def test_making_a_provider_does_not_import_aiohttp():
    import subprocess
    import sys

    code = (
        "import sys\nfrom llmpipe import provider\n"
        f"provider('openai', api_key={KEY!r}, model='m')\n"
        "assert 'aiohttp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
