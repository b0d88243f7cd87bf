"""Connections that are kept: for how long, on which road, and whose they are."""

from __future__ import annotations

import asyncio
import functools
import gc
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from llmpipe.pipeline.chain import Chain
from llmpipe.providers import lines
from llmpipe.providers.transport import Transport
from llmpipe.types import Request
from tests.providers.kit import (
    BODY,
    EVENTS,
    STREAM_HEAD,
    Peer,
    Server,
    chunked,
    complete,
    nothing_left,
    open_sockets,
    openai,
    response,
    saying,
    serving,
)

pytestmark = pytest.mark.real_time


async def _until(there: Any) -> None:
    async with asyncio.timeout(5):
        while not there():
            await asyncio.sleep(0.005)


class Clock:
    """Stands in the place of the monotonic clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lines, "monotonic", clock)
    return clock


async def test_a_connection_is_used_for_as_long_as_it_may_be_idle_and_no_longer(clock):
    async with serving(saying(response())) as server:
        core = openai(server.url, transport={"keepalive": 30.0})
        for seconds, connections in ((0.0, 1), (30.0, 1), (29.0, 1), (30.1, 2), (1.0, 2)):
            clock.now += seconds
            assert (await complete(core)).text == "Hello there."
            assert server.connections == connections
        await _until(lambda: server.open == 1)
        await nothing_left(core, server)


async def test_idle_connections_are_closed_also_where_nobody_asks_any_more():
    async with serving(saying(response())) as server:
        core = openai(server.url, transport={"keepalive": 0.05})
        await asyncio.gather(*(complete(core) for _ in range(5)))
        assert server.connections > 1
        await _until(lambda: server.open == 0)
        assert (await complete(core)).text == "Hello there."
        await nothing_left(core, server)


async def test_a_sweep_keeps_those_that_were_in_use_lately(clock):
    async with serving(saying(response())) as server:
        core = openai(server.url, transport={"keepalive": 30.0})
        await asyncio.gather(complete(core), complete(core))
        assert server.connections == 2
        kept = core._at.transport._pool._lines
        clock.now += 20
        await complete(core)  # over one of them
        clock.now += 20
        kept.sweep()
        await _until(lambda: server.open == 1)
        assert kept._sweep is not None  # it looks again
        await complete(core)
        assert server.connections == 2
        clock.now += 40
        kept.sweep()
        await _until(lambda: server.open == 0)
        assert kept._sweep is None
        await nothing_left(core, server)


async def test_those_that_the_server_has_closed_are_passed_over():
    closing = asyncio.Event()

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(response())
        if number < 3:
            await closing.wait()
        else:
            await saying(response())(peer, number)

    async with serving(script) as server:
        core = openai(server.url)
        await asyncio.gather(*(complete(core) for _ in range(3)))
        assert server.connections == 3
        closing.set()
        await _until(lambda: server.open == 1)
        await asyncio.sleep(0.02)
        for _ in range(3):
            assert (await complete(core)).text == "Hello there."
        assert server.connections == 3
        await nothing_left(core, server)


@asynccontextmanager
async def _watched() -> AsyncIterator[None]:
    """As long as it lasts, a tracer stands round `ClientSession`'s method: calls take the long road."""
    real = aiohttp.ClientSession._request

    @functools.wraps(real)
    async def request(self: Any, *args: Any, **options: Any) -> Any:
        return await real(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiohttp.ClientSession, "_request", request)
        yield


async def test_a_connection_goes_from_one_road_to_the_other_and_back():
    async with serving(saying(response())) as server:
        core = openai(server.url)
        for _ in range(2):
            await complete(core)
            async with _watched():
                await complete(core)
        assert server.connections == 1
        await nothing_left(core, server)


async def test_who_has_given_a_connection_back_can_do_nothing_more_to_it():
    async with serving(saying(response())) as server:
        transport = Transport(server.url, {})
        route = transport.route("POST", "/chat/completions")
        first = await transport.send(route, b"{}")
        assert await first.body() == BODY
        second = await transport.send(route, b"{}")
        first.release()
        first.drop()
        assert transport.in_use == 1
        assert await second.body() == BODY
        third = await transport.send(route, b"{}")
        second.drop()
        third.drop()
        third.release()
        assert transport.in_use == 0
        assert server.connections == 1
        await _until(lambda: server.open == 0)
        await transport.aclose()


