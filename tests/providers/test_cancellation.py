"""A call cancelled at every place where it waits: nothing stays taken, and the next call is well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from llmpipe.errors import LLMError
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
    openai,
    response,
    serving,
    stream,
)

pytestmark = [pytest.mark.real_time, pytest.mark.usefixtures("road")]


class CancelledAt:
    """Awaits `work` and cancels its own task at the `number`-th time that it has to wait."""

    def __init__(self, work: Awaitable[Any], number: int, *, times: int = 1) -> None:
        self.work, self.number, self.times = work, number, times
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        inner = self.work.__await__()
        send, value = inner.send, None
        while True:
            try:
                future = send(value)
            except StopIteration as done:
                return done.value
            self.waits += 1
            if self.number <= self.waits < self.number + self.times:
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                send, value = inner.send, (yield future)
            except BaseException as error:  # noqa: BLE001  goes on, into the work
                send, value = inner.throw, error


async def _at_every_wait(work: Callable[[], Awaitable[Any]], *, times: int = 1, least: int) -> None:
    """Run `work` again and again, cancelled a step later each time, until it ends before that."""
    for number in range(1, 200):
        waiting = CancelledAt(work(), number, times=times)

        async def run(waiting: CancelledAt = waiting) -> Any:
            return await waiting

        task = asyncio.create_task(run())
        try:
            await task
        except asyncio.CancelledError:
            continue
        except LLMError:
            pass
        if waiting.waits < number:  # it ended before it was cancelled: every wait has been tried
            assert number > least, f"there are only {number - 1} waits to be cancelled at"
            return
    pytest.fail("the call never ends")


SCRIPTS = {
    "full": [response()[:80], response()[80:200], response()[200:]],
    "refused": [
        response(b'{"error": {}}', status="503 No")[:90],
        response(b'{"error": {}}', status="503 No")[90:],
    ],
    "stream": [STREAM_HEAD, *map(chunked, EVENTS), LAST_CHUNK],
    "no end": [STREAM_HEAD, *map(chunked, EVENTS)],
}


@pytest.mark.parametrize("times", [1, 3], ids=["once", "three times"])
@pytest.mark.parametrize("fresh", [False, True], ids=["kept connection", "new connection"])
@pytest.mark.parametrize("what", SCRIPTS)
async def test_a_call_cancelled_at_any_wait_gives_its_connection_back(monkeypatch, what, fresh, times):
    monkeypatch.setattr("llmpipe.providers.exchange._LAST_CHUNK_SECONDS", 0.02)
    good = False

    async def script(peer: Peer, number: int) -> None:
        while True:
            await peer.request()
            if good:
                await peer.send(response())
                continue
            for piece in SCRIPTS[what]:
                await peer.send(piece)
                await asyncio.sleep(0.001)
            if what == "no end":
                await peer.gone()

    async with serving(script) as server:
        core = openai(server.url)

        async def work() -> Any:
            if fresh:
                await core.aclose()
            return await (stream if what in {"stream", "no end"} else complete)(core)

        await _at_every_wait(work, times=times, least=2)
        assert core.connections_in_use == 0
        good = True
        assert (await complete(core)).text == "Hello there."
        await nothing_left(core, server)


async def test_a_call_cancelled_while_it_waits_for_a_connection_leaves_the_queue():
    go = asyncio.Event()

    async def script(peer: Peer, number: int) -> None:
        while True:
            await peer.request()
            await go.wait()
            await peer.send(response())

    async with serving(script) as server:
        core = openai(server.url, transport={"max_connections": 1})
        tasks = [asyncio.create_task(complete(core)) for _ in range(10)]
        while server.open == 0:
            await asyncio.sleep(0)
        for task in tasks[1:9:2]:
            task.cancel()
        await asyncio.sleep(0)
        go.set()
        tasks[2].cancel()  # just as it may be its turn
        results = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled = [n for n, r in enumerate(results) if isinstance(r, asyncio.CancelledError)]
        assert cancelled == [1, 2, 3, 5, 7]
        assert all(results[n].text == "Hello there." for n in (0, 4, 6, 8, 9))
        await nothing_left(core, server)


async def test_no_reply_reaches_another_caller_when_many_are_cancelled():
    """Each reply carries its prompt; callers are cancelled at random; none gets the words of another."""
    import random

    rng = random.Random(7)

    async def script(peer: Peer, number: int) -> None:
        while True:
            _, body = await peer.request()
            tag = body.partition(b"tag-")[2].partition(b"-")[0]
            data = response(BODY.replace(b"Hello there.", tag))
            at = rng.randrange(len(data))
            await peer.send(data[:at])
            await asyncio.sleep(rng.random() * 0.002)
            await peer.send(data[at:])

    async with serving(script) as server:
        core = openai(server.url, transport={"max_connections": 8})
        chain = Chain(core)
        wrong: list[Any] = []

        async def ask(number: int) -> None:
            done = await chain.complete(f"tag-{number}-")
            if done.text != str(number):
                wrong.append((number, done.text))

        async def one(number: int) -> None:
            task = asyncio.create_task(ask(number))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random() * 0.004)
                task.cancel()
            await asyncio.wait([task])

        for start in range(0, 600, 20):
            await asyncio.gather(*(one(number) for number in range(start, start + 20)))
        assert not wrong
        await nothing_left(core, server)
