"""The servers that there are, and all backends side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import pytest

from llmpipe.testing.servers.postgres import PostgresServer, find_postgres
from llmpipe.testing.servers.redis import RedisServer, find_redis
from tests.state.alike.world import World


@pytest.fixture(scope="session")
def urls() -> Iterator[list[str]]:
    """Of the servers that there are."""
    with ExitStack() as servers:
        found = []
        if find_spec("llmpipe_redis") and find_redis():
            found.append(servers.enter_context(RedisServer()).url + "?timeout=10&prefix=alike")
        if find_spec("llmpipe_postgres") and find_postgres():
            found.append(servers.enter_context(PostgresServer()).url + "?timeout=20")
        yield found


@pytest.fixture
async def world(urls: list[str], tmp_path: Any, request: Any) -> AsyncIterator[World]:
    made = World(urls, tmp_path, request.node.name)
    yield made
    for state in made.states:
        await state.aclose()
