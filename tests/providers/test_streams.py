"""Rows F40 to F52: a stream that stalls, is cut, fails inside, is too large, or that nobody reads on."""

from __future__ import annotations

import asyncio
import gc
import gzip
import time
import types

import pytest

from llmpipe.errors import (
    BadReply,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    LLMError,
    Overloaded,
    RateLimited,
    StreamBroken,
)
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.types import Finish, TextDelta, UsageUpdate
from tests.providers.kit import (
    EVENTS,
    KEY,
    LAST_CHUNK,
    STREAM_HEAD,
    Peer,
    chunk,
    chunked,
    complete,
    first_saying,
    leaks,
    nothing_left,
    openai,
    saying,
    serving,
    sse,
    stream,
)

pytestmark = [pytest.mark.real_time, pytest.mark.usefixtures("road")]

WHOLE = STREAM_HEAD + b"".join(map(chunked, EVENTS)) + LAST_CHUNK


def verdict(error: LLMError) -> tuple[object, ...]:
    return (error.phase, error.billed, error.sent, error.retryable, error.health)


UNKNOWN = ("unknown", True, True, "failure")


async def broken(data: bytes, kind: type[LLMError] = StreamBroken, then: str = "keep") -> LLMError:
    """The error that a stream of `data` makes; its connection is not used again."""
    async with serving(first_saying(data, then=then)) as server:
        core = openai(server.url)
        with pytest.raises(kind) as caught:
            async with asyncio.timeout(5):
                await stream(core)
        error = caught.value
        assert type(error) is kind
        assert error.provider == "openai"
        assert error.__cause__ is None
        assert error.__context__ is None
        # What the server said is in the locals of its decoder, and nowhere else.
        assert not leaks(error, frames=KEY.encode() not in data)
        assert core.connections_in_use == 0
        assert (await complete(core)).text == "Hello there."
        assert server.connections == 2
        await nothing_left(core, server)
        return error


async def test_a_good_stream_keeps_its_connection():
    async with serving(saying(WHOLE)) as server:
        core = openai(server.url)
        for _ in range(3):
            done = await stream(core)
            assert (done.text, done.finish_reason, done.usage.output_tokens) == ("Hello.", "stop", 2)
            assert core.connections_in_use == 0
        assert server.connections == 1
        await nothing_left(core, server)


async def test_a_full_call_may_go_over_the_streaming_wire():
    async with serving(saying(WHOLE)) as server:
        core = openai(server.url, wire="stream")
        assert (await complete(core)).text == "Hello."
        await nothing_left(core, server)


# -- stalls


def stalling(*data: bytes):
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, *map(chunked, data))
        await peer.gone()

    return script


@pytest.mark.parametrize("before", [0, 1])
async def test_a_stall_before_the_first_token_ends_at_the_first_timeout(before):
    async with serving(stalling(*EVENTS[:before])) as server:
        core = openai(server.url)
        with pytest.raises(FirstTokenTimeout) as caught:
            await stream(core, Timeout(first=0.1))
        assert verdict(caught.value) == ("headers", *UNKNOWN)
        await nothing_left(core, server)


@pytest.mark.parametrize("before", [2, 3, 4, 5])
async def test_a_stall_in_the_middle_ends_at_the_idle_timeout_with_what_had_come(before):
    async with serving(stalling(*EVENTS[:before])) as server:
        core = openai(server.url)
        with pytest.raises(IdleTimeout) as caught:
            await stream(core, Timeout(idle=0.1))
        assert verdict(caught.value) == ("stream", *UNKNOWN)
        assert caught.value.partial.text == "Hello."[: 3 if before == 2 else 6]
        assert not leaks(caught.value)
        await nothing_left(core, server)


async def test_a_stream_that_only_pings_lives_until_its_deadline():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, chunked(EVENTS[1]))
        while True:
            await peer.send(chunked(b": ping\n\n"))
            await asyncio.sleep(0.01)

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(DeadlineExceeded):
            await stream(core, Timeout(idle=0.1, total=0.4))
        with pytest.raises(IdleTimeout, match="only pings"):
            await stream(core, Timeout(idle=0.1, stall=0.2))
        await nothing_left(core, server)


