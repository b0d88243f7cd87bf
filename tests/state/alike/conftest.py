"""All backends that there are, side by side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

import pytest

from llmpipe.testing.servers.postgres import find_postgres
from llmpipe.testing.servers.redis import find_redis
from tests.state.alike.world import World


@pytest.fixture(scope="session")
def urls(request: pytest.FixtureRequest) -> list[str]:
    """Of the servers that there are."""
    found = []
    if find_spec("llmpipe_redis") and find_redis():
        found.append(request.getfixturevalue("redis") + "?timeout=10&prefix=alike")
    if find_spec("llmpipe_postgres") and find_postgres():
        found.append(request.getfixturevalue("postgresql") + "?timeout=20")
    return found


@pytest.fixture
async def world(urls: list[str], tmp_path: Any, request: Any) -> AsyncIterator[World]:
    made = World(urls, tmp_path, request.node.name)
    yield made
    for state in made.states:
        await state.aclose()
