"""Servers that keep to no script: they answer too early, or never read; and what our own closing does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from typing import Any

import pytest
import trustme

from llmpipe.errors import (
    BadReply,
    ConnectFailed,
    ConnectTimeout,
    DeadlineExceeded,
    LLMError,
    NetworkError,
    RequestTooLarge,
)
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from tests.providers.kit import (
    BODY,
    EVENTS,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    chunked,
    complete,
    nothing_left,
    open_sockets,
    openai,
    response,
    saying,
    serving,
    stream,
)

pytestmark = [pytest.mark.real_time, pytest.mark.usefixtures("road")]

LARGE = "x" * 12_000_000  # more than the buffers of both sockets take


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA()


@pytest.fixture(params=["plain", "TLS"])
def tls(request: pytest.FixtureRequest, authority: Any) -> Any:
    """What a server and what a provider need to speak so: a context and options."""
    if request.param == "plain":
        return None, {}
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, {"ssl": client}


async def _head_only(peer: Peer) -> None:
    await peer.reader.readuntil(b"\r\n\r\n")
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a stream reads


async def _sockets_fall_to(count: int) -> None:
    for _ in range(100):
        if open_sockets() <= count:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{open_sockets()} sockets are open, expected {count}")


# -- requests that are never read


async def test_an_answer_before_the_request_is_out_costs_the_connection(tls):
    context, options = tls

    async def script(peer: Peer, number: int) -> None:
        if number > 1:
            await saying(response())(peer, number)
        await _head_only(peer)
        await peer.send(response(b'{"error": {"message": "too large"}}', status="413 Too Large"))
        await asyncio.sleep(60)

    async with serving(script, tls=context) as server:
        core = openai(server.url, transport=options)
        with pytest.raises(RequestTooLarge):
            await Chain(core).complete(LARGE)
        assert core.connections_in_use == 0
        async with asyncio.timeout(5):
            assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await core.aclose()


async def test_a_large_request_that_is_read_keeps_its_connection(tls):
    context, options = tls
    async with serving(saying(response()), tls=context) as server:
        core = openai(server.url, transport=options)
        for _ in range(2):
            assert (await Chain(core).complete(LARGE)).text == "Hello there."
        assert server.connections == 1
        await nothing_left(core, server)


async def test_a_peer_that_never_reads_holds_nothing_when_the_call_is_over(tls):
    context, options = tls

    async def script(peer: Peer, number: int) -> None:
        await _head_only(peer)
        await asyncio.sleep(60)

    async with serving(script, tls=context) as server:
        core = openai(server.url, transport=options)
        before = open_sockets()
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                await Chain(core, Timeout(total=0.3)).complete(LARGE)
        assert core.connections_in_use == 0
        await _sockets_fall_to(before + server.open)
        task = asyncio.create_task(Chain(core).complete(LARGE))
        while server.connections < 3:
            await asyncio.sleep(0.01)
        await core.aclose()
        with pytest.raises(NetworkError) as caught:
            await task
        assert (caught.value.sent, caught.value.billed) == (True, "unknown")
        await _sockets_fall_to(before + server.open)


# -- replies in unusual clothes


@pytest.mark.parametrize("ask", [complete, stream])
async def test_a_reply_may_come_byte_by_byte_from_its_first(ask):
    whole = response() if ask is complete else STREAM_HEAD + b"".join(map(chunked, EVENTS)) + LAST_CHUNK

    async def script(peer: Peer, number: int) -> None:
        while True:
            await peer.request()
            for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + whole:
                await peer.send(bytes((byte,)))
                await asyncio.sleep(0)

    async with serving(script) as server:
        core = openai(server.url)
        for _ in range(2):
            assert (await ask(core)).text in {"Hello there.", "Hello."}
        assert server.connections == 1
        await nothing_left(core, server)


@pytest.mark.parametrize(
    ("version", "line", "kept"),
    [
        ("1.1", b"", True),
        ("1.1", b"Connection: close\r\n", False),
        ("1.1", b"connection: CLOSE\r\n", False),
        ("1.1", b"Connection: keep-alive\r\n", True),
        ("1.0", b"", False),
        ("1.0", b"Connection: keep-alive\r\n", True),
        ("1.1", b"Keep-Alive: timeout=5\r\n", True),
    ],
)
async def test_a_connection_is_kept_as_the_server_says(version, line, kept):
    data = response(extra=line).replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    async with serving(saying(data)) as server:
        core = openai(server.url)
        for _ in range(2):
            assert (await complete(core)).text == "Hello there."
        assert server.connections == (1 if kept else 2)
        await nothing_left(core)


async def test_a_transfer_encoding_that_was_not_asked_for_is_no_reply():
    import gzip

    data = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
        + chunked(gzip.compress(BODY))
        + LAST_CHUNK
    )
    async with serving(saying(data)) as server:
        core = openai(server.url)
        with pytest.raises(BadReply):
            await complete(core)
        await nothing_left(core, server)


@pytest.mark.parametrize("junk", [b"\x00\x00junk\r\n\r\n", b"0\r\n\r\n", b"\r\n", b"HTTP/1.1 2"])
async def test_junk_behind_a_reply_answers_nobody(junk):
    async def script(peer: Peer, number: int) -> None:
        if number > 1:
            await saying(response())(peer, number)
        await peer.request()
        await peer.send(response() + junk)
        await peer.request()
        await peer.send(response()[len(junk) :])
        await peer.gone()

    async with serving(script) as server:
        core = openai(server.url)
        texts = []
        for _ in range(3):
            try:
                async with asyncio.timeout(5):
                    texts.append((await complete(core)).text)
            except LLMError:
                texts.append("an error")
        assert set(texts) <= {"Hello there.", "an error"}
        assert "Hello there." in texts
        await nothing_left(core, server)


async def test_a_server_that_will_say_no_more_is_not_asked_again():
    """It has closed its half; ours stays open, and would swallow a request."""

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(response())
        peer.writer.write_eof()
        await peer.gone()

    async with serving(script) as server:
        core = openai(server.url)
        for _ in range(2):
            assert (await complete(core)).text == "Hello there."
            await asyncio.sleep(0.02)
        assert server.connections == 2
        await nothing_left(core, server)


async def test_a_server_that_talks_first_costs_two_connections_at_most(tls):
    context, options = tls

    async def script(peer: Peer, number: int) -> None:
        await peer.send(response() * 2)
        await peer.gone()

    async with serving(script, tls=context) as server:
        core = openai(server.url, transport=options)
        with contextlib.suppress(LLMError):  # where the request was quicker, the words are its answer
            await complete(core)
        assert server.connections <= 2
        await nothing_left(core, server)


# -- ends of ours


async def test_who_waits_for_a_connection_when_the_provider_is_closed_is_told_so():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.gone()

    async with serving(script) as server:
        core = openai(server.url, transport={"max_connections": 1})
        tasks = [asyncio.create_task(complete(core)) for _ in range(4)]
        while server.connections == 0:
            await asyncio.sleep(0.01)
        await core.aclose()
        async with asyncio.timeout(2):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [NetworkError] + [ConnectFailed] * 3
        for result in results:
            assert "the provider was closed" in result.message
            assert result.health == "ignore"
            assert result.sent is (result is results[0])
        assert server.connections == 1
        await nothing_left(core, server)


@pytest.mark.parametrize("callers", [1, 3])
async def test_a_provider_closed_while_a_name_is_looked_up_cancels_nobody(monkeypatch, callers):
    over = threading.Event()

    def hangs(*args: Any, **options: Any) -> Any:
        over.wait(5)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    core = openai("http://nobody.localhost:1/v1")
    tasks = [asyncio.create_task(complete(core)) for _ in range(callers)]
    await asyncio.sleep(0.05)
    await core.aclose()
    over.set()
    async with asyncio.timeout(2):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} <= {ConnectFailed, NetworkError}
    assert all("the provider was closed" in result.message for result in results)
    await nothing_left(core)


async def test_a_call_cancelled_while_its_provider_is_closed_is_cancelled(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: over.wait(5) and [])
    core = openai("http://nobody.localhost:1/v1")
    task = asyncio.create_task(complete(core))
    await asyncio.sleep(0.05)
    task.cancel()
    await core.aclose()
    over.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await nothing_left(core)


async def test_a_provider_closed_while_it_connects_opens_nothing():
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # fills the backlog: from now on a SYN is not answered
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        core = openai(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", transport={"connect_timeout": 0.3})
        before = open_sockets()
        task = asyncio.create_task(complete(core))
        await asyncio.sleep(0.05)
        await core.aclose()
        with pytest.raises((ConnectFailed, ConnectTimeout, NetworkError)):
            async with asyncio.timeout(2):
                await task
        await _sockets_fall_to(before)
        await nothing_left(core)


async def test_loops_of_several_threads_use_one_provider_at_once():
    async with serving(saying(response())) as server:
        core = openai(server.url)

        def use() -> list[str]:
            async def ask() -> list[str]:
                texts = [(await complete(core)).text for _ in range(5)]
                await core.aclose()
                return texts

            return asyncio.run(ask())

        results = await asyncio.gather(*(asyncio.to_thread(use) for _ in range(6)))
        assert results == [["Hello there."] * 5] * 6
        assert server.connections == 6
        assert core.connections_in_use == 0
        await nothing_left(core, server)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # there are threads; the child is brief
async def test_a_child_process_does_not_speak_on_the_connections_of_its_parent():
    async with serving(saying(response())) as server:
        core = openai(server.url)

        def family() -> tuple[int, str]:
            with asyncio.Runner() as runner:
                runner.run(complete(core))
                child = os.fork()
                if child == 0:
                    status = 1
                    try:
                        status = 0 if asyncio.run(complete(core)).text == "Hello there." else 2
                    finally:
                        os._exit(status)
                _, ended = os.waitpid(child, 0)
                text = runner.run(complete(core)).text
                runner.run(core.aclose())
                return os.waitstatus_to_exitcode(ended), text

        async with asyncio.timeout(20):
            assert await asyncio.to_thread(family) == (0, "Hello there.")
        assert server.connections == 2
        await nothing_left(core, server)
