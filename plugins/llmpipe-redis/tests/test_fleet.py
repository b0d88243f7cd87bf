"""Several processes on one Redis: what is for all of them together."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

from llmpipe.state import Balance, Draw
from llmpipe.testing.servers.redis import RedisServer

pytestmark = pytest.mark.real_time

PROCESSES = 4


def together(code: str, url: str) -> list[str]:
    """What `PROCESSES` processes print that run `code`, with url and their number, all at once."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, url, str(number)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    printed = []
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        printed.append(out.strip())
    return printed


HOLDS = """
import asyncio, sys
from llmpipe.state import Draw
from llmpipe_redis import open_redis

async def main():
    state = open_redis(sys.argv[1])
    ledger = state.ledger("n")
    async def one(number):
        hold = f"{sys.argv[2]}-{number}"
        return await ledger.reserve(hold, [Draw("a", 0, 100, limit=1_000)], 600.0) is None
    print(sum(await asyncio.gather(*[one(number) for number in range(250)])))
    await state.aclose()

asyncio.run(main())
"""

WINDOW = """
import asyncio, sys
from llmpipe.state import Ask
from llmpipe_redis import open_redis

async def main():
    state = open_redis(sys.argv[1])
    limits = state.limits("n")
    asks = [Ask("rpm", 1.0, 50.0, 36_000.0, 50.0), Ask("at once", 1.0, 1_000.0)]
    async def one(number):
        return (await limits.take(f"{sys.argv[2]}-{number}", asks, 600.0)).refused is None
    print(sum(await asyncio.gather(*[one(number) for number in range(250)])))
    await state.aclose()

asyncio.run(main())
"""

LEASES = """
import asyncio, sys
from llmpipe_redis import open_redis

async def main():
    state = open_redis(sys.argv[1])
    queue = state.queue("n")
    async def worker():
        count = 0
        while found := await queue.lease("w", count=3):
            for leased in found:
                count += await queue.done(leased.id, leased.token, leased.id.encode())
        return count
    print(sum(await asyncio.gather(*[worker() for _ in range(8)])))
    await state.aclose()

asyncio.run(main())
"""


async def test_a_thousand_at_once_get_ten_where_there_is_room_for_ten(harness: Any) -> None:
    ledger = (await harness.open()).ledger("n")

    async def one(number: int) -> bool:
        return await ledger.reserve(f"h{number}", [Draw("a", 0, 100, limit=1_000)], 600.0) is None

    assert sum(await asyncio.gather(*[one(number) for number in range(1_000)])) == 10
    assert await ledger.balances([("a", 0)]) == [Balance(0, 1_000)]


async def test_four_processes_get_ten_where_there_is_room_for_ten(harness: Any, server: RedisServer) -> None:
    state = await harness.open()
    granted = await asyncio.to_thread(together, HOLDS, harness.url)
    assert sum(map(int, granted)) == 10
    assert await state.ledger("n").balances([("a", 0)]) == [Balance(0, 1_000)]
    assert len(await state.ledger("n").holds()) == 10


async def test_four_processes_keep_to_one_window_as_one(harness: Any) -> None:
    await harness.open()
    granted = await asyncio.to_thread(together, WINDOW, harness.url)
    assert sum(map(int, granted)) == 50


async def test_four_processes_do_each_item_once(harness: Any) -> None:
    from llmpipe.state import Item, QueueCounts

    queue = (await harness.open()).queue("n")
    for number in range(500):
        await queue.put(Item(id=f"i{number}", payload=b"x", order=f"o{number % 7}" if number % 2 else ""))
    done = await asyncio.to_thread(together, LEASES, harness.url)
    left = [leased.id for leased in await queue.lease("w", count=1000)]  # of orders, whose turn came last
    assert sum(map(int, done)) + len(left) == 500
    counts = await queue.counts()
    assert isinstance(counts, QueueCounts)
    assert (counts.done, counts.leased, counts.dead) == (500 - len(left), len(left), 0)
