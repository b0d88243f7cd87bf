"""Rows F30 to F35: a full reply's body that is short, wrong, endless or a bomb."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
import zlib

import orjson
import pytest

from llmpipe.errors import BadReply, LLMError, Overloaded, RateLimited, ServiceUnavailable, StreamBroken
from llmpipe.pipeline.chain import Chain
from tests.providers.kit import (
    BODY,
    KEY,
    LAST_CHUNK,
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
)

pytestmark = [pytest.mark.real_time, pytest.mark.usefixtures("road")]

JSON_CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


async def failed(data: bytes, then: str = "keep", *, connections: int | None = None, **options) -> LLMError:
    """The error that a full reply of `data` makes; the provider is fine afterwards."""
    async with serving(first_saying(data, then=then)) as server:
        core = openai(server.url, **options)
        with pytest.raises(LLMError) as caught:
            async with asyncio.timeout(5):
                await complete(core)
        error = caught.value
        assert error.provider == "openai"
        assert error.__cause__ is None
        assert error.__context__ is None
        assert not leaks(error)
        assert core.connections_in_use == 0
        assert (await complete(core)).text == "Hello there."
        if connections is not None:
            assert server.connections == connections
        await nothing_left(core, server)
        return error


def verdict(error: LLMError) -> tuple[object, ...]:
    return (error.phase, error.billed, error.sent, error.retryable, error.health)


BROKEN = ("body", "unknown", True, True, "failure")


# -- short


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_cut_at_any_byte_is_broken(framing):
    """A reply of about 400 bytes, cut at each of them: never a success, never a connection used again."""
    if framing == "length":
        whole, first = response(), len(response()) - len(BODY)
    else:
        whole, first = JSON_CHUNKED + chunked(BODY) + LAST_CHUNK, len(JSON_CHUNKED)
    cuts = range(first, len(whole))
    at = iter(cuts)

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(whole[: next(at)])

    async with serving(script) as server:
        core = openai(server.url)
        chain = Chain(core)
        for cut in cuts:
            with pytest.raises(StreamBroken) as caught:
                await chain.complete("hi")
            assert verdict(caught.value) == BROKEN, cut
            assert caught.value.code == "connection_closed"
        assert server.connections == len(cuts)
        await nothing_left(core, server)


@pytest.mark.parametrize("sent", [0, 1, 200])
async def test_a_reset_in_the_middle_of_a_body_says_so(sent):
    whole = response()
    data = whole[: len(whole) - len(BODY) + sent]

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(data)
        await asyncio.sleep(0.02)
        peer.reset()

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(StreamBroken, match="was reset") as caught:
            await complete(core)
        assert verdict(caught.value) == BROKEN
        assert caught.value.code == "connection_reset"
        assert not leaks(caught.value)
        await nothing_left(core, server)


async def test_a_body_without_any_length_ends_with_its_connection():
    async with serving(saying(response(length=False), then="close")) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await nothing_left(core, server)


async def test_a_body_may_come_byte_by_byte():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(JSON_CHUNKED)
        for byte in BODY:
            await peer.send(chunked(bytes((byte,))))
        await peer.send(LAST_CHUNK)

    async with serving(script) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        await nothing_left(core, server)


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\nabc\r\n", b"-1\r\n\r\n", b"5\r\nabc", b"ffffffffffffffffffff\r\n", b"3;" + b"a" * 99_999],
)
async def test_broken_chunks_are_no_body(chunks):
    error = await failed(JSON_CHUNKED + chunks, then="close", connections=2)
    assert (error.billed, error.sent, error.retryable, error.health) == BROKEN[1:]


# -- wrong


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"\xef\xbb\xbf",
        b"null",
        b"true",
        b"[]",
        b'"text"',
        b"17",
        b"{",
        BODY[:-1],
        BODY + BODY,
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        BODY.decode().encode("utf-16"),
        b"<html>",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a": ' + b"9" * 1_000_000 + b"}",
        b"{}",
        b'{"choices": []}',
        b'{"choices": null}',
        b'{"choices": [7]}',
    ],
    ids=lambda body: repr(body[:18]),
)
async def test_what_is_no_reply_is_a_typed_error(body):
    error = await failed(response(body), connections=1)
    assert type(error) is BadReply
    assert verdict(error) == BROKEN
    assert len(error.message) < 1000


async def test_a_hundred_thousand_keys_are_read_without_harm():
    body = b'{"x": {' + b",".join(b'"k%d": 0' % n for n in range(100_000)) + b"}}"
    assert type(await failed(response(body))) is BadReply


async def test_a_byte_order_mark_is_passed_over():
    async with serving(saying(response(b"\xef\xbb\xbf" + BODY))) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        await nothing_left(core, server)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "busy", "type": "overloaded_error"}}, Overloaded),
        ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, RateLimited),
        ({"error": {"message": "?", "type": "server_error"}}, ServiceUnavailable),
        ({"object": "error", "message": "broken", "code": 500}, LLMError),
    ],
)
async def test_a_200_with_an_error_in_it_is_that_error(body, kind):
    error = await failed(response(orjson.dumps(body)), connections=1)
    assert isinstance(error, kind)
    assert error.phase == "body"


# -- refusals


async def test_a_refusal_is_read_to_64_kib_and_scrubbed():
    body = b'{"error": {"message": "Incorrect API key: ' + KEY.encode() + b"x" * 10_000_000
    error = await failed(response(body, status="401 Unauthorized"))
    assert error.status == 401
    assert len(error.message) < 3000


async def test_a_refusal_keeps_its_connection():
    async with serving(saying(response(b'{"error": {}}', status="429 Slow"))) as server:
        core = openai(server.url)
        for _ in range(3):
            with pytest.raises(RateLimited):
                await complete(core)
        assert server.connections == 1
        await nothing_left(core, server)


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable", "500 Oops"])
async def test_a_refusal_whose_body_breaks_is_still_that_refusal(status):
    data = response(b'{"error": {"mess', status=status).replace(b"Content-Length: 16", b"Content-Length: 99")
    error = await failed(data, then="close", connections=2)
    assert error.status == int(status[:3])
    assert error.retryable


async def test_a_refusal_whose_body_never_comes_is_still_that_refusal(monkeypatch):
    monkeypatch.setattr("llmpipe.providers.exchange._REFUSAL_SECONDS", 0.05)
    head = (
        b"HTTP/1.1 429 Slow\r\nContent-Type: application/json\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\n"
    )
    error = await failed(head, connections=2)
    assert isinstance(error, RateLimited)
    assert error.retry_after == 7


async def test_a_refusal_in_an_unknown_encoding_is_still_that_refusal():
    error = await failed(response(b"\x00" * 50, status="429 Slow", extra=b"Content-Encoding: br\r\n"))
    assert isinstance(error, RateLimited)


# -- too large


async def test_a_body_without_end_is_cut():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(JSON_CHUNKED)
        while True:
            await peer.send(chunked(b" " * 65536))

    async with serving(script) as server:
        core = openai(server.url, transport={"max_body_bytes": 3_000_000})
        with pytest.raises(BadReply, match="larger than 3000000 bytes") as caught:
            await complete(core)
        assert verdict(caught.value) == BROKEN
        assert caught.value.code == "reply_too_large"
        await nothing_left(core, server)


async def test_a_body_of_the_largest_size_is_taken_and_one_byte_more_is_not():
    async with serving(saying(response())) as server:
        for limit, good in ((len(BODY), True), (len(BODY) - 1, False)):
            core = openai(server.url, transport={"max_body_bytes": limit})
            if good:
                assert (await complete(core)).text == "Hello there."
            else:
                with pytest.raises(BadReply, match="larger than"):
                    await complete(core)
            await nothing_left(core)


# -- encodings


def encoded(body: bytes, encoding: str = "gzip") -> bytes:
    return response(body, extra=f"Content-Encoding: {encoding}\r\n".encode())


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip "])
async def test_gzip_is_read(encoding):
    async with serving(saying(encoded(gzip.compress(BODY), encoding))) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 1
        await nothing_left(core, server)


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
async def test_identity_is_no_encoding(encoding):
    async with serving(saying(encoded(BODY, encoding))) as server:
        core = openai(server.url)
        assert (await complete(core)).text == "Hello there."
        await nothing_left(core, server)


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "deflate", "compress", "gzip, gzip", "gzip, br", "x" * 5000]
)
async def test_an_encoding_that_was_not_asked_for_is_refused(encoding, road):
    # On the long road aiohttp has the connection back as soon as the body is in.
    kept = None if road == "long road" else 2
    error = await failed(encoded(gzip.compress(BODY), encoding), connections=kept)
    assert type(error) is BadReply
    assert error.phase == "headers"
    assert len(error.message) < 200


_PACKED = gzip.compress(BODY)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (BODY, BadReply),
        (b"", StreamBroken),
        (_PACKED[:-9], StreamBroken),
        (_PACKED[:-1], StreamBroken),
        (_PACKED + b"garbage", BadReply),
        (_PACKED + _PACKED, BadReply),
        (_PACKED[:-8] + b"\0" * 8, BadReply),
        (gzip.compress(_PACKED), BadReply),
        (zlib.compress(BODY), BadReply),
    ],
    ids=["plain", "empty", "cut", "cut by one", "garbage behind", "twice", "wrong sum", "in gzip", "zlib"],
)
async def test_broken_gzip_is_no_reply(body, kind):
    error = await failed(encoded(body))
    assert type(error) is kind
    assert verdict(error) == BROKEN


@pytest.mark.parametrize("filler", [b"\0", b" "])
async def test_a_gzip_bomb_is_cut_before_it_costs_much(filler):
    """64 MiB in 64 kB; in half a second of loop time or less, and a few MiB."""
    bomb = gzip.compress(b'{"a": "' + filler * 64 * 1024 * 1024)
    async with serving(saying(encoded(bomb))) as server:
        core = openai(server.url)
        tracemalloc.start()
        try:
            began = time.process_time()
            with pytest.raises(BadReply, match="gzip bomb") as caught:
                await complete(core)
            spent = time.process_time() - began
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert verdict(caught.value) == BROKEN
        assert peak < 16 * 1024 * 1024
        assert spent < 0.5  # 64 MiB and their sum take longer
        await nothing_left(core, server)


async def test_a_large_reply_that_packs_well_is_no_bomb():
    """Repetitive JSON of 8 MB, thirty times smaller in gzip."""
    text = "".join(f'{{"row": {n}, "name": "somebody", "value": {n * 7}}} ' for n in range(160_000))
    done = orjson.loads(BODY)
    done["choices"][0]["message"]["content"] = text
    body = gzip.compress(orjson.dumps(done), 6)
    async with serving(saying(encoded(body))) as server:
        core = openai(server.url)
        assert (await complete(core)).text == text
        await nothing_left(core, server)