async def test_pings_before_the_first_token_are_not_kept():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, *[chunked(b": ping\n\n")] * 300)
        await peer.send(*map(chunked, EVENTS), LAST_CHUNK)

    async with serving(script) as server:
        core = openai(server.url)
        async with Chain(core).stream("hi") as reply:
            events = [event async for event in reply]
        assert len(events) < 20
        await nothing_left(core, server)


async def test_a_server_that_ends_the_protocol_and_not_the_body_costs_a_connection_and_no_time():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, *map(chunked, EVENTS))
        await peer.gone()

    async with serving(script) as server:
        core = openai(server.url)
        async with asyncio.timeout(1):
            assert (await stream(core)).text == "Hello."
            assert (await stream(core)).text == "Hello."
        assert server.connections == 2
        await nothing_left(core, server)


async def test_what_follows_the_end_is_passed_over_and_the_connection_kept():
    async def script(peer: Peer, number: int) -> None:
        while True:
            await peer.request()
            await peer.send(STREAM_HEAD, *map(chunked, EVENTS))
            await asyncio.sleep(0.01)
            await peer.send(chunked(b"data: [DONE]\n\n"), chunked(b": bye\n\n"), LAST_CHUNK)

    async with serving(script) as server:
        core = openai(server.url)
        for _ in range(3):
            assert (await stream(core)).text == "Hello."
        assert server.connections == 1
        await nothing_left(core, server)


async def test_much_that_follows_the_end_closes_the_connection(monkeypatch):
    monkeypatch.setattr("llmpipe.providers.exchange._LAST_CHUNK_SECONDS", 60)

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, *map(chunked, EVENTS))
        await asyncio.sleep(0.01)
        while True:
            await peer.send(chunked(b": more" * 2000))

    async with serving(script) as server:
        core = openai(server.url)
        async with asyncio.timeout(2):
            assert (await stream(core)).text == "Hello."
        await nothing_left(core, server)


# -- cuts


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_stream_cut_at_any_byte_is_no_success_and_loses_nothing_that_had_come(then):
    """Cut at each byte of the body. What was whole in the bytes that came is in `partial`."""
    body = b"".join(EVENTS)
    ends = [sum(map(len, EVENTS[: n + 1])) for n in range(len(EVENTS))]

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, chunked(body[: number - 1]) if number > 1 else b"")
        if then == "reset":
            await asyncio.sleep(0)
            peer.reset()

    async with serving(script) as server:
        core = openai(server.url)
        chain = Chain(core)
        for cut in range(len(body)):
            with pytest.raises(StreamBroken) as caught:
                async with chain.stream("hi") as reply:
                    async for _ in reply:
                        pass
            error = caught.value
            assert verdict(error) == ("body", *UNKNOWN), cut
            text = error.partial.text if error.partial is not None else ""
            assert text == ("Hello." if cut >= ends[2] else "Hel" if cut >= ends[1] else ""), cut
        assert server.connections == len(body)
        await nothing_left(core, server)


@pytest.mark.parametrize("length", ["chunked", "none"])
async def test_a_stream_that_ends_politely_without_its_protocols_end_is_broken(length):
    head = STREAM_HEAD if length == "chunked" else STREAM_HEAD.replace(b"Transfer-Encoding: chunked\r\n", b"")
    for count in range(3):
        body = b"".join(EVENTS[:count])
        data = head + ((chunked(body) if body else b"") + LAST_CHUNK if length == "chunked" else body)

        async def script(peer: Peer, number: int, data: bytes = data) -> None:
            await peer.request()
            await peer.send(data)

        async with serving(script) as server:
            core = openai(server.url)
            with pytest.raises(StreamBroken, match="before its end") as caught:
                await stream(core)
            assert verdict(caught.value) == ("stream", *UNKNOWN)
            await nothing_left(core, server)


