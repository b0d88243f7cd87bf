"""Where something stands in the place of aiohttp's request method, it sees every call."""

from __future__ import annotations

import asyncio
import functools
from unittest import mock

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aioresponses import aioresponses

from llmpipe.errors import BadReply, ConnectFailed, ConnectTimeout, NetworkError, RateLimited, StreamBroken
from llmpipe.pipeline.chain import Chain
from llmpipe.providers import inner, pool
from tests.providers.kit import (
    DONE,
    EVENTS,
    KEY,
    LAST_CHUNK,
    STREAM_HEAD,
    chunked,
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

URL = "https://api.openai.com/v1/chat/completions"


class Response(aiohttp.ClientResponse):
    """aioresponses 0.7.9 does not give what aiohttp 3.14 asks for; to be dropped with the next release."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("stream_writer", mock.Mock(output_size=0))
        super().__init__(*args, **kwargs)


@pytest.fixture
def stubs():
    with aioresponses() as made:
        yield made


async def test_a_stubbed_reply_reaches_the_caller(stubs):
    stubs.post(URL, payload=DONE, response_class=Response)
    core = openai(None)
    assert (await complete(core)).text == "Hello there."
    ((method, url), (call,)) = next(iter(stubs.requests.items()))
    assert (method, str(url)) == ("POST", URL)
    assert call.kwargs["headers"]["Authorization"] == f"Bearer {KEY}"
    assert call.kwargs["allow_redirects"] is False
    await core.aclose()


async def test_stubbed_streams_and_errors_reach_the_caller(stubs):
    stubs.post(URL, body=b"".join(EVENTS), content_type="text/event-stream", response_class=Response)
    stubs.post(URL, status=429, payload={}, headers={"Retry-After": "3"}, response_class=Response)
    stubs.post(URL, exception=aiohttp.ServerDisconnectedError())
    stubs.post(URL, exception=TimeoutError())
    core = openai(None)
    assert (await stream(core)).text == "Hello."
    with pytest.raises(RateLimited) as caught:
        await complete(core)
    assert caught.value.retry_after == 3
    for _ in range(2):
        with pytest.raises(NetworkError):
            await complete(core)
    assert core.connections_in_use == 0
    await core.aclose()


@pytest.fixture
def watched(monkeypatch):
    """A tracer round the real method, which sends over real sockets."""
    seen: list[str] = []
    real = aiohttp.ClientSession._request

    @functools.wraps(real)
    async def request(self, method, url, **options):
        seen.append(method)
        return await real(self, method, url, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "_request", request)
    return seen


async def test_a_tracer_sees_every_call_and_changes_nothing(watched):
    whole = STREAM_HEAD + b"".join(map(chunked, EVENTS)) + LAST_CHUNK
    async with serving(saying(response())) as server, serving(saying(whole)) as streaming:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 1
        await nothing_left(core, server)
        core = openai(streaming.url)
        for _ in range(2):
            assert (await stream(core)).text == "Hello."
        assert streaming.connections == 1
        await nothing_left(core, streaming)
    assert watched == ["POST"] * 4


async def test_errors_are_the_same_on_this_road(watched):
    for data, kind in (
        (b"HELO\r\n\r\n", BadReply),
        (b"", NetworkError),
        (response()[:-5], StreamBroken),
        (response(b"{}", status="302 Found", extra=b"Location: http://127.0.0.1:1/\r\n"), BadReply),
    ):
        async with serving(saying(data, then="close")) as server:
            core = openai(server.url)
            with pytest.raises(kind) as caught:
                await complete(core)
            assert type(caught.value) is kind
            assert not leaks(caught.value, frames=False)
            assert caught.value.__context__ is None
            await nothing_left(core, server)
    core = openai("http://127.0.0.1:1/v1")
    with pytest.raises(ConnectFailed):
        await complete(core)
    await nothing_left(core)


async def test_a_connect_timeout_is_one_on_this_road_too(monkeypatch, watched):
    async def never(*args, **options):
        await asyncio.sleep(60)

    monkeypatch.setattr("aiohttp.connector.TCPConnector._create_direct_connection", never)
    core = openai("http://127.0.0.1:1/v1", transport={"connect_timeout": 0.05})
    with pytest.raises(ConnectTimeout):
        await complete(core)
    await nothing_left(core)


async def test_the_short_road_is_taken_again_when_the_watcher_has_gone():
    async with serving(saying(response())) as server:
        core = openai(server.url)
        with mock.patch.object(aiohttp.ClientSession, "_request", side_effect=RuntimeError("the long road")):
            with pytest.raises(RuntimeError, match="the long road"):
                await complete(core)
            assert core.connections_in_use == 0
        assert (await Chain(core).complete("hi")).text == "Hello there."
        await nothing_left(core, server)


async def test_another_major_version_of_aiohttp_is_used_by_its_public_face(monkeypatch):
    used: list[str] = []
    real = aiohttp.ClientSession.request

    def request(self, method, *args, **options):
        used.append(method)
        return real(self, method, *args, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "request", request)
    monkeypatch.setattr(aiohttp, "__version__", "4.0.0")
    async with serving(saying(response())) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        assert used == ["POST"]
        await nothing_left(core, server)


@pytest.fixture
def long_road(monkeypatch):
    """The methods of those requests that took it."""
    used: list[str] = []
    real = aiohttp.ClientSession.request

    def request(self, method, *args, **options):
        used.append(method)
        return real(self, method, *args, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "request", request)
    inner.as_known.cache_clear()
    yield used
    inner.as_known.cache_clear()


async def _answers_twice() -> None:
    async with serving(saying(response())) as server:
        core = openai(server.url)
        for _ in range(2):
            assert (await complete(core)).text == "Hello there."
        await nothing_left(core, server)


async def test_the_short_road_is_taken_where_the_inner_parts_of_aiohttp_are_as_known(long_road):
    await _answers_twice()
    assert long_road == []


async def _connect(self, req, traces, timeout, another):
    raise AssertionError("never called")


async def _unread(self):
    return b"", "", None


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [
        (aiohttp.TCPConnector, "connect", _connect),
        (ResponseHandler, "set_response_params", lambda self, *, read_until_eof: None),
        (ResponseHandler, "read", _unread),
        (ResponseHandler, "should_close", False),
        (ResponseHandler, "force_close", None),
        (aiohttp.StreamReader, "readany", None),
        (aiohttp.StreamReader, "is_eof", lambda self: False),
        (aiohttp.StreamReader, "_read_nowait", lambda self: b""),
        (aiohttp.ClientRequest, "__init__", lambda self, method, url, headers: None),
        (aiohttp.connector.Connection, "protocol", None),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
async def test_other_inner_parts_are_not_as_known(monkeypatch, long_road, owner, name, instead):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, instead)
        assert not inner.as_known()
    await _answers_twice()  # what was found is kept, so this took the long road, whole as it is again
    assert long_road == ["POST"] * 2


async def test_an_aiohttp_without_the_inner_parts_is_used_by_its_public_face(monkeypatch, long_road):
    monkeypatch.setattr(pool, "_inner", None)
    await _answers_twice()
    assert long_road == ["POST"] * 2


async def test_a_connector_that_makes_its_connections_otherwise_is_used_by_its_public_face():
    made = pool.Pool("http://127.0.0.1", max_connections=1, connect_timeout=1, keepalive=1, ssl=True)
    assert made._is_genuine()
    del made._connector._factory
    assert not made._is_genuine()
    await made.aclose()


async def test_whether_the_inner_parts_are_as_known_is_asked_once(monkeypatch, long_road):
    asked = 0
    real = inner._rehearse

    def rehearse():
        nonlocal asked
        asked += 1
        real()

    monkeypatch.setattr(inner, "_rehearse", rehearse)
    for _ in range(3):
        await _answers_twice()
    assert asked == 1
