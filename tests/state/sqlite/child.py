"""What the tests run in other processes: ``python child.py COMMAND URL …``. Never collected as a test."""

# ruff: noqa: T201  it speaks through its output
from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Ask, AuditRecord, Draw, Item, Spend, open_state
from llmpipe.state.contracts.audit import Anchor
from llmpipe.state.hash_chain import chained
from llmpipe.state.sqlite import writer

ACCOUNTS = ("all", "tenant=a")


async def work(url: str, told: int, name: str, count: int = 10**9, *, close: bool = False) -> None:
    """Spend, record and queue, and say of each step to descriptor `told` when it is done."""
    state = open_state(url)
    ledger, audit, queue, limits = state.ledger("l"), state.audit("a"), state.queue("q"), state.limits("r")
    lock = asyncio.Lock()
    head = Anchor()

    async def one(number: int) -> None:
        nonlocal head
        key = f"{name}-{number}"
        nano = number % 7 + 1
        draws = [Draw(account, 0, 10, None, 10) for account in ACCOUNTS]
        assert await ledger.reserve(key, draws, 1000.0) is None
        os.write(told, b"reserved %s\n" % key.encode())
        await limits.take(key, [Ask("k", 1, 10**6, 60, 10**6)], 60.0)
        charges = [Draw(account, 0, nano) for account in ACCOUNTS]
        assert await ledger.settle(key, charges, [Spend(id=key, at=float(number), nano=nano)])
        os.write(told, b"settled %s\n" % key.encode())
        async with lock:
            begin = chained(
                AuditRecord(writer=name, seq=0, kind="begin", at=1.0, call=key, body={"n": number}), head
            )
            end = chained(AuditRecord(writer=name, seq=0, kind="end", at=2.0, call=key, body={}), begin)
            await audit.append([begin, end])
            head = Anchor(end.seq, end.hash)
            os.write(told, b"recorded %s\n" % key.encode())
        await queue.put(Item(id=key, payload=key.encode() * 20))
        os.write(told, b"queued %s\n" % key.encode())

    for first in range(0, count, 4):
        await asyncio.gather(*[one(number) for number in range(first, min(count, first + 4))])
    if close:
        await state.aclose()


def zygote() -> None:
    """Fork a worker for each line ``url file name``; say its number; wait for it at the next line."""
    for line in sys.stdin:
        url, file, name = line.split()
        if (pid := os.fork()) == 0:
            asyncio.run(work(url, os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), name))
            os._exit(0)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)


async def put(url: str, count: str, size: str) -> None:
    """Put items, and say what came of each. Then say which are there."""
    state = open_state(url + "?timeout=2")
    queue = state.queue("q")
    for number in range(int(count)):
        try:
            await queue.put(Item(id=f"item {number}", payload=b"x" * int(size)))
        except StoreUnavailable as error:
            print("refused", number, type(error).__name__, str(error).replace("\n", " "), flush=True)
        else:
            print("kept", number, flush=True)
    for number in range(int(count)):
        if await queue.status(f"item {number}") is not None:
            print("there", number, flush=True)
    await state.check()
    await state.aclose()
    print("closed", flush=True)


async def fill(url: str, ballast: str) -> None:
    """Put until the disk is full, look at what is there, make room, put once more."""
    Path(ballast).write_bytes(b"\0" * 400_000)
    state = open_state(url)
    queue = state.queue("q")
    kept = 0
    try:
        while True:
            await queue.put(Item(id=str(kept), payload=b"x" * 20_000))
            kept += 1
    except StoreUnavailable as error:
        print("full", kept, type(error).__name__, flush=True)
    small = 0
    try:
        for small in range(10_000):
            await queue.put(Item(id=f"small {small}", payload=b"x" * 500))
    except StoreUnavailable:
        print("fuller", small, flush=True)
    counts = await queue.counts()
    print("counts", counts.pending == kept + small, flush=True)
    Path(ballast).unlink()
    print("again", await queue.put(Item(id="again", payload=b"x" * 20_000)), flush=True)
    await state.check()
    await state.aclose()
    print("closed", flush=True)


async def race(url: str, name: str, count: str) -> None:
    """Reserve a tenth of what there is, as often as said; say how often there was room."""
    ledger = open_state(url + "?timeout=60").ledger("l")
    print("ready", flush=True)
    sys.stdin.readline()
    draws = [Draw("a", 0, 10, limit=100)]
    given = await asyncio.gather(*[ledger.reserve(f"{name}-{n}", draws, 1000.0) for n in range(int(count))])
    print(sum(short is None for short in given), flush=True)


async def hammer(url: str, name: str, count: str) -> None:
    """Settle one by one, and write the log back after each second commit, as a busy machine might."""
    writer._COMMITS = 2
    state = open_state(url + "?timeout=60")
    ledger = state.ledger("l")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(count)):
        key = f"{name}-{number}"
        assert await ledger.settle(key, [Draw("a", 0, 1)], [Spend(id=key, at=float(number), nano=1)])
    await state.aclose()
    print("closed", flush=True)


def hold(path: str) -> None:
    """Hold the write lock until a line comes."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    sys.stdin.readline()
    db.execute("ROLLBACK")
    print("free", flush=True)


def leave(url: str) -> None:
    """Ask for something in a thread's loop, and leave without waiting for it."""

    async def ask() -> None:
        queue = open_state(url).queue("q")
        await queue.put(Item(id="first", payload=b"x"))
        for number in range(50):
            asyncio.ensure_future(queue.put(Item(id=str(number), payload=b"x")))  # noqa: RUF006  nobody waits
        await asyncio.sleep(0)
        print("asked", flush=True)

    asyncio.new_event_loop().run_until_complete(ask())


def forks(url: str) -> None:
    """Write, fork, write in both, and wait for the child."""

    state = open_state(url)
    asyncio.run(state.queue("q").put(Item(id="zero", payload=b"x")))
    pid = os.fork()
    if pid == 0:
        asyncio.run(state.queue("q").put(Item(id="child", payload=b"x")))
        asyncio.run(state.aclose())
        sys.exit(0)  # as a program ends, with all that runs at an exit
    asyncio.run(state.queue("q").put(Item(id="parent", payload=b"x")))
    _, status = os.waitpid(pid, 0)
    asyncio.run(state.queue("q").put(Item(id="after", payload=b"x")))
    asyncio.run(state.check())
    print("status", status, flush=True)


def main(command: str, *rest: str) -> None:
    """Do what is asked for."""
    if command == "zygote":
        zygote()
    elif command == "work":
        asyncio.run(work(rest[0], 1, rest[1], int(rest[2]), close=True))
    elif command == "hold":
        hold(*rest)
    elif command == "leave":
        leave(*rest)
    elif command == "forks":
        forks(*rest)
    else:
        commands: dict[str, Callable[..., Coroutine[None, None, None]]] = {
            "put": put,
            "fill": fill,
            "hammer": hammer,
            "race": race,
        }
        asyncio.run(commands[command](*rest))


if __name__ == "__main__":
    main(*sys.argv[1:])
