"""One PostgreSQL for the whole session, and an empty schema for each test."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from itertools import count

import asyncpg  # type: ignore[import-untyped]  # has no types of its own
import pytest

from llmpipe.testing.servers.postgres import PostgresServer
from llmpipe.testing.state import OpenedStates
from llmpipe_postgres import PostgresState, open_postgres

_NUMBERS = count(1)
# Schemas that nobody uses now, by port: emptied they are made anew ten times as fast, and dropping their
# thousands of files at the end takes longer than all that.
_FREE: defaultdict[int, list[str]] = defaultdict(list)
_TABLES = (
    "balances", "holds", "journal", "buckets", "tickets", "slots", "queue_totals", "queue_items", "audit",
    "audit_unended", "audit_writers", "vault", "llm_providers", "llm_providers_revision",
)  # fmt: skip


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as made:
        yield made


class PostgresHarness(OpenedStates[PostgresState]):
    """Opens an empty schema."""

    def __init__(self, server: PostgresServer, **settings: object) -> None:
        super().__init__()
        self.server = server
        self._settings = {"timeout": 60, **settings}  # the suites have a thousand wait for one another
        self._schemas: list[str] = []
        self.schema = ""

    def url(self, **settings: object) -> str:
        settings = {"schema": self.schema, **self._settings, **settings}
        return self.server.url + "?" + "&".join(f"{name}={value}" for name, value in settings.items())

    async def open(self, **settings: object) -> PostgresState:
        free = _FREE[self.server.port]
        if free:
            self.schema = free.pop()
            await self.sql("".join(f"DELETE FROM {self.schema}.{table};" for table in _TABLES))
        else:
            self.schema = f"t{next(_NUMBERS)}"
        self._schemas.append(self.schema)
        state = await self.reopen(**settings)
        await state.check()
        return state

    async def sql(self, statements: str) -> list[asyncpg.Record]:
        """Say something to the server, as its superuser; the rows of one statement."""
        connection = await asyncpg.connect(self.server.url)
        try:
            if ";" in statements:
                await connection.execute(statements)
                return []
            rows: list[asyncpg.Record] = await connection.fetch(statements)
            return rows
        finally:
            await connection.close()

    async def reopen(self, **settings: object) -> PostgresState:
        return self.keep(open_postgres(self.url(**settings)))

    async def aclose(self) -> None:
        await super().aclose()
        _FREE[self.server.port] += self._schemas


@pytest.fixture
async def harness(server: PostgresServer) -> AsyncIterator[PostgresHarness]:
    made = PostgresHarness(server)
    yield made
    await made.aclose()


@pytest.fixture
async def own_server() -> AsyncIterator[PostgresHarness]:
    """A server that the test may stop, freeze and kill, with the store's usual timeout."""
    with PostgresServer() as made:
        harness = PostgresHarness(made, timeout=2)
        yield harness
        made.resume()
        await harness.aclose()


class Proxy:
    """Stands before the server. `cut` connections are cut when the server answers to `word`, unheard."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.word = b""
        self.cut = 0
        self.cuts = 0
        self.delay = 0.0
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.own_port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0.01)  # for the transports

    async def until_cut(self, cuts: int) -> None:
        """Until so many connections have been cut, in all."""
        async with asyncio.timeout(60):
            while self.cuts < cuts:
                self.cut = self.cut or 1  # one that was to be cut may have been ended by the server before
                await asyncio.sleep(0.01)

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            with contextlib.suppress(asyncio.CancelledError, OSError):  # the test is over
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    await self._forward(client, back, reader, writer)
                finally:
                    writer.transport.abort()
        finally:
            back.transport.abort()

    async def _forward(
        self,
        client: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        doomed = asyncio.Event()

        async def forth() -> None:
            while data := await client.read(65536):
                # Only what ends with a Sync is answered to its end; and nobody is cut twice.
                if self.cut and not doomed.is_set() and self.word in data and data.endswith(b"S\0\0\0\4"):
                    self.cut -= 1
                    doomed.set()
                writer.write(data)

        async def answers() -> None:
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay * random.random())
                if doomed.is_set() and data.endswith(b"I"):  # ReadyForQuery: it is committed
                    self.cuts += 1
                    return
                if not doomed.is_set():
                    back.write(data)

        tasks = [asyncio.ensure_future(forth()), asyncio.ensure_future(answers())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def proxy(harness: PostgresHarness) -> AsyncIterator[Proxy]:
    async with Proxy(harness.server.port) as made:
        yield made
