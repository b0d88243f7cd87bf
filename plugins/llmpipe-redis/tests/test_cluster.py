"""Redis Cluster: all keys of one thing are in one slot, and a node that keeps only some is told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.state import Ask, Draw, Item, Spend, Trip
from llmpipe.testing.servers.redis import RedisServer

pytestmark = pytest.mark.real_time


def _node() -> RedisServer:
    while True:
        made = RedisServer(cluster_enabled="yes")
        if made.port < 55_536:  # the nodes speak on the port 10,000 above
            return made
        made.close()


@pytest.fixture
def node() -> Iterator[RedisServer]:
    """A cluster of one node, which has all slots."""
    with closing(_node()) as made:
        made.start()
        made.ask("CLUSTER", "ADDSLOTS", *map(str, range(16_384)))
        while b"cluster_state:ok" not in made.ask("CLUSTER", "INFO"):
            assert made.log is not None
        yield made


async def test_a_cluster_of_one_node_keeps_everything(node: RedisServer, opened: Any) -> None:
    state = opened(f"{node.url}?timeout=10")
    await state.check()
    ledger, queue = state.ledger("n"), state.queue("n")
    assert await ledger.reserve("h", [Draw("a", 0, 5, 10), Draw("b", 0, 5)], 60.0) is None
    assert await ledger.settle("h", [Draw("a", 0, 5)], [Spend(id="s", at=1.0, nano=5)])
    assert (
        await state.limits("n").take("t", [Ask("k", 1.0, 5.0, 60.0, 5.0), Ask("s", 1.0, 2.0)], 60.0)
    ).refused is None
    await state.limits("n").reset(["k", "s"])
    await state.breakers("n").trip("k", Trip(60.0))
    await queue.put(Item(id="i", payload=b"p", order="o"))
    (leased,) = await queue.lease("w")
    assert await queue.done(leased.id, leased.token)
    await state.cache("n", max_entries=1, max_bytes=1).clear()


async def test_a_node_that_keeps_a_part_is_a_wrong_setting_when_it_is_checked(
    listen: Any, opened: Any
) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            for command in data.split(b"*")[1:]:
                if b"cluster" in command:
                    said = b"# Cluster\r\ncluster_enabled:1\r\n"
                    writer.write(b"$%d\r\n%b\r\n" % (len(said), said))
                elif b":9}" in command or b"EVAL" in command:
                    writer.write(b"-MOVED 3999 127.0.0.1:6381\r\n")
                else:
                    writer.write(b"+OK\r\n" if b"GET" not in command else b"$-1\r\n")

    state = opened(f"redis://:hush-hush@127.0.0.1:{await listen(answers)}/0?timeout=5")
    with pytest.raises(ConfigError, match="one of several nodes of a cluster") as caught:
        await state.check()
    assert "redis+sentinel://" in str(caught.value)
    assert "hush" not in str(caught.value)
    with pytest.raises(StoreUnavailable, match="this key lies on another") as moved:
        await state.limits("n").levels([Ask("k", 1.0, 5.0)])
    assert moved.value.code == "MOVED"
