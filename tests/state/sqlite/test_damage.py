"""Bits that flip, pages that go, files that are cut: found or harmless, and no other kind of error (F9A)."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest

from llmpipe.errors import StoreDamaged
from llmpipe.state import (
    Ask,
    AuditQuery,
    AuditRecord,
    Draw,
    Entry,
    Item,
    ProviderRow,
    SealedKey,
    Spend,
)
from llmpipe.state.contracts.audit import Anchor
from llmpipe.state.hash_chain import chained, fault
from llmpipe.state.sqlite import open_sqlite, opening, wal
from llmpipe.types import Completion, Message

pytestmark = pytest.mark.real_time

LONG = bool(os.environ.get("LLMPIPE_LONG"))
KEYS = [("all", 0), ("tenant=a", 0), ("tenant=b", 3)]


async def fill(url: str) -> None:
    """A little of everything."""
    state = open_sqlite(url)
    ledger, limits, queue = state.ledger("l"), state.limits("r"), state.queue("q")
    for number in range(12):
        draws = [Draw("all", 0, 50, None, 9), Draw("tenant=a", 0, 50, None, 9)]
        await ledger.reserve(f"hold-{number}", draws, 10**9)
        if number % 2:
            row = Spend(id=f"row-{number}", at=float(number), nano=number, tenant="a", model="m" * number)
            await ledger.settle(f"hold-{number}", [Draw("all", 0, number), Draw("tenant=b", 3, 1)], [row])
        await limits.take(f"t{number}", [Ask("rate", 5, 10, 10**9, 1000), Ask("slot", 1, 100)], 10**9)
        await queue.put(Item(id=f"item-{number}", payload=b"%d" % number * 300, order="o" * (number % 2)))
        await state.vault("v").put(
            SealedKey(
                tenant=f"t{number}",
                provider="p",
                name="n",
                version=1,
                master="m",
                data_key=b"d" * 40,
                secret=b"s" * 60,
                created_at=1.0,
            ),
            None,
        )
        await state.providers("p").put(ProviderRow(name=f"row-{number}", provider="p", model="m"))
    (first,) = await queue.lease("me", seconds=10**9)
    await queue.done(first.id, first.token, b"result")
    audit = state.audit("a")
    last: Anchor | AuditRecord = Anchor()
    for number in range(20):
        kind = "end" if number % 2 else "begin"
        record = AuditRecord(
            writer="w", seq=0, kind=kind, at=float(number), call=f"c{number // 2}", body={"text": "x" * 50}
        )
        last = chained(record, last)
        await audit.append([last])
    cache = state.cache("c", max_entries=100, max_bytes=10**6)
    for number in range(5):
        entry = Entry(Completion(message=Message("assistant", f"reply {number}"), finish_reason="stop"), 7)
        await cache.put(b"%d" % number, entry, 10**9)
    await state.aclose()


async def read(url: str) -> dict[str, Any]:
    """All there is, by kind. What one can do without (a reply) or sees by itself (a record) is told apart."""
    state = open_sqlite(url)
    try:
        ledger, queue = state.ledger("l"), state.queue("q")
        records = await state.audit("a").query(AuditQuery())
        cache = state.cache("c", max_entries=100, max_bytes=10**6)
        levels = await state.limits("r").levels([Ask("rate", 5, 10, 10**9, 1000), Ask("slot", 1, 100)])
        rows = await state.providers("p").rows()
        return {
            "balances": await ledger.balances(KEYS),
            "holds": await ledger.holds(),
            "settled": [await ledger.settle(f"hold-{n}", []) for n in (1, 3, 5)],
            "spends": await ledger.spends(),
            "spends of a": await ledger.spends(tenant="a"),
            "levels": [round(level.remaining, 3) for level in levels],
            "items": [await queue.status(f"item-{n}") for n in range(12)],
            "payloads": [(one.id, one.payload) for one in await queue.lease("me", count=3, seconds=1.0)],
            "keys": await state.vault("v").keys(),
            "key": [await state.vault("v").get(f"t{n}", "p", "n") for n in range(12)],
            "providers": [(row.name, row.provider, row.model, row.is_active) for row in rows],
            "records": records,
            "replies": [found and found[0] for found in [await cache.get(b"%d" % n) for n in range(5)]],
        }
    finally:
        await state.aclose()


def same(found: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """What is wrong and was not noticed."""
    wrong = []
    for kind, value in right.items():
        if found[kind] == value:
            continue
        if kind == "replies" and all(
            one in (None, other) for one, other in zip(found[kind], value, strict=True)
        ):
            continue  # a miss
        if kind == "records" and fault(found[kind], Anchor(), known=Anchor(20, value[-1].hash)) is not None:
            continue  # its chain says so
        if kind in ("items", "payloads") and dead_or(found, right):
            continue  # the item is dead, and says that it is damaged
        wrong.append(f"{kind}: {found[kind]!r} instead of {value!r}")
    return wrong


def dead_or(found: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether each item is right or dead of its damage, and each payload right."""
    payloads = {f"item-{n}": b"%d" % n * 300 for n in range(12)}
    return all(
        one == other or (one is not None and one.state == "dead" and "damaged" in one.reason)
        for one, other in zip(found["items"], right["items"], strict=True)
    ) and all(payloads[name] == payload for name, payload in found["payloads"])


