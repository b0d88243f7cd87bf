"""What `test_disks` runs in another process: ``python disks.py COMMAND KIND DIRECTORY``. Says what it found.

The directory is a small tmpfs, which it may fill and remount. Never collected as a test.
"""

# ruff: noqa: T201  it speaks through its output
from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.state import AuditQuery, AuditRecord, Draw, Item, State, open_state
from llmpipe.state.contracts.audit import Anchor
from llmpipe.state.hash_chain import chained

Step = Callable[[], Awaitable[Any]]


async def outcome(step: Step) -> str:
    """What it gives, or the name of what it raises."""
    try:
        return str(await step())
    except (StoreUnavailable, ConfigError) as error:
        return type(error).__name__


async def say(word: str, *steps: Step) -> None:
    """Do these, and say what came of each."""
    print(word, *[await outcome(step) for step in steps], flush=True)


async def recovered(step: Step) -> bool:
    """Whether it works at last; nobody does anything for that but ask."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with suppress(StoreUnavailable):
            await step()
            return True
        await asyncio.sleep(0.05)
    return False


def remount(place: str, how: str) -> None:
    """Make the file system ``ro`` or ``rw``."""
    subprocess.run(["mount", "-o", f"remount,{how}", place], check=True)


def fill_inodes(place: str) -> list[Path]:
    """Make empty files until there is no room for one more."""
    made: list[Path] = []
    with suppress(OSError):
        while True:
            made.append(Path(place, f"ballast{len(made)}"))
            made[-1].touch()
    return made[:-1]


class Sqlite:
    """A queue and a ledger in a file."""

    def __init__(self, place: str) -> None:
        self.url = f"sqlite:///{place}/s.db"
        self.state: State = open_state(self.url)

    def write(self, name: str) -> Step:
        return lambda: self.state.queue("q").put(Item(id=name, payload=b"x" * 500))

    def other(self) -> Step:
        return lambda: self.state.ledger("l").reserve("h", [Draw("a", 0, 5)], 60.0)

    async def there(self) -> str:
        return str((await self.state.queue("q").counts()).pending)


class Files:
    """An audit trail in files, each full with two records."""

    def __init__(self, place: str) -> None:
        self.url = f"file://{place}/t.jsonl"
        self.state: State = open_state(f"{self.url}?rotate_mb=0.001")
        self.head = Anchor()

    def write(self, name: str) -> Step:
        async def write() -> bool:
            said = AuditRecord(writer="w", seq=0, kind="note", at=1.0, body={"name": name, "x": "x" * 700})
            record = chained(said, self.head)
            await self.state.audit("a").append([record])
            self.head = Anchor(record.seq, record.hash)
            return True

        return write

    def other(self) -> Step:
        return lambda: self.state.audit("a").writers()

    async def there(self) -> str:
        look = open_state(f"{self.url}?read_only=true")
        found = len(await look.audit("a").query(AuditQuery()))
        await look.aclose()
        return str(found)


async def read_only(store: Sqlite | Files, place: str) -> None:
    """A file system that is read-only for a while, as one that is full of errors is."""
    await say("before", store.write("one"), store.there)
    await store.state.aclose()  # while something is open to be written the kernel remounts nothing
    remount(place, "ro")
    await say("read-only", store.write("two"), store.other(), store.there)
    await say("again", store.write("two"))
    remount(place, "rw")
    print("recovers", await recovered(store.write("two")))
    await say("after", store.there)


async def no_inodes(store: Sqlite | Files, place: str) -> None:
    """No file can be made: not the first, not those beside it, and later not the next."""
    ballast = fill_inodes(place)
    await say("none", store.write("one"))
    for room in range(1, 5):  # each time a little more can be made
        ballast.pop().unlink()
        if await recovered_soon(store.write("one")):
            print("needs", room)
            break
        await store.state.aclose()
    await say("one", store.there)
    fill_inodes(place)
    kept = 1
    with suppress(StoreUnavailable):
        for kept in range(1, 10):
            await store.write(f"more{kept}")()
        kept = 10
    print("kept", kept, flush=True)
    for path in Path(place).glob("ballast*"):
        path.unlink()
    print("recovers", await recovered(store.write("last")))
    print("there", await store.there() == str(kept + 1))


async def recovered_soon(step: Step) -> bool:
    """Whether it works; what refuses at once for a while is asked for that long."""
    for _ in range(4):
        with suppress(StoreUnavailable):
            await step()
            return True
        await asyncio.sleep(0.1)
    return False


async def refused_writes(store: Sqlite | Files, place: str) -> None:
    """Writes fail for a while, and reads go on; told by the count of what was acknowledged."""
    kept = 0
    refused = 0
    end = time.monotonic() + 20
    while time.monotonic() < end and not (refused and kept > 30):
        try:
            await store.write(f"item{kept}")()
            kept += 1
        except StoreUnavailable:
            refused += 1
            # Reading goes on. What was written, and then could not be synced, may be there or not.
            assert int(await store.there()) in (kept, kept + 1)
            await asyncio.sleep(0.02)
    print("refused", refused > 0)
    print("kept", kept == int(await store.there()))


async def main(command: str, kind: str, place: str) -> None:
    """Do what is asked for."""
    store = Sqlite(place) if kind == "sqlite" else Files(place)
    await {"read-only": read_only, "inodes": no_inodes, "refused": refused_writes}[command](store, place)
    await store.state.check()
    await store.state.aclose()
    print("closed", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
