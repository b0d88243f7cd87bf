"""Rows F01 to F15: what can go wrong before a request is on its way, over real sockets."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trustme

from llmpipe.errors import BadReply, ConnectFailed, ConnectTimeout, LimitReached, LLMError, NetworkError
from llmpipe.pipeline.chain import Chain
from tests.providers.kit import (
    BODY,
    Peer,
    complete,
    leaks,
    nothing_left,
    open_sockets,
    openai,
    response,
    saying,
    serving,
    stream,
)

pytestmark = [pytest.mark.real_time, pytest.mark.usefixtures("road")]


def verdict(error: LLMError) -> tuple[object, ...]:
    return (error.phase, error.billed, error.sent, error.retryable, error.health)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener.getsockname()[1]  # bound, and nobody listens


@pytest.mark.parametrize("ask", [complete, stream])
async def test_a_refused_connection_is_not_billed_and_may_be_tried_again(ask, closed_port):
    core = openai(f"http://127.0.0.1:{closed_port}/v1")
    with pytest.raises(ConnectFailed) as caught:
        await ask(core)
    assert verdict(caught.value) == ("connect", "no", False, True, "failure")
    assert caught.value.provider == "openai"
    assert caught.value.__context__ is None
    assert not leaks(caught.value)
    await nothing_left(core)


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN, socket.EAI_FAIL])
async def test_a_name_that_cannot_be_looked_up_says_so(monkeypatch, code):
    def fails(*args, **options):
        raise socket.gaierror(code, "no luck")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    core = openai("http://nobody.localhost:1/v1")
    with pytest.raises(ConnectFailed, match="name was not found") as caught:
        await complete(core)
    assert verdict(caught.value) == ("connect", "no", False, True, "failure")
    assert caught.value.code == "dns"
    await nothing_left(core)


async def test_a_name_server_that_never_answers_ends_at_the_connect_timeout(monkeypatch):
    over = threading.Event()

    def hangs(*args, **options):
        over.wait(5)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    core = openai("http://nobody.localhost:1/v1", transport={"connect_timeout": 0.1})
    try:
        with pytest.raises(ConnectTimeout) as caught:
            await complete(core)
    finally:
        over.set()
    assert verdict(caught.value) == ("connect", "no", False, True, "failure")
    await nothing_left(core)


async def test_a_peer_that_never_accepts_ends_at_the_connect_timeout():
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # fills the backlog: from now on a SYN is not answered
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        core = openai(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", transport={"connect_timeout": 0.1})
        with pytest.raises(ConnectTimeout) as caught:
            await complete(core)
        assert verdict(caught.value) == ("connect", "no", False, True, "failure")
        await nothing_left(core)


async def test_a_call_may_have_a_connect_timeout_of_its_own():
    async with serving(saying(response())) as server:
        core = openai(server.url)
        chain = Chain(core)
        call = chain.new_call(_request()).evolve(connect_timeout=7.5)
        assert (await (await chain(call)).full()).text == "Hello there."
        forever = chain.new_call(_request()).evolve(connect_timeout=float("inf"))
        await (await chain(forever)).full()
        await nothing_left(core, server)


def _request():
    from llmpipe.types import Request

    return Request("m", "hi")


@pytest.mark.parametrize("ask", [complete, stream])
async def test_a_reset_right_after_accept_may_have_been_sent(ask):
    async def script(peer: Peer, number: int) -> None:
        peer.reset()

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(NetworkError) as caught:
            await ask(core)
        assert verdict(caught.value) in {
            ("request", "unknown", True, True, "failure"),
            ("connect", "no", False, True, "failure"),  # seen before the request was written
        }
        assert not leaks(caught.value)
        await nothing_left(core, server)


async def test_a_connection_that_was_closed_while_idle_is_not_used_again():
    async with serving(saying(response(), then="close")) as server:
        core = openai(server.url)
        for _ in range(3):
            assert (await complete(core)).text == "Hello there."
            await asyncio.sleep(0.01)  # lets its FIN arrive
        assert server.connections == 3
        await nothing_left(core, server)


async def test_a_connection_that_dies_under_a_request_is_an_error_and_no_silent_second_try():
    """A generation that was sent may be on the bill: whether to pay again is for Retry to say."""
    asked = 0

    async def script(peer: Peer, number: int) -> None:
        nonlocal asked
        await peer.request()
        asked += 1
        if number == 1:
            await peer.send(response())
            await peer.request()
            asked += 1  # and hangs up on it

    async with serving(script) as server:
        core = openai(server.url)
        await complete(core)
        with pytest.raises(NetworkError) as caught:
            await complete(core)
        assert verdict(caught.value) == ("request", "unknown", True, True, "failure")
        assert asked == 2
        await nothing_left(core, server)


# -- TLS


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA()


def _server_side(certificate: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def _client_side(authority: Any) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_a_certificate_that_is_right_is_taken(authority):
    async with serving(saying(response()), tls=_server_side(authority.issue_cert("127.0.0.1"))) as server:
        core = openai(server.url, transport={"ssl": _client_side(authority)})
        assert (await complete(core)).text == "Hello there."
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 1
        await nothing_left(core, server)


def _expired(authority):
    from datetime import datetime

    return authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 2))  # noqa: DTZ001  trustme takes no zone


def _old(authority):
    context = _server_side(authority.issue_cert("127.0.0.1"))
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("trusted", "server_side"),
    [
        (True, lambda ca: _server_side(_expired(ca))),
        (True, lambda ca: _server_side(ca.issue_cert("elsewhere.example"))),
        (False, lambda ca: _server_side(ca.issue_cert("127.0.0.1"))),
        (True, lambda ca: _server_side(trustme.CA().issue_cert("127.0.0.1"))),
        (True, _old),
    ],
    ids=["expired", "wrong name", "authority not trusted", "another authority", "TLS 1.1"],
)
async def test_a_bad_certificate_ends_it_before_a_byte_of_the_request(authority, trusted, server_side):
    seen = b""

    async def script(peer: Peer, number: int) -> None:
        nonlocal seen
        seen += await peer.reader.read(1000)

    async with serving(script, tls=server_side(authority)) as server:
        core = openai(server.url, transport={"ssl": _client_side(authority)} if trusted else None)
        with pytest.raises(ConnectFailed) as caught:
            await complete(core)
        error = caught.value
        assert (error.phase, error.billed, error.sent, error.health) == ("tls", "no", False, "failure")
        assert error.rescue == "any"
        # A version of TLS we do not take ends without a word, like a server that is in trouble.
        assert error.retryable == ("in the TLS handshake" in error.message)
        assert error.retryable or "https" in error.message
        assert seen == b""
        assert not leaks(caught.value)
        await nothing_left(core, server)


@pytest.mark.parametrize("right", [True, False])
async def test_a_certificate_may_be_pinned(authority, right):
    import hashlib

    import aiohttp

    certificate = authority.issue_cert("127.0.0.1")
    chain = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    digest = hashlib.sha256(chain if right else b"another").digest()
    async with serving(saying(response()), tls=_server_side(certificate)) as server:
        core = openai(server.url, transport={"ssl": aiohttp.Fingerprint(digest)})
        if right:
            assert (await complete(core)).text == "Hello there."
        else:
            with pytest.raises(ConnectFailed, match="not the one that is pinned") as caught:
                await complete(core)
            assert verdict(caught.value) == ("tls", "no", False, False, "failure")
            assert not leaks(caught.value)
            assert server.requests == []
        await nothing_left(core, server)


async def test_a_handshake_that_stalls_ends_at_the_connect_timeout(authority):
    async def script(peer: Peer, number: int) -> None:
        await peer.gone()

    async with serving(script) as server:
        core = openai(
            server.url.replace("http:", "https:"),
            transport={"connect_timeout": 0.1, "ssl": _client_side(authority)},
        )
        with pytest.raises(ConnectTimeout) as caught:
            await complete(core)
        assert verdict(caught.value) == ("connect", "no", False, True, "failure")
        await nothing_left(core, server)


async def test_https_to_a_server_that_speaks_plain_http_names_the_scheme():
    async def script(peer: Peer, number: int) -> None:
        await peer.reader.read(1000)
        await peer.send(response(b"", status="400 Bad Request"))

    async with serving(script) as server:
        core = openai(server.url.replace("http:", "https:"))
        with pytest.raises(ConnectFailed, match="base_url says https") as caught:
            await complete(core)
        assert verdict(caught.value) == ("tls", "no", False, False, "failure")
        await nothing_left(core)


async def test_plain_http_to_a_server_that_speaks_tls_names_the_scheme(authority):
    """OpenSSL answers with a TLS alert; the standard library's server just hangs up."""

    async def alert(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(b"\x15\x03\x01\x00\x02\x02\x46")

    async with serving(alert) as server:
        core = openai(server.url)
        with pytest.raises(BadReply, match="the server speaks TLS: try https://") as caught:
            await complete(core)
        assert not leaks(caught.value)
        await nothing_left(core, server)


# -- the pool


async def test_who_finds_no_connection_free_waits_and_then_is_told_that_it_is_our_own_limit():
    go = asyncio.Event()

    async def script(peer: Peer, number: int) -> None:
        while True:
            await peer.request()
            await go.wait()
            await peer.send(response())

    async with serving(script) as server:
        core = openai(server.url, transport={"max_connections": 1, "pool_timeout": 0.05})
        tasks = [asyncio.create_task(complete(core)) for _ in range(50)]
        await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
        await asyncio.sleep(0.1)
        go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [r for r in results if isinstance(r, LimitReached)]
        assert len(refused) == 49
        assert {verdict(error) for error in refused} == {("connect", "no", False, False, "ignore")}
        assert {error.status for error in refused} == {503}
        assert server.connections == 1
        assert (await complete(core)).text == "Hello there."
        assert core._at.transport._pool.slots.held == set()
        await nothing_left(core, server)


async def test_those_who_wait_are_served_in_the_order_they_came():
    async with serving(saying(response())) as server:
        core = openai(server.url, transport={"max_connections": 1})
        served: list[int] = []

        async def ask(number: int) -> None:
            await complete(core)
            served.append(number)

        await asyncio.gather(*(ask(number) for number in range(20)))
        assert served == list(range(20))
        assert server.connections == 1
        await nothing_left(core, server)


async def test_no_descriptors_left_is_our_own_trouble_and_passes():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(saying(response())) as server:
        core = openai(server.url)
        held: list[socket.socket] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            with pytest.raises(OSError) as full:
                while True:
                    held.append(socket.socket())
            assert full.value.errno == errno.EMFILE
            with pytest.raises(LimitReached) as caught:
                await complete(core)
        finally:
            for one in held:
                one.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert verdict(caught.value) == ("connect", "no", False, False, "ignore")
        assert caught.value.status == 503
        assert (await complete(core)).text == "Hello there."
        await nothing_left(core, server)


# -- lifetimes


async def test_connections_are_kept_and_given_back():
    async with serving(saying(response())) as server:
        core = openai(server.url)
        before = open_sockets()
        for _ in range(5):
            await complete(core)
        assert server.connections == 1
        await asyncio.gather(*(complete(core) for _ in range(8)))
        assert server.connections <= 9
        await nothing_left(core, server)
        for _ in range(100):
            if open_sockets() <= before:
                break
            await asyncio.sleep(0.01)
        assert open_sockets() <= before
        assert (await complete(core)).text == "Hello there."  # a closed provider opens again
        await nothing_left(core, server)


async def test_a_provider_that_is_closed_under_a_call_ends_that_call():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n")
        await peer.gone()

    async def silent(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.gone()

    for answer in (script, silent):
        async with serving(answer) as server:
            core = openai(server.url)
            task = asyncio.create_task(complete(core))
            while not core.connections_in_use:
                await asyncio.sleep(0)
            await asyncio.sleep(0.02)
            await core.aclose()
            with pytest.raises(NetworkError):
                async with asyncio.timeout(2):
                    await task
            await nothing_left(core, server)


def test_a_provider_serves_one_event_loop_after_another():
    core = openai("http://127.0.0.1:1/v1")  # the port is put in below

    async def use(ask) -> int:
        async with serving(saying(response())) as server:
            from llmpipe.providers.transport import Transport

            core._at.transport = _moved(core._at.transport, server.url, Transport)
            core._chat_route = core._at.transport.route("POST", "/chat/completions")
            assert (await ask(core)).text == "Hello there."
            await core.aclose()
            return server.connections

    def _moved(old, url, kind):
        return kind(url, old._headers)

    assert asyncio.run(use(complete)) == 1
    assert asyncio.run(use(complete)) == 1
    assert core.connections_in_use == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_provider_that_was_not_closed_in_its_loop_works_in_the_next():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    listener.setblocking(False)
    core = openai(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    connections = 0

    async def answer(client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with client:
            client.setblocking(False)
            while await loop.sock_recv(client, 65536):
                await loop.sock_sendall(client, response())

    async def use(close: bool) -> None:
        nonlocal connections
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(complete(core))
        client, _ = await loop.sock_accept(listener)
        connections += 1
        server = asyncio.create_task(answer(client))
        assert (await task).text == "Hello there."
        if close:
            await core.aclose()
            await server
        else:
            server.cancel()
            await asyncio.wait([server])

    with listener:
        asyncio.run(use(close=False))
        asyncio.run(use(close=True))
        assert connections == 2
        assert len(core._at.transport._pools) == 0


async def test_bytes_that_nobody_asked_for_are_no_answer_to_the_next_request():
    """A server that says two replies to one request must not answer somebody else with the second."""
    stray = response(BODY.replace(b"Hello there.", b"Not for you!"))

    async def script(peer: Peer, number: int) -> None:
        if number == 1:
            await peer.request()
            await peer.send(response())
            await asyncio.sleep(0.02)
            await peer.send(stray)
            await peer.gone()
        else:
            await saying(response())(peer, number)

    async with serving(script) as server:
        core = openai(server.url)
        await complete(core)
        await asyncio.sleep(0.05)
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await nothing_left(core, server)


async def test_two_replies_in_one_breath_are_one_reply_and_a_closed_connection():
    stray = response(BODY.replace(b"Hello there.", b"Not for you!"))

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(response() + (stray if number == 1 else b""))
        await peer.gone()

    async with serving(script) as server:
        core = openai(server.url)
        for _ in range(2):
            assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await nothing_left(core, server)


async def test_a_server_that_talks_before_it_is_asked_is_given_up():
    async def script(peer: Peer, number: int) -> None:
        await peer.send(b"220 mail.example ESMTP\r\n")
        await peer.gone()

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(LLMError) as caught:
            await complete(core)
        assert isinstance(caught.value, (BadReply, NetworkError))
        assert server.connections <= 64
        await nothing_left(core, server)
