"""Several processes on one server."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from llmpipe.state import Ask, Balance, Draw

pytestmark = pytest.mark.real_time

PROGRAM = """
import asyncio, sys
from llmpipe.state import Ask, Draw, Item, QueueFull, open_state

async def main():
    state, me = open_state(sys.argv[1]), sys.argv[2]
    ledger, limits, queue = state.ledger("l"), state.limits("l"), state.queue("q", max_items=10)

    async def reserve(n):
        draws = [Draw("day", 0, 7, 70), Draw("all", 0, 7, None)]
        return await ledger.reserve(f"{me}-{n}", draws, 600.0) is None

    async def take(n):
        asks = [Ask("rate", 1.0, 10.0, 1e6, 10.0), Ask("slot", 1.0, 500.0)]
        return (await limits.take(f"{me}-{n}", asks, 600.0)).refused is None

    async def put(n):
        try:
            return await queue.put(Item(id=f"{me}-{n}", payload=b"x"))
        except QueueFull:
            return False

    await state.check()
    print("ready", flush=True)
    sys.stdin.readline()
    for work in (reserve, take, put):
        print(sum(await asyncio.gather(*[work(n) for n in range(250)])), flush=True)
    await state.aclose()

asyncio.run(main())
"""


async def test_four_processes_of_250_calls_on_room_for_ten_are_ten(harness):
    state = await harness.open()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, harness.url(), f"p{number}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip

    def run() -> list[list[int]]:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [[int(word) for word in process.communicate()[0].split()] for process in started]

    counts = await asyncio.to_thread(run)
    assert [sum(column) for column in zip(*counts, strict=True)] == [10, 10, 10]
    assert await state.ledger("l").balances([("day", 0), ("all", 0)]) == [Balance(0, 70), Balance(0, 70)]
    (level,) = await state.limits("l").levels([Ask("slot", 1.0, 500.0)])
    assert level.remaining == 490.0
    assert (await state.queue("q").counts()).pending == 10
    assert await state.ledger("l").reserve("one more", [Draw("day", 0, 1, 70)], 60.0) is not None