async def test_a_reset_and_a_close_are_told_apart():
    data = STREAM_HEAD + chunked(EVENTS[1])
    closed = await broken(data, then="close")
    assert closed.code == "connection_closed"

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(data)
        await asyncio.sleep(0.02)
        peer.reset()

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(StreamBroken, match="was reset") as caught:
            await stream(core)
        assert caught.value.code == "connection_reset"
        assert caught.value.partial.text == "Hel"
        await nothing_left(core, server)


async def test_an_error_that_is_kept_keeps_no_frame_of_the_loop():
    """Those have in hand what other calls hold: replies that were dropped would never be closed."""
    before = frames_of("connection_lost")  # of other tests, whose errors pytest keeps
    kept = await broken(STREAM_HEAD + chunked(EVENTS[1]), then="close")
    assert frames_of("connection_lost") <= before
    assert kept.__traceback__ is not None  # ours are there


def frames_of(function: str) -> set[int]:
    gc.collect()
    frames = [thing for thing in gc.get_objects() if isinstance(thing, types.FrameType)]
    return {id(frame) for frame in frames if frame.f_code.co_name == function}


async def test_what_came_before_a_cut_reaches_a_slow_reader():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, chunked(EVENTS[1]))
        await asyncio.sleep(0.02)
        await peer.send(chunked(EVENTS[2]))

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(StreamBroken) as caught:
            async with Chain(core).stream("hi") as reply:
                while server.open:  # meanwhile the rest comes, and the end
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.02)
                async for _ in reply:
                    pass
        assert caught.value.partial.text == "Hello."
        await nothing_left(core, server)


# -- errors inside


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        ({"error": {"message": "busy", "type": "overloaded_error"}}, Overloaded),
        ({"error": {"message": "slow", "code": "rate_limit_exceeded"}}, RateLimited),
    ],
)
async def test_an_error_inside_a_stream_is_that_error(before, wire, kind):
    data = STREAM_HEAD + chunked(b"".join(EVENTS[:before]) + sse(wire))
    error = await broken(data, kind)
    assert error.phase == "stream"
    assert error.billed == "unknown"
    assert error.retryable
    if before > 1:
        assert error.partial.text == "Hello."[: 3 * (before - 1)]


@pytest.mark.parametrize("before", [1, 3])
@pytest.mark.parametrize(
    "junk", [b"data: {not JSON\n\n", b"data: \xff\xfe\n\n", b'data: {"a":' * 3 + b"\n\n"]
)
async def test_junk_inside_a_stream_is_a_bad_reply(before, junk):
    secret = b"data: {" + KEY.encode() + b"\n\n" if junk.startswith(b"data: {n") else junk
    error = await broken(STREAM_HEAD + chunked(b"".join(EVENTS[:before]) + secret), BadReply)
    assert verdict(error) == ("stream", *UNKNOWN)


# -- sizes


async def test_a_line_of_64_mib_is_cut_at_the_limit():
    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, chunked(b"data: "))
        for _ in range(64):
            await peer.send(chunked(b"x" * 2**20))

    async with serving(script) as server:
        core = openai(server.url)
        with pytest.raises(BadReply, match="larger than the limit") as caught:
            await stream(core)
        assert caught.value.code == "event_too_large"
        assert verdict(caught.value) == ("stream", *UNKNOWN)
        await nothing_left(core, server)


async def test_a_line_of_six_mib_is_an_event_like_any_other():
    """aiohttp's own lines end at a few hundred kB."""
    text = "x" * 6 * 2**20
    events = (EVENTS[0], chunk(content=text), *EVENTS[3:])
    async with serving(saying(STREAM_HEAD + chunked(b"".join(events)) + LAST_CHUNK)) as server:
        core = openai(server.url)
        assert (await stream(core)).text == text
        await nothing_left(core, server)