def mutate(data: bytes, random: Random) -> bytes:
    """`data` as a bad disk gives it back."""
    changed = bytearray(data)
    place = random.randrange(len(data))
    match random.randrange(6):
        case 0 | 1 | 2:
            changed[place] ^= 1 << random.randrange(8)
        case 3:
            end = min(len(data), place + random.choice([4, 16, 512]))
            changed[place:end] = bytes(end - place)
        case 4:
            page = place // 4096 * 4096
            changed[page : page + 4096] = random.choice([bytes(4096), random.randbytes(4096)])
        case _:
            del changed[random.choice([place, place // 4096 * 4096, 0]) :]
    return bytes(changed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A file with a little of everything, and what it says."""
    path = tmp_path_factory.mktemp("whole") / "state.db"
    asyncio.run(fill(f"sqlite:///{path}"))
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    return path, asyncio.run(read(f"sqlite:///{copy}"))


@pytest.mark.parametrize("part", range(3))
def test_a_damaged_file_is_refused_or_read_right(whole, tmp_path, part):
    original, right = whole
    data, random = original.read_bytes(), Random(part)
    refused = 0
    for number in range(10_000 if LONG else 100):
        path = tmp_path / f"{number}.db"
        changed = mutate(data, random)
        path.write_bytes(changed)
        try:
            found = asyncio.run(read(f"sqlite:///{path}"))
        except StoreDamaged as error:
            refused += str(path) in error.message and path.exists()
        else:
            assert not same(found, right), f"seed {part}, mutation {number}"
        for left in tmp_path.iterdir():
            left.unlink()
    assert refused > 30


@pytest.mark.parametrize("change", ["DELETE FROM clock", "UPDATE clock SET id = 2"])
def test_a_file_whose_clock_is_lost_is_damaged(whole, tmp_path, change):
    path = tmp_path / "lost.db"
    shutil.copy(whole[0], path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA ignore_check_constraints = ON")
    db.execute(change)
    db.commit()
    db.close()
    with pytest.raises(StoreDamaged, match=r"lost\.db"):
        asyncio.run(read(f"sqlite:///{path}"))


def crashed(tmp_path: Path) -> Path:
    """A file with a log that was not written back, as a process leaves it that is killed."""

    async def main() -> None:
        url = f"sqlite:///{tmp_path / 'live.db'}"
        await fill(url)
        state = open_sqlite(url)
        for number in range(20):
            await state.ledger("more").settle(f"h{number}", [Draw("a", 0, 1)])
        for suffix in ("", "-wal"):
            shutil.copy(f"{tmp_path / 'live.db'}{suffix}", f"{tmp_path / 'crashed.db'}{suffix}")
        await state.aclose()

    asyncio.run(main())
    return tmp_path / "crashed.db"


async def spent(path: Path) -> int:
    """What the log added."""
    state = open_sqlite(f"sqlite:///{path}")
    try:
        return (await state.ledger("more").balances([("a", 0)]))[0].spent
    finally:
        await state.aclose()


def test_a_damaged_log_is_refused_unless_only_its_end_is(tmp_path):
    source = crashed(tmp_path)
    log = Path(f"{source}-wal").read_bytes()
    frames = (len(log) - 32) // 4120
    assert wal.lost(f"{source}-wal") is None
    random, refused, lost = Random(5), 0, 0
    for number in range(1000 if LONG else 60):
        path = tmp_path / f"{number}.db"
        shutil.copy(source, path)
        changed = mutate(log, random)
        Path(f"{path}-wal").write_bytes(changed)
        try:
            found = asyncio.run(spent(path))
        except StoreDamaged:
            refused += 1
            assert Path(f"{path}-wal").read_bytes() == changed  # for whoever would save what is left
        else:
            # Cut off, or its last commit damaged: as if that had never been finished. Nothing can tell.
            cut = len(changed) < len(log)
            at = next((n for n, (a, b) in enumerate(zip(log, changed, strict=False)) if a != b), len(log))
            assert found == 20 or cut or (at - 32) // 4120 >= frames - 12, f"mutation {number} at {at}"
            lost += found != 20
        for left in tmp_path.glob(f"{number}.db*"):
            left.unlink()
    assert refused > 15


def test_after_a_new_start_of_the_machine_the_end_of_the_log_may_be_torn(tmp_path, monkeypatch):
    source = crashed(tmp_path)
    log = bytearray(Path(f"{source}-wal").read_bytes())
    log[32 + 4120 * 20 + 1000] ^= 1
    Path(f"{source}-wal").write_bytes(log)
    with pytest.raises(StoreDamaged, match="a commit behind that is lost"):
        asyncio.run(spent(source))
    monkeypatch.setattr(opening, "this_boot", lambda: "another")
    assert asyncio.run(spent(source)) < 20


def test_what_is_found_is_damage_and_not_the_check_itself(whole, tmp_path):
    """The damaged are refused because of the checks: without them some are read wrong."""
    original, right = whole
    data = original.read_bytes()
    place = data.index(b"reply 3") if b"reply 3" in data else 0
    flipped = bytearray(data)
    place = data.rindex(b"hold-3")  # its key: nobody finds it any more
    flipped[place + 5] = ord("x")
    (tmp_path / "x.db").write_bytes(flipped)
    with pytest.raises(StoreDamaged):
        asyncio.run(read(f"sqlite:///{tmp_path / 'x.db'}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "inspect", lambda *a, **k: None)
        try:
            assert same(asyncio.run(read(f"sqlite:///{tmp_path / 'x.db'}")), right)
        except StoreDamaged:
            pytest.fail("found without looking")


def test_the_sqlite_shell_agrees_that_the_file_is_well(whole):
    if shutil.which("sqlite3") is None:
        pytest.skip("the sqlite3 shell is not here")
    told = subprocess.run(
        ["sqlite3", str(whole[0]), "PRAGMA integrity_check"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "ok"
