"""No answer ever reaches another than who asked, whenever commands are cancelled."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from llmpipe.errors import StoreUnavailable
from llmpipe.testing.servers.redis import RedisServer

pytestmark = pytest.mark.real_time

CANCELS = 20_000 if os.environ.get("LLMPIPE_LONG") else 600


class Slow:
    """A proxy that holds every answer back for a moment, and gives it in pieces."""

    def __init__(self, server: RedisServer, seed: int, delay: float = 0.003) -> None:
        self.port = server.port
        self.random = Random(seed)
        self.delay = delay
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back, slow=False))
                group.create_task(self._pump(there, writer, slow=True))
        except* OSError:
            pass  # one side cut the connection
        finally:
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool) -> None:
        while data := await reader.read(65536):
            cut = self.random.randrange(len(data) + 1) if slow else len(data)
            for piece in (data[:cut], data[cut:]):
                if slow:
                    await asyncio.sleep(self.random.random() * self.delay)
                writer.write(piece)
        raise ConnectionResetError  # one end is closed: both are


async def storm(ask: Any, seed: int, proved: Callable[[int], bool]) -> int:
    """Cancel `CANCELS` commands at random moments, or more, until that is so of how many were answered."""
    random = Random(seed)
    cancelled = answered = 0
    longest = 0.04  # seconds until a command is cancelled: on a busy machine more, or none were answered

    async def worker(number: int) -> None:
        nonlocal cancelled, answered, longest
        turn = 0
        while cancelled < CANCELS or not proved(answered):
            turn += 1
            tag = b"%d-%d" % (number, turn)
            task = asyncio.create_task(ask(tag))
            await asyncio.sleep(random.random() * longest)
            task.cancel()
            try:
                answer = await task
            except asyncio.CancelledError:
                cancelled += 1
                if answered < cancelled // 8:
                    longest = min(longest * 1.02, 5.0)
            else:
                assert answer == tag
                answered += 1
                if answered > cancelled:
                    longest = max(longest / 1.02, 0.04)

    await asyncio.gather(*[worker(number) for number in range(8)])
    return cancelled


async def test_no_answer_crosses_however_commands_are_cancelled(
    server: RedisServer, listen: Any, opened: Any
) -> None:
    slow = Slow(server, 1)
    state = opened(f"redis://127.0.0.1:{await listen(slow)}/0?prefix=crossing&timeout=20&connections=6")

    async def echo(tag: bytes) -> Any:
        return await state.link().ask((b"ECHO", tag))

    # Both happen, or the test says nothing; and many are cancelled while their answer is on its way.
    assert await storm(echo, 2, lambda answered: min(answered, slow.connections) > 50) >= CANCELS
    assert await echo(b"after") == b"after"


async def test_no_answer_crosses_where_commands_run_into_their_timeout(
    server: RedisServer, listen: Any, opened: Any
) -> None:
    slow = Slow(server, 3, 0.01)
    state = opened(f"redis://127.0.0.1:{await listen(slow)}/0?timeout=0.02&connections=4")
    late = answered = 0
    for turn in range(2000):  # how many are late depends on how busy this machine is
        tag, link = b"%d" % turn, state.link()
        try:
            assert await link.ask((b"ECHO", tag)) == tag
            answered += 1
            if answered > late:
                link._timeout = max(link._timeout / 1.05, 0.02)
        except StoreUnavailable:
            late += 1
            link._refuse_until = 0.0  # the next one goes at once
            if answered < late // 4:
                link._timeout *= 1.05
        if turn >= 150 and min(late, answered) > 10:
            break
    assert min(late, answered) > 10


async def test_cancelled_waiters_for_a_connection_lose_nobody_their_turn(
    server: RedisServer, opened: Any
) -> None:
    state = opened(f"{server.url}?connections=1&timeout=20")
    random = Random(4)

    async def echo(number: int) -> Any:
        return await state.link().ask((b"ECHO", b"%d" % number))

    for _ in range(20):
        tasks = [asyncio.create_task(echo(number)) for number in range(50)]
        await asyncio.sleep(random.random() * 0.003)
        for task in random.sample(tasks, 25):
            task.cancel()
        for number, task in enumerate(tasks):
            with suppress(asyncio.CancelledError):  # of the 25
                assert await task == b"%d" % number
    assert await echo(99) == b"99"


async def test_an_idle_connection_that_was_reset_is_not_used_though_its_number_is_anothers_now(
    server: RedisServer, listen: Any, opened: Any
) -> None:
    reset = asyncio.Event()

    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = asyncio.create_task(Slow(server, 1, 0.0)(reader, writer))
        await reset.wait()
        at_once = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.transport.abort()
        await asyncio.wait([passing])
        reset.clear()

    state = opened(f"redis://127.0.0.1:{await listen(resets)}/0?timeout=20")
    assert await state.breakers("n").read() == {}
    (wire,) = state.link()._idle
    number = wire._transport.get_extra_info("socket").fileno()
    quiet, other = os.pipe()  # while that number is taken
    reset.set()
    async with asyncio.timeout(20):
        while wire._transport.get_extra_info("socket").fileno() != -1:
            await asyncio.sleep(0.001)
    os.dup2(quiet, number)
    try:
        assert await state.breakers("n").read() == {}
    finally:
        for each in (number, quiet, other):
            os.close(each)


@pytest.mark.parametrize("pause", [0.0, 0.01])
async def test_an_answer_that_nobody_asked_for_is_nobodys(listen: Any, opened: Any, pause: float) -> None:
    async def says_more(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if b"SETINFO" in data:
                writer.write(b"+OK\r\n" * data.count(b"SETINFO"))
            else:
                answers = [b"$5\r\nright\r\n", b"$5\r\nwrong\r\n"]
                for part in answers if pause else [b"".join(answers)]:
                    writer.write(part)
                    await asyncio.sleep(pause)

    state = opened(f"redis://127.0.0.1:{await listen(says_more)}/0?timeout=10")
    for _ in range(3):
        assert await state.link().ask((b"ECHO", b"right")) == b"right"
        await asyncio.sleep(0.05)