async def test_many_tiny_chunks_take_linear_time():
    async def seconds(count: int) -> float:
        body = b"".join(chunked(bytes((byte,))) for byte in chunk(content="x" * count))
        tail = b"".join(map(chunked, EVENTS[3:])) + LAST_CHUNK
        async with serving(saying(STREAM_HEAD + body + tail)) as server:
            core = openai(server.url)
            began = time.process_time()
            assert len((await stream(core)).text) == count
            spent = time.process_time() - began
            await nothing_left(core, server)
            return spent

    small = min([await seconds(20_000) for _ in range(2)])
    assert await seconds(80_000) < 12 * small  # quadratic would be 16 and grow


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_the_events_are_the_same_however_the_bytes_are_cut(size):
    text = "Grüße, 世界 🌍"
    body = b"".join((EVENTS[0], chunk(content=text), *EVENTS[3:])).replace(b"\n", b"\r\n")
    pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD)
        for piece in pieces:
            await peer.send(chunked(piece))
        await peer.send(LAST_CHUNK)

    async with serving(script) as server:
        core = openai(server.url)
        async with Chain(core).stream("hi") as reply:
            events = [event async for event in reply]
        assert [event.text for event in events if isinstance(event, TextDelta) and event.text] == [text]
        assert sum(isinstance(event, Finish) for event in events) == 1
        assert sum(isinstance(event, UsageUpdate) for event in events) == 1
        await nothing_left(core, server)


async def test_a_packed_stream_comes_as_it_is_sent():
    async def script(peer: Peer, number: int) -> None:
        import zlib

        while True:
            await peer.request()
            packer = zlib.compressobj(wbits=31)
            await peer.send(STREAM_HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n")
            for event in EVENTS:
                await peer.send(chunked(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)))
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            await peer.send(chunked(packer.flush()), LAST_CHUNK)

    async with serving(script) as server:
        core = openai(server.url)
        for _ in range(2):
            assert (await stream(core)).text == "Hello."
        assert server.connections == 1
        await nothing_left(core, server)


async def test_a_packed_stream_that_is_a_bomb_is_cut():
    bomb = gzip.compress(b"data: " + b"\n: ping\n" * 8_000_000)
    await broken(STREAM_HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n" + chunked(bomb), BadReply)


# -- nobody reads


@pytest.mark.parametrize("read", [0, 1, 2])
async def test_a_reader_who_leaves_closes_the_connection(read):
    left = asyncio.Event()

    async def script(peer: Peer, number: int) -> None:
        await peer.request()
        await peer.send(STREAM_HEAD, *map(chunked, EVENTS[:3]))
        await peer.gone()
        left.set()

    async with serving(script) as server:
        core = openai(server.url)
        async with Chain(core).stream("hi") as reply:
            for _ in range(read):
                await anext(reply)
        assert core.connections_in_use == 0
        async with asyncio.timeout(2):
            await left.wait()
        await nothing_left(core, server)


async def test_a_reader_who_leaves_after_the_last_content_still_learns_the_usage():
    async with serving(saying(WHOLE)) as server:
        core = openai(server.url)
        async with Chain(core).stream("hi") as reply:
            async for event in reply:
                if isinstance(event, Finish):
                    break
        assert reply.completion.usage.output_tokens == 2
        assert (await stream(core)).text == "Hello."
        assert server.connections == 1
        await nothing_left(core, server)


async def test_a_reader_who_does_not_read_stops_the_sender():
    sent = 0

    async def script(peer: Peer, number: int) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(STREAM_HEAD, chunked(EVENTS[1]))
        filler = chunked(chunk(content="x" * 10_000))
        for _ in range(5000):
            await peer.send(filler)
            sent += 1

    async with serving(script) as server:
        core = openai(server.url)
        async with Chain(core).stream("hi") as reply:
            await anext(reply)
            before = -1
            while sent != before:  # until nothing moves
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 2500, "25 MB went into buffers"
        await nothing_left(core, server)
