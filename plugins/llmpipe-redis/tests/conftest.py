from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from llmpipe.testing.servers.redis import RedisServer
from llmpipe.testing.state import OpenedStates
from llmpipe_redis import RedisState, open_redis

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[RedisServer]:
    """One Redis for all tests that do it no harm; each has a prefix of its own there."""
    with RedisServer() as running:
        yield running


class Harness(OpenedStates[RedisState]):
    """Opens states with keys of their own in the one Redis."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server
        self.url = server.url

    async def open(self) -> RedisState:
        # Long enough for a machine that has other things to do too.
        self.url = f"{self.server.url}?prefix=test-{next(_numbers)}&timeout=10"
        return await self.reopen()

    async def reopen(self) -> RedisState:
        return self.keep(open_redis(self.url))


@pytest.fixture
async def harness(server: RedisServer) -> AsyncIterator[Harness]:
    made = Harness(server)
    yield made
    await made.aclose()


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Listen = Callable[..., Awaitable[int]]


@pytest.fixture
async def listen() -> AsyncIterator[Listen]:
    """Serves connections on a free port, each by the function that is given, until the test is over."""
    servers: list[asyncio.Server] = []
    serving: set[asyncio.Task[None]] = set()

    async def start(answer: Answer, context: ssl.SSLContext | None = None) -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            serving.add(task)
            try:
                await answer(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass  # the client cut the connection, which is what it is here for
            except asyncio.CancelledError:
                pass  # the test is over; the server would log it
            finally:
                serving.discard(task)
                writer.transport.abort()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
        port: int = servers[-1].sockets[0].getsockname()[1]
        return port

    yield start
    for server in servers:
        server.close()
    for task in [*serving]:  # from Python 3.12 on a server waits for them, and some answer never
        task.cancel()
    for server in servers:
        await server.wait_closed()


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    """A Redis that a test may freeze, kill and misconfigure. Its data outlives a kill."""
    with RedisServer(appendonly="always") as running:
        yield running


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[str], RedisState]]:
    """Opens states of Redis, and closes them when the test is over."""
    states: list[RedisState] = []

    def open_(url: str) -> RedisState:
        states.append(open_redis(url))
        return states[-1]

    yield open_
    for state in states:
        await state.aclose()
