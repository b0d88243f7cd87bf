"""Second act: an instance is killed in the middle of its calls, and the next one starts on its file."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from attrs import evolve

from llmpipe.cli.demo.money.instance import LIMIT_USD, WRITER
from llmpipe.cli.demo.money.scene import Crash, Tampering
from llmpipe.cli.demo.money.shop import budget
from llmpipe.errors import StoreDamaged
from llmpipe.runtime import Runtime
from llmpipe.state import Anchor, Audit, AuditQuery, AuditRecord, Ledger, Spend, open_state, shared
from llmpipe.state.hash_chain import fault

__all__ = ("run_crash",)

_LEASE = 1.0
_ANSWERS, _UNDER_WAY = 40, 4  # at least, when the first is killed
_SECOND = 16  # calls of the next one
_PATIENCE = 30.0  # seconds for a process that does not do what it should


async def run_crash(home: Path) -> Crash:
    """Kill the first, wait for its lease, run the second to its end, and read all that is on the file."""
    file = home / "crash.db"
    scene = Crash(_LEASE)
    money = budget(LIMIT_USD, f"sqlite:///{file}")
    async with _opened(file, 10**6) as first:
        await _heard(first, scene, killing=True)
        first.kill()
        await _heard(first, scene)  # what it had said before it died
        killed = await first.wait()
    before, scene.under_way = len(scene.acknowledged), scene.asked - len(scene.acknowledged)
    runtime = Runtime()
    (status,) = await money.status(runtime)
    scene.held_at_death = status.held
    await asyncio.sleep(_LEASE)
    ledger = money.desk(runtime).ledger
    await ledger.sweep()
    (swept,) = await money.status(runtime)
    scene.likely = swept.spent - status.spent
    async with _opened(file, _SECOND) as second:
        await _heard(second, scene)
        scene.exits = (killed, await second.wait())
    scene.after = len(scene.acknowledged) - before
    (status,) = await money.status(runtime)
    scene.spent, scene.held_in_the_end = status.spent, status.held
    scene.journal = await _journal(ledger)
    trail = shared(runtime, money.store).audit("audit")
    scene.records = await _trail(trail)
    scene.fault = fault(scene.records, await trail.anchor(WRITER))
    await runtime.aclose()
    scene.tamperings = (_in_a_record(scene.records), await _in_the_file(scene.records, file))
    return scene


@asynccontextmanager
async def _opened(file: Path, calls: int) -> AsyncIterator[Process]:
    """The instance as a process of its own, which is gone when this is left."""
    program = f"from {__package__} import instance; instance.main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(file), str(calls), str(_LEASE), stdout=PIPE
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _heard(process: Process, scene: Crash, *, killing: bool = False) -> None:
    """Read what the instance tells, until it ends, or is in the middle of its calls if it is to be killed."""
    assert process.stdout is not None
    told = dict(scene.acknowledged)
    while line := (await process.stdout.readline()).decode():
        word, call, *cost = line.split()
        if word == "asked":
            scene.asked += 1
        else:
            told[call] = int(cost[0])
        if killing and len(told) >= _ANSWERS and scene.asked >= len(told) + _UNDER_WAY:
            break
    scene.acknowledged = told


async def _journal(ledger: Ledger) -> list[Spend]:
    rows: list[Spend] = []
    while page := await ledger.spends(after=rows[-1] if rows else None):
        rows += page
    return rows


async def _trail(audit: Audit) -> list[AuditRecord]:
    """All records, in the order of the one writer's chain."""
    records: list[AuditRecord] = []
    while page := await audit.query(AuditQuery(), after=records[-1] if records else None):
        records += page
    return sorted(records, key=lambda record: record.seq)


def _in_a_record(records: Sequence[AuditRecord]) -> Tampering:
    """One bit of the name of a call, by somebody who can write records."""
    place = len(records) // 2
    changed = list(records)
    call = changed[place].call
    changed[place] = evolve(changed[place], call=call[:-1] + chr(ord(call[-1]) ^ 1))
    return Tampering("in a record of the trail", fault(changed, Anchor()) or "")


async def _in_the_file(records: Sequence[AuditRecord], file: Path) -> Tampering:
    """One bit of a copy of the file, where a hash lies: SQLite itself looks at no values."""
    copy = file.with_name("flipped.db")
    with closing(sqlite3.connect(file)) as db:
        db.execute("VACUUM INTO ?", (str(copy),))
    data = bytearray(copy.read_bytes())
    data[data.index(records[len(records) // 2].hash.encode())] ^= 1
    copy.write_bytes(data)
    state = open_state(f"sqlite:///{copy}")
    try:
        found = fault(await _trail(state.audit("audit")), Anchor()) or ""
    except StoreDamaged as error:
        found = error.message.replace(str(copy), copy.name)
    finally:
        await state.aclose()
    return Tampering("in the file of the trail", found)
