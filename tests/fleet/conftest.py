"""The stores that a fleet shares, and its processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from llmpipe.testing.servers.postgres import PostgresServer, find_postgres
from llmpipe.testing.servers.redis import RedisServer, find_redis
from tests.fleet.pool import Pool
from tests.fleet.shop import Stores

_NUMBERS = count(1)


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    """A Redis whose data outlives a kill; nobody may harm it."""
    if find_redis() is None:
        pytest.skip("there is no redis-server")
    with RedisServer(appendonly="always") as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that nobody may harm."""
    if find_postgres() is None:
        pytest.skip("there is no PostgreSQL")
    with PostgresServer() as running:
        yield running


@pytest.fixture(scope="session")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pool]]:
    """Four lanes of processes."""
    with ExitStack() as stack:
        home = tmp_path_factory.mktemp("fleet")
        yield [stack.enter_context(Pool(home)) for _ in range(4)]


Make = Callable[[str], Stores]


@pytest.fixture
def make_stores(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Empty stores of a kind: ``sqlite``, ``redis``, ``postgres``; they wait long, for a busy machine."""

    def make(kind: str) -> Stores:
        number = f"{os.getpid()}_{next(_NUMBERS)}"
        file = f"sqlite:///{tmp_path}/{number}.db?timeout=60"
        if kind == "redis":
            server = request.getfixturevalue("redis")
            return Stores(f"{server.url}?prefix=fleet{number}&timeout=30", file)
        if kind == "postgres":
            server = request.getfixturevalue("postgres")
            url = f"{server.url}?schema=fleet{number}&timeout=60&pool=4"
            return Stores(url, url)
        return Stores(file, file)

    return make
