"""Rows F20 to F26, F67 and F68: a response's head that is late, too large, wrong, or points elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.errors import BadReply, FirstTokenTimeout, LLMError, NetworkError, StreamBroken
from llmpipe.middleware.timeout import Timeout
from tests.providers.kit import (
    BODY,
    EVENTS,
    KEY,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    chunked,
    complete,
    first_saying,
    leaks,
    nothing_left,
    openai,
    response,
    saying,
    serving,
    stream,
)

pytestmark = [pytest.mark.real_time, pytest.mark.usefixtures("road")]

BOTH = pytest.mark.parametrize("ask", [complete, stream])


def verdict(error: LLMError) -> tuple[object, ...]:
    return (error.phase, error.billed, error.sent, error.retryable, error.health)


UNKNOWN = ("unknown", True, True, "failure")


async def refused(ask, data: bytes, kind: type[LLMError] = BadReply, then: str = "keep") -> LLMError:
    """The error that `data` makes. The connection is given up: the next call gets another one."""
    async with serving(first_saying(data, then=then)) as server:
        core = openai(server.url)
        with pytest.raises(kind) as caught:
            async with asyncio.timeout(5):
                await ask(core)
        error = caught.value
        assert type(error) is kind
        assert error.provider == "openai"
        assert error.__cause__ is None
        assert error.__context__ is None
        assert not leaks(error)
        assert core.connections_in_use == 0
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await nothing_left(core, server)
        return error


# -- late


@BOTH
@pytest.mark.parametrize("piece", [b"", b"H", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"])
async def test_a_head_that_never_ends_ends_at_the_first_timeout(ask, piece):
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        for byte in piece:
            await peer.send(bytes((byte,)))
            await asyncio.sleep(0.002)
        await peer.gone()

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(FirstTokenTimeout) as caught:
            await ask(core, Timeout(first=0.15))
        assert verdict(caught.value) == ("headers", *UNKNOWN)
        assert not leaks(caught.value)
        await nothing_left(core, server)


@BOTH
async def test_a_server_that_hangs_up_before_a_reply(ask):
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        if number > 1:
            await peer.send(response())

    for cut in (b"", b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Ty"):
        error = await refused(ask, cut, NetworkError, then="close")
        assert verdict(error) == ("request", *UNKNOWN)
        error = await refused(ask, cut, NetworkError, then="reset")
        assert verdict(error) == ("request", *UNKNOWN)


# -- too large


@BOTH
@pytest.mark.parametrize(
    "extra",
    [
        b"X-Long: " + b"a" * 65536 + b"\r\n",
        b"X-" + b"a" * 65536 + b": 1\r\n",
        b"".join(b"X-%d: 1\r\n" % n for n in range(10_000)),
    ],
    ids=["a long value", "a long name", "10,000 headers"],
)
async def test_a_head_has_a_cap(ask, extra):
    error = await refused(ask, response(extra=extra))
    assert verdict(error) == ("headers", *UNKNOWN)
    assert len(error.message) < 1000


async def test_a_status_line_has_a_cap():
    assert verdict(await refused(complete, b"HTTP/1.1 200 " + b"O" * 65536 + b"\r\n\r\n"))[0] == "headers"


async def test_a_long_header_sent_byte_by_byte_has_the_same_cap():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(200):
            await peer.send(b"a" * 100)
        await peer.gone()

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(BadReply):
            await complete(core, Timeout(first=3))
        await nothing_left(core, server)


async def test_trailers_without_end_are_cut():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            chunked(BODY),
            b"0\r\n",
        )
        while True:
            await peer.send(b"X-More: " + b"a" * 1000 + b"\r\n")
            await asyncio.sleep(0)

    async with serving(script) as server:
        core = openai(server.url)
        ended: str | None = "in time"
        try:
            async with asyncio.timeout(5):
                await complete(core)
        except LLMError as error:
            ended = error.phase
        assert ended in {"in time", "body", "headers"}
        await nothing_left(core, server)


# -- wrong


@BOTH
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX y: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: nameless\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/x.y 200 OK\r\n\r\n",
        b"HELO mail.example\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x00\x01\x02\x03\x04\x05\x06\x07\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_its_connection_closed(ask, head):
    error = await refused(ask, head)
    assert verdict(error) == ("headers", *UNKNOWN)


@BOTH
@pytest.mark.parametrize("status", ["000 Zero", "99 Low", "600 High", "999 Beyond"])
async def test_a_status_that_does_not_exist_is_refused(ask, status):
    async with serving(saying(response(b"", status=status))) as server:
        core = openai(server.url)
        with pytest.raises(BadReply) as caught:
            await ask(core)
        assert caught.value.phase == "headers"
        await nothing_left(core, server)


@BOTH
@pytest.mark.parametrize(
    "status", ["201 Created", "204 No Content", "206 Partial Content", "304 Not Modified"]
)
async def test_a_status_that_is_no_answer_is_refused(ask, status):
    empty = status.startswith(("204", "304"))
    async with serving(saying(response(b"" if empty else BODY, status=status, length=not empty))) as server:
        core = openai(server.url)
        with pytest.raises(BadReply) as caught:
            await ask(core)
        assert caught.value.phase == "headers"
        assert status[:3] in caught.value.message
        assert caught.value.status >= 300  # what a gateway can answer with
        await nothing_left(core, server)


@BOTH
async def test_one_reply_with_both_lengths_is_one_reply(ask):
    """Content-Length beside chunked is how messages are smuggled: in doubt the connection is closed."""
    smuggled = response(BODY.replace(b"Hello there.", b"Not for you!"))
    data = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY) + LAST_CHUNK + smuggled
    )
    async with serving(first_saying(data)) as server:
        core = openai(server.url)
        try:
            first = (await ask(core)).text
        except LLMError as error:
            first = type(error)
        assert first in (BadReply, StreamBroken, "Hello there.")
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await nothing_left(core, server)


async def test_informational_responses_are_passed_over():
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    async with serving(saying(hints + response())) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 1
        await nothing_left(core, server)


@BOTH
@pytest.mark.parametrize("status", ["100 Continue", "103 Early Hints"])
async def test_informational_responses_without_end_are_cut(ask, status, road):
    if road == "long road":
        pytest.skip("aiohttp's own request passes over any number of them, until a timeout of the call")
    error = await refused(ask, f"HTTP/1.1 {status}\r\n\r\n".encode() * 10_000)
    assert verdict(error) == ("headers", *UNKNOWN)


@BOTH
async def test_a_change_of_protocols_is_refused(ask):
    error = await refused(
        ask, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    )
    assert verdict(error) == ("headers", *UNKNOWN)


# -- another kind of content


@BOTH
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/plain", "application/octet-stream"])
async def test_a_page_instead_of_a_reply_is_no_success(ask, kind):
    page = b"<html>Please log in. Your key: " + KEY.encode() + b"</html>" + b"x" * 5000
    async with serving(saying(response(page, kind=kind))) as server:
        core = openai(server.url)
        with pytest.raises(BadReply, match="Please log in") as caught:
            await ask(core)
        error = caught.value
        assert verdict(error) == ("headers", *UNKNOWN)
        assert error.code == "wrong_content_type"
        assert kind.partition(";")[0] in error.message
        assert len(error.message) < 700
        assert not leaks(error)
        await nothing_left(core, server)


async def test_a_reply_without_a_content_type_is_no_success():
    async with serving(saying(response(kind=None))) as server:
        core = openai(server.url)
        with pytest.raises(BadReply, match="no content type"):
            await complete(core)
        await nothing_left(core, server)


@pytest.mark.parametrize(
    "kind", ["application/json; charset=latin-1", "Application/JSON", "application/json;x"]
)
async def test_json_is_json_whatever_is_written_behind_it(kind):
    body = BODY.replace(b"Hello there.", "Grüße".encode())
    async with serving(saying(response(body, kind=kind))) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Grüße"
        await nothing_left(core, server)


@pytest.mark.parametrize(
    "kind",
    [b"", b"Content-Type: text/event-stream; charset=latin-1\r\n", b"Content-Type: TEXT/EVENT-STREAM\r\n"],
)
async def test_a_stream_is_utf_8_whatever_its_charset(kind):
    head = b"HTTP/1.1 200 OK\r\n" + kind + b"Transfer-Encoding: chunked\r\n\r\n"
    body = b"".join(EVENTS).replace(b"Hel", "Grüß€".encode())
    async with serving(saying(head + chunked(body) + LAST_CHUNK)) as server:
        core = openai(server.url)
        assert (await stream(core)).text == "Grüß€lo."
        await nothing_left(core, server)


async def test_a_whole_reply_where_a_stream_was_asked_for_is_taken():
    async with serving(saying(response())) as server:
        core = openai(server.url)
        assert (await stream(core)).text == "Hello there."
        await nothing_left(core, server)


# -- elsewhere


@BOTH
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target",
    ["http://{other}/v1/chat/completions", "//{other}/x", "/v2/chat/completions", "", "http://[", None],
    ids=["another origin", "no scheme", "relative", "empty", "no address", "absent"],
)
async def test_a_redirect_is_never_followed(ask, status, target):
    async with (
        serving(saying(response())) as trap,
        serving(_redirecting(status, target, trap.port)) as server,
    ):
        core = openai(server.url)
        with pytest.raises(BadReply, match="redirects are not followed") as caught:
            await ask(core)
        assert (caught.value.status, caught.value.retryable) == (status, False)
        assert caught.value.code == "redirect"
        assert "/v1/chat" not in caught.value.message
        assert "/v2/chat" not in caught.value.message
        assert not leaks(caught.value)
        assert trap.connections == 0
        assert server.connections == 1
        await nothing_left(core, server)


def _redirecting(status: int, target: str | None, port: int):
    extra = b""
    if target is not None:
        extra = f"Location: {target.format(other=f'127.0.0.1:{port}')}\r\n".encode()
    return saying(response(b"{}", status=f"{status} Elsewhere", extra=extra))


async def test_the_list_of_models_follows_no_redirect_either():
    async with serving(saying(response())) as trap:
        location = f"Location: {trap.url}/models\r\n".encode()
        async with serving(saying(response(b"", status="302 Found", extra=location))) as server:
            core = openai(server.url)
            with pytest.raises(BadReply, match="redirects are not followed") as caught:
                await core.get_models()
            assert caught.value.provider == "openai"
            assert trap.connections == 0
            await nothing_left(core, server)


async def test_no_cookie_comes_back():
    heads: list[bytes] = []

    async def script(peer: Peer, number: int) -> None:
        while True:
            heads.append((await peer.request())[0])
            await peer.send(response(extra=b"Set-Cookie: spy=1; Path=/\r\n"))

    async with serving(script) as server:
        core = openai(server.url)
        for _ in range(3):
            await complete(core)
        assert not any(b"cookie" in head.lower() for head in heads)
        await nothing_left(core, server)


async def test_no_proxy_is_taken_from_the_environment(monkeypatch):
    async with serving(saying(response())) as proxy, serving(saying(response())) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        assert proxy.connections == 0
        await nothing_left(core, server)


async def test_what_goes_onto_the_wire():
    heads: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer, number: int) -> None:
        while True:
            heads.append(await peer.request())
            await peer.send(response())

    async with serving(script) as server:
        core = openai(server.url, headers={"X-Team": "a"})
        await complete(core)
        head, body = heads[0]
        assert head.decode().split("\r\n") == [
            "POST /v1/chat/completions HTTP/1.1",
            f"Host: 127.0.0.1:{server.port}",
            "User-Agent: llmpipe",
            "Content-Type: application/json",
            "Accept: application/json",
            "Accept-Encoding: gzip",
            "X-Team: a",
            f"Authorization: Bearer {KEY}",
            f"Content-Length: {len(body)}",
            "",
            "",
        ]
        assert KEY.encode() not in body
        assert STREAM_HEAD  # the other constants of the kit are used elsewhere
        await nothing_left(core, server)
