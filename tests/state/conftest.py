"""The servers that there are, one of each for all tests of this folder, and the stores of the laws."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from llmpipe.testing.servers.postgres import PostgresServer, find_postgres
from llmpipe.testing.servers.redis import RedisServer, find_redis
from tests.state.stores import InMemory, Shared, Store


@pytest.fixture(scope="session")
def redis() -> Iterator[str]:
    """The URL of a Redis."""
    if not (find_spec("llmpipe_redis") and find_redis()):
        pytest.skip("there is no redis-server, or no llmpipe-redis")
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL."""
    if not (find_spec("llmpipe_postgres") and find_postgres()):
        pytest.skip("there is no PostgreSQL, or no llmpipe-postgres")
    with PostgresServer() as server:
        yield server.url


@pytest.fixture(scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The store that the test's parameter names, for `parametrize(..., indirect=True)`."""
    name: str = request.param
    made: Store
    if name == "memory":
        made = InMemory()
    elif name == "sqlite":
        made = Shared(name, f"sqlite:///{tmp_path_factory.mktemp('laws')}/laws.db?timeout=30")
    elif name == "file":
        made = Shared(name, f"file://{tmp_path_factory.mktemp('laws')}/laws.jsonl?timeout=30")
    elif name == "redis":
        made = Shared(name, f"{request.getfixturevalue(name)}?prefix=laws&timeout=30")
    else:
        made = Shared(name, f"{request.getfixturevalue(name)}?schema=laws&timeout=30&pool=2", 10)
    yield made
    made.close()
