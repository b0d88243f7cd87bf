"""A trail in several files: full ones are numbered, what is pruned is deleted, a crash leaves one trail."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmpipe.cli import main
from llmpipe.errors import ConfigError, StoreDamaged, StoreUnavailable
from llmpipe.state import Anchor, AuditQuery, AuditRecord, open_state
from llmpipe.state.files import FileState
from llmpipe.state.files.lines import HEAD
from llmpipe.state.files.parts import Rotation, parts_of
from llmpipe.state.hash_chain import chained, fault

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[3]
SMALL = Rotation(max_bytes=1000)
DAY = 86_400.0
CHILD = """
import asyncio, sys
from llmpipe.state import open_state, AuditRecord
from llmpipe.state.hash_chain import chained

async def main():
    audit = open_state(sys.argv[1]).audit("audit")
    last = await audit.head("w")
    while True:
        record = AuditRecord(writer="w", seq=0, kind="note", at=float(last.seq), body={"text": "x" * 500})
        last = chained(record, last)
        await audit.append([last])
        print(last.seq, flush=True)
        if last.seq % 20 == 0:
            await audit.prune(last.seq - 30.0)

asyncio.run(main())
"""


def a_chain(count: int, after: AuditRecord | Anchor | None = None, writer: str = "w") -> list[AuditRecord]:
    last: AuditRecord | Anchor = after or Anchor()
    records = []
    for number in range(last.seq, last.seq + count):
        last = chained(
            AuditRecord(
                writer=writer, seq=0, kind="note", at=float(number), body={"n": number, "x": "y" * 300}
            ),
            last,
        )
        records.append(last)
    return records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


async def keep(path: Path, records: list[AuditRecord], rotation: Rotation | None = SMALL) -> None:
    """Append them one by one."""
    state = FileState(path, rotation=rotation)
    for record in records:
        await state.audit("audit").append([record])
    await state.aclose()


async def kept(path: Path, *, read_only: bool = False) -> list[AuditRecord]:
    """What a process that starts finds, its chain verified."""
    state = FileState(path, read_only=read_only)
    try:
        audit = state.audit("audit")
        found = sorted(await audit.query(AuditQuery(), limit=10**6), key=lambda each: each.seq)
        assert fault(found, await audit.anchor("w")) is None
        assert await audit.head("w") == (found[-1] if found else await audit.anchor("w"))
        return found
    finally:
        await state.aclose()


async def test_a_full_file_is_numbered_and_the_chain_goes_on_in_the_next(path):
    records = a_chain(10)
    await keep(path, records)
    parts = parts_of(path)
    assert [part.name for part in parts] == [
        f"audit.jsonl.{number:06d}" for number in range(1, len(parts) + 1)
    ]
    assert len(parts) >= 3
    for file in (path, *parts):
        data = file.read_bytes()
        assert data.startswith(HEAD)
        assert len(data) < 1000 + 600  # the batch that filled it
        assert file.stat().st_mode & 0o077 == 0
    assert await kept(path) == records
    assert await kept(path, read_only=True) == records


async def test_each_day_has_its_file_also_after_a_restart(path, monkeypatch):
    records, now = a_chain(8), 1000 * DAY
    monkeypatch.setattr("llmpipe.state.files.parts.time.time", lambda: now)
    state = FileState(path, rotation=Rotation(daily=True))
    await state.audit("audit").append(records[:2])
    await state.audit("audit").append(records[2:3])
    assert parts_of(path) == []
    now += DAY
    await state.audit("audit").append(records[3:4])
    assert len(parts_of(path)) == 1
    await state.aclose()
    os.utime(path, (now, now))
    now += DAY - 1
    os.utime(path, (now, now))  # as the last write would have left it
    await keep(path, records[4:5], Rotation(daily=True))
    os.utime(path, (now, now))
    assert len(parts_of(path)) == 1
    now += 2
    await keep(path, records[5:], Rotation(daily=True))
    assert len(parts_of(path)) == 2
    assert await kept(path) == records


async def test_a_trail_in_one_file_goes_on_in_several_and_is_read_without_the_setting(path):
    records = a_chain(12)
    await keep(path, records[:6], None)
    assert parts_of(path) == []
    await keep(path, records[6:9])
    assert parts_of(path)
    await keep(path, records[9:], None)
    assert await kept(path) == records


async def test_a_record_of_an_older_file_is_known_and_another_in_its_place_is_refused(path):
    records = a_chain(10)
    await keep(path, records)
    state = FileState(path, rotation=SMALL)
    audit = state.audit("audit")
    await audit.append(records)
    (other,) = a_chain(1, Anchor(0, "0" * 64))
    with pytest.raises(ValueError, match="is another one"):
        await audit.append([other])
    await state.aclose()
    assert await kept(path) == records


async def test_pruning_deletes_whole_files_and_passes_over_the_rest_of_one(path):
    records = a_chain(20)
    await keep(path, records)
    files = {part: part.read_bytes() for part in parts_of(path)}
    state = FileState(path, rotation=SMALL)
    audit = state.audit("audit")
    assert await audit.prune(9.0) == 9
    assert await audit.prune(9.0) == 0
    left = parts_of(path)
    assert 0 < len(left) < len(files)
    assert {part: part.read_bytes() for part in left} == {part: files[part] for part in left}
    assert await audit.query(AuditQuery()) == records[9:]
    await audit.append(records)
    await state.aclose()
    assert await kept(path) == records[9:]
    assert await kept(path, read_only=True) == records[9:]
    await keep(path, a_chain(10, records[-1]))
    assert await kept(path) == a_chain(30)[9:]  # the anchor went on into each new file
    state = FileState(path)
    assert await state.audit("audit").prune(1e9) == 21
    assert parts_of(path) == []
    assert await state.audit("audit").head("w") == Anchor(30, a_chain(30)[-1].hash)
    await state.aclose()
    assert await kept(path) == []


async def test_what_a_crash_has_left_of_pruning_is_gone_at_the_next(path, monkeypatch):
    records = a_chain(20)
    await keep(path, records)
    count = len(parts_of(path))
    state = FileState(path, rotation=SMALL)

    def failing(self: Path, missing_ok: bool = False) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing)
        with pytest.raises(StoreUnavailable):
            await state.audit("audit").prune(9.0)
    await state.aclose()
    assert len(parts_of(path)) == count
    assert await kept(path) == records[9:]
    state = FileState(path)
    assert await state.audit("audit").prune(10.0) == 1
    await state.aclose()
    assert len(parts_of(path)) < count - 1
    assert await kept(path) == records[10:]


@pytest.mark.parametrize("at", ["link", "replace"])
async def test_a_crash_between_two_files_leaves_one_trail(path, monkeypatch, at):
    """The process is gone at that moment: nothing that it would have cleaned up is."""
    records = a_chain(3)
    await keep(path, records[:2], None)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(HEAD)
    os.link(path, path.with_name(path.name + ".000001"))
    if at == "replace":
        beside.replace(path)
    assert await kept(path, read_only=True) == records[:2]
    assert await kept(path) == records[:2]
    assert len(parts_of(path)) == (at == "replace")
    await keep(path, records[2:])
    assert await kept(path) == records


async def test_the_number_of_a_full_file_is_on_the_disk_before_another_takes_its_name(path, monkeypatch):
    """What is done to a directory after it was synced may be there or not when the power was cut."""
    done: list[str] = []
    link, replace, fsync = os.link, Path.replace, os.fsync

    def linked(*names: Path) -> None:
        done.append("number")
        link(*names)

    def replaced(self: Path, target: Path) -> Path:
        done.append("take its place")
        return replace(self, target)

    def synced(descriptor: int) -> None:
        done.append("sync names" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync")
        fsync(descriptor)

    await keep(path, a_chain(1))
    assert parts_of(path) == []
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", linked)
        patched.setattr(Path, "replace", replaced)
        patched.setattr(os, "fsync", synced)
        await keep(path, a_chain(8))
    begin = done.index("number")
    assert done[begin : begin + 5] == ["number", "sync names", "take its place", "sync names", "sync"]
    assert len(parts_of(path)) >= 1


async def test_pruning_whose_line_was_cut_and_could_not_be_taken_back_damages_nothing(path, monkeypatch):
    records = a_chain(12)
    await keep(path, records[:10])
    assert len(parts_of(path)) > 1
    state = FileState(path)
    audit = state.audit("audit")
    await audit.writers()
    write = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 50:
            return write(descriptor, data[:50])
        raise OSError(5, "Input/output error")

    def failing(descriptor: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", half)
        patched.setattr(os, "ftruncate", failing)
        with pytest.raises(StoreUnavailable, match="Input/output"):
            await audit.prune(5.0)
    await audit.append(records[10:])
    await state.aclose()
    assert await kept(path) == records


async def test_a_rotation_that_fails_refuses_the_batch_and_the_next_goes_on(path, monkeypatch):
    records = a_chain(6)
    state = FileState(path, rotation=SMALL)
    audit = state.audit("audit")
    await audit.append(records[:4])
    before = path.read_bytes()

    def failing(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing)
        with pytest.raises(StoreUnavailable, match="No space left"):
            await audit.append(records[4:5])
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    await audit.append(records[4:])
    await state.aclose()
    assert len(parts_of(path)) == 1
    assert await kept(path) == records


@pytest.mark.parametrize("harm", ["cut", "change"])
async def test_an_older_file_that_is_not_as_it_was_is_damaged_and_left_alone(path, harm):
    await keep(path, a_chain(10))
    part = parts_of(path)[1]
    data = part.read_bytes()
    harmed = data[:-9] if harm == "cut" else data[:-50] + b"z" + data[-49:]
    part.write_bytes(harmed)
    with pytest.raises(StoreDamaged, match=r"audit\.jsonl\.000002: line"):
        await kept(path)
    assert part.read_bytes() == harmed


async def test_an_older_file_that_is_gone_is_found_by_verifying(path, capsys):
    await keep(path, a_chain(10))
    state = FileState(path)
    assert len(await state.audit("audit").query(AuditQuery())) == 10
    parts_of(path)[1].unlink()
    with pytest.raises(StoreDamaged, match="is gone"):
        await state.audit("audit").query(AuditQuery())
    await state.aclose()
    assert await asyncio.to_thread(main, ["audit", "verify", f"file://{path}"]) == 1
    assert "are missing" in capsys.readouterr().out


def test_the_command_verifies_and_shows_all_files(path, capsys):
    asyncio.run(keep(path, a_chain(10)))
    assert main(["audit", "verify", f"file://{path}?rotate_mb=1"]) == 0
    assert "10 records" in capsys.readouterr().out
    assert main(["audit", "show", f"file://{path}"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_what_was_acknowledged_survives_kill_9_amid_rotating_and_pruning(path):
    known = 0
    for number in range(30 if os.environ.get("LLMPIPE_LONG") else 5):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, f"file://{path}?rotate_mb=0.001"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        for _ in range(1 + number * 17 % 60):
            known = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        known = int(rest.split()[-1]) if rest.endswith("\n") and rest.split() else known
        found = asyncio.run(kept(path))
        assert found[-1].seq >= known
        assert found[0].seq <= max(1, known - 30 + 1)
    assert known > 60
    assert len(parts_of(path)) <= 60  # those of what was pruned are gone


def test_one_file_has_one_rotation_in_one_process(path):
    async def use() -> None:
        state = open_state(f"file://{path}?rotate_mb=1")
        await state.check()
        assert isinstance(open_state(f"file://{path}"), FileState)  # for those who do not say
        with pytest.raises(ConfigError, match="another rotation"):
            open_state(f"file://{path}?rotate_mb=2")
        await state.aclose()

    asyncio.run(use())


@pytest.mark.parametrize(
    "query", ["rotate=week", "rotate_mb=0", "rotate_mb=-1", "rotate_mb=much", "rotate_mb=nan"]
)
def test_a_rotation_that_makes_no_sense_is_refused(path, query):
    with pytest.raises(ConfigError, match="rotate"):
        open_state(f"file://{path}?{query}")
