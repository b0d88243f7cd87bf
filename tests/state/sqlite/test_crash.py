"""Processes killed at any instant, machines that lose their power: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from llmpipe.state import AuditQuery
from llmpipe.state.contracts.audit import Anchor
from llmpipe.state.hash_chain import fault
from llmpipe.state.sqlite import open_sqlite

pytestmark = pytest.mark.real_time

LONG = bool(os.environ.get("LLMPIPE_LONG"))
KEYS = [("all", 0), ("tenant=a", 0)]


async def faults(url: str, acknowledged: list[tuple[str, str]]) -> list[str]:
    """What is missing of `acknowledged`, and what is there by half."""
    state = open_sqlite(url)
    ledger, audit, queue = state.ledger("l"), state.audit("a"), state.queue("q")
    spends = {row.id: row.nano for row in await ledger.spends(limit=10**6)}
    records = await audit.query(AuditQuery(), limit=10**6)
    holds = set(await ledger.holds())
    wrong = []
    for step, key in acknowledged:
        there = {
            "reserved": key in holds or key in spends,
            "settled": key in spends and key not in holds,
            "recorded": sum(record.call == key for record in records) == 2,
            "queued": step == "queued" and await queue.status(key) is not None,
        }[step]
        if not there:
            wrong.append(f"{step} {key} is lost")
    balances = await ledger.balances(KEYS)
    if balances[0] != balances[1]:
        wrong.append(f"half a transaction: {balances}")
    if balances[0].spent != sum(spends.values()) or balances[0].held != 10 * len(holds):
        wrong.append(
            f"balances {balances[0]} are not the journal's {sum(spends.values())}, {len(holds)} holds"
        )
    for writer in await audit.writers():
        chain = sorted((one for one in records if one.writer == writer), key=lambda one: one.seq)
        if (said := fault(chain, Anchor())) or len(chain) % 2:
            wrong.append(f"the chain of {writer}: {said}, {len(chain)} records")
    counts = await queue.counts()
    if counts.bytes != sum([20 * len(key) for key in await all_items(state)]):
        wrong.append(f"the queue's totals are not its items': {counts}")
    await state.check()
    await state.aclose()
    return wrong


async def all_items(state) -> list[str]:
    """Ids of all there are."""
    rows = await state._engine.run(lambda session: session.execute("SELECT id FROM items").fetchall(), "read")
    return [name for (name,) in rows]


def acknowledged(text: str) -> list[tuple[str, str]]:
    return [(step, key) for step, key in (line.split() for line in text.splitlines(keepends=False) if line)]


def test_a_process_that_is_killed_at_any_instant_loses_nothing_it_was_told(url, start, tmp_path):
    zygote = start("zygote")
    told, random = tmp_path / "told", Random(1)
    began, total = time.monotonic(), 0
    runs = 5000 if LONG else 200
    for number in range(runs):
        zygote.stdin.write(f"{url} {told} run{number}\n")
        zygote.stdin.flush()
        pid = int(zygote.stdout.readline())
        while number % 4 and (not told.exists() or f" run{number}-" not in told.read_text()):
            time.sleep(0.002)  # in three runs of four it has begun to work
        time.sleep(random.uniform(0.0, 0.05))
        os.kill(pid, signal.SIGKILL)
        assert zygote.stdout.readline() == "gone\n"
        if number % 10 == 9 or number == runs - 1:
            said = acknowledged(told.read_text()) if told.exists() else []
            assert not asyncio.run(faults(url, said)), f"after {number + 1} runs"
            total += len(said)
            told.unlink(missing_ok=True)
            if LONG and time.monotonic() - began > 600:
                break
    assert total > runs


# -- power cuts: what strace saw is played again, without what was not synced (FAULTS 2.0)

_CALL = re.compile(r"^\d+ +(?P<name>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)")
_FILE = re.compile(r"^\d+<(?P<path>[^>]*)>")
_TEXT = re.compile(r'"(?P<hex>(?:\\x[0-9a-f]{2})*)"')


class Disk:
    """Files as the process sees them, and as they were when they were last synced."""

    def __init__(self) -> None:
        self.seen: dict[str, bytearray] = defaultdict(bytearray)
        self.synced: dict[str, bytes] = {}
        self.told: list[tuple[str, str]] = []

    def play(self, line: str) -> None:
        """Do what one line of the trace says."""
        found = _CALL.match(line)
        if found is None or int(found["result"]) < 0:
            return
        name, rest = found["name"], found["rest"]
        file = _FILE.match(rest)
        path = _decoded(file["path"]) if file else ""
        if name == "write" and rest.startswith("1<"):
            self.told += acknowledged(_bytes(rest).decode())
        elif name in ("pwrite64", "write") and file:
            data, place = _bytes(rest), int(rest.rsplit(",", 1)[1]) if name == "pwrite64" else 0
            seen = self.seen[path]
            seen.extend(bytes(max(0, place + len(data) - len(seen))))
            seen[place : place + len(data)] = data
        elif name == "ftruncate":
            size = int(rest.rsplit(",", 1)[1])
            seen = self.seen[path]
            del seen[size:]
            seen.extend(bytes(size - len(seen)))
        elif name in ("fsync", "fdatasync"):
            if path in self.seen:
                self.synced[path] = bytes(self.seen[path])
        elif name in ("unlink", "unlinkat"):
            self.seen.pop(_path(rest), None)
            self.synced.pop(_path(rest), None)
        elif name in ("link", "linkat"):
            one, other = [_decoded(text) for text in _TEXT.findall(rest)]
            self.seen[other] = self.seen[one]
            if one in self.synced:
                self.synced[other] = self.synced[one]

    def image(self, directory: Path) -> None:
        """The files as they are after the power was cut."""
        for path, data in self.synced.items():
            if not path.endswith("-shm"):
                (directory / Path(path).name).write_bytes(data)


def finished(lines: list[str]) -> Iterator[str]:
    """Calls in the order in which they ended: strace splits one during which another thread did something."""
    begun: dict[str, str] = {}
    for line in lines:
        pid = line.split(maxsplit=1)[0]
        if line.endswith(" <unfinished ...>"):
            begun[pid] = line.removesuffix(" <unfinished ...>")
        elif " resumed>" in line:
            yield begun.pop(pid) + line.partition(" resumed>")[2]
        else:
            yield line


def _decoded(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode()


def _bytes(rest: str) -> bytes:
    found = _TEXT.search(rest)
    return bytes.fromhex(found["hex"].replace("\\x", "")) if found else b""


def _path(rest: str) -> str:
    return _bytes(rest).decode()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")
def test_a_machine_that_loses_its_power_loses_nothing_that_was_acknowledged(url, tell, tmp_path):
    trace = tmp_path / "trace"
    calls = "trace=pwrite64,write,fsync,fdatasync,ftruncate,unlink,unlinkat,link,linkat"
    before = ("strace", "-f", "-qq", "-y", "-xx", "-s", "200000", "-e", calls, "-o", str(trace))
    tell("work", url, "w", "120" if LONG else "48", before=before)
    disk, cuts = Disk(), 0
    lines = list(finished(trace.read_text().splitlines()))
    for number, line in enumerate(lines):
        said = len(disk.told)
        disk.play(line)
        last = number == len(lines) - 1
        if last or (len(disk.told) > said and len(disk.told) % (1 if LONG else 8) == 0):
            place = tmp_path / f"cut{cuts}"
            place.mkdir()
            disk.image(place)
            assert not asyncio.run(faults(f"sqlite:///{place / 'state.db'}", disk.told)), f"cut {cuts}"
            cuts += 1
            shutil.rmtree(place)
    assert cuts >= 10
    assert len(disk.told) >= 48 * 4