async def test_a_body_in_pieces_that_are_all_there_is_whole():
    head, body = response()[: -len(BODY)], BODY

    async def script(peer: Peer, number: int) -> None:
        while True:
            await peer.request()
            await peer.send(head, body[:10], body[10:20], body[20:])

    async with serving(script) as server:
        transport = Transport(server.url, {})
        route = transport.route("POST", "/chat/completions")
        for _ in range(3):
            exchange = await transport.send(route, b"{}")
            await _until(exchange._content.is_eof)
            assert await exchange.body() == BODY
            assert not exchange._content._buffer  # an idle connection holds nothing of it
        assert server.connections == 1
        await transport.aclose()


async def test_a_whole_reply_counts_where_the_connection_breaks_right_behind_it():
    async with serving(saying(response() + b"HTTP/1.1 2", then="close")) as server:
        transport = Transport(server.url, {})
        exchange = await transport.send(transport.route("POST", "/"), b"{}")
        await _until(lambda: server.open == 0)
        await asyncio.sleep(0.02)
        assert await exchange.body() == BODY
        assert transport.in_use == 0
        await transport.aclose()


@pytest.mark.parametrize("behind", [b"H", b"HTTP/1.1 408 Time-out\r\nConnect", b"HTTP/1.1 200 OK\r\n"])
@pytest.mark.parametrize("pause", [0.0, 0.03])
async def test_a_connection_on_which_another_response_has_begun_unasked_is_not_used_again(behind, pause):
    """Its parser would keep what came to itself, and the next one begin in the middle."""

    async def script(peer: Peer, number: int) -> None:
        if number == 1:
            await peer.request()
            await peer.send(response() + (b"" if pause else behind))
            await asyncio.sleep(pause)
            await peer.send(behind if pause else b"")
        await saying(response())(peer, number)

    async with serving(script) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        await asyncio.sleep(2 * pause)
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await _until(lambda: server.open == 1)
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await nothing_left(core, server)


async def test_a_connection_that_the_long_road_left_with_another_response_begun_is_not_used_either():
    async def script(peer: Peer, number: int) -> None:
        if number == 1:
            await peer.request()
            await peer.send(response() + b"HTTP/1.1 4")
        await saying(response())(peer, number)

    async with serving(script) as server:
        core = openai(server.url)
        async with _watched():
            await complete(core)
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await nothing_left(core, server)


async def _used(server: Server) -> Any:
    core = openai(server.url)
    await asyncio.gather(*(complete(core) for _ in range(4)))
    assert server.connections > 1
    return core


async def test_a_provider_that_is_dropped_closes_its_connections_and_warns_once():
    told: list[dict[str, Any]] = []
    gc.collect()  # what other tests have dropped warns here, and not below
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    async with serving(saying(response())) as server:
        core = await _used(server)
        before = open_sockets()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            del core
            gc.collect()
        assert [str(one.message)[:18] for one in warned] == ["Unclosed connector"]
        assert [one["message"] for one in told] == ["Unclosed connector"]
        await _until(lambda: server.open == 0)
        assert open_sockets() < before


async def test_a_reply_that_ends_after_its_provider_was_closed_keeps_no_connection():
    async with serving(saying(response())) as server:
        core = await _used(server)
        kept = core._at.transport._pool._lines
        line = kept.take()
        assert line is not None
        kept.close()  # as a pool does first when it is closed, and when it is dropped
        line.release()
        assert kept.take() is None
        await _until(lambda: server.open == server.connections - 1)  # the connector has the others
        await nothing_left(core, server)


async def test_closing_a_provider_is_done_also_where_whoever_closes_it_is_cancelled():
    async with serving(saying(response())) as server:
        core = await _used(server)
        pool = core._at.transport._pool
        closing = asyncio.create_task(core.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert pool._connector.closed
        await _until(lambda: server.open == 0)


@pytest.mark.filterwarnings("ignore:a reply was never closed:ResourceWarning")
async def test_a_stream_that_is_dropped_gives_its_connection_back_also_where_no_chain_stands_round_it():
    async with serving(saying(STREAM_HEAD + chunked(b"".join(EVENTS[:2])), then="hang")) as server:
        core = openai(server.url)
        call = Chain(core).new_call(Request("m", "Say hello", stream=True))
        reply = await core(call)
        assert core.connections_in_use == 1
        del reply
        await _until(lambda: core.connections_in_use == 0)
        await _until(lambda: server.open == 0)
        await nothing_left(core, server)
