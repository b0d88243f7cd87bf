"""What only a file can do: be cut, be full, be somebody else's, be replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmpipe.errors import ConfigError, StoreDamaged, StoreUnavailable
from llmpipe.state import Anchor, AuditQuery, AuditRecord, open_state
from llmpipe.state.files import FileState
from llmpipe.state.files.lines import HEAD, line_of
from llmpipe.state.hash_chain import chained, fault
from llmpipe.testing import run

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[3]
CHILD = """
import asyncio, sys
from llmpipe.state import open_state, AuditRecord, Anchor
from llmpipe.state.hash_chain import chained

async def main():
    audit, last = open_state(sys.argv[1]).audit("audit"), None
    last = await audit.head("w")
    while True:
        batch = []
        for kind in ("begin", "end"):
            body = {"text": "x" * (last.seq * 37 % 3000)}
            last = chained(AuditRecord(writer="w", seq=0, kind=kind, at=float(last.seq),
                                       call=f"c{last.seq // 2}", body=body), last)
            batch.append(last)
        await audit.append(batch)
        print(last.seq, flush=True)

asyncio.run(main())
"""


def child(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def a_chain(count: int, after: AuditRecord | Anchor | None = None, at: float = 1.0) -> list[AuditRecord]:
    last: AuditRecord | Anchor = after or Anchor()
    records = []
    for number in range(count):
        record = AuditRecord(writer="w", seq=0, kind="note", at=at + number, body={"n": number, "é": "\n"})
        last = chained(record, last)
        records.append(last)
    return records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


async def kept(path: Path) -> list[AuditRecord]:
    """What a process that starts finds, its chain verified."""
    state = FileState(path)
    try:
        audit = state.audit("audit")
        found = sorted(await audit.query(AuditQuery(), limit=10**6), key=lambda each: each.seq)
        assert fault(found, await audit.anchor("w")) is None
        return found
    finally:
        await state.aclose()


async def keep(path: Path, records: list[AuditRecord]) -> None:
    state = FileState(path)
    await state.audit("audit").append(records)
    await state.aclose()


# ------------------------------------------------------------ crashes


async def test_a_last_line_that_a_crash_has_cut_is_cut_off_and_reported_wherever_it_was_cut(path, caplog):
    records = a_chain(4)
    await keep(path, records[:3])
    whole = path.read_bytes()
    await keep(path, records)
    data = path.read_bytes()
    for place in range(len(whole) + 1, len(data)):
        path.write_bytes(data[:place])
        caplog.clear()
        assert await kept(path) == records[:3]
        assert path.read_bytes() == whole
        assert f"{place - len(whole)} bytes are cut off" in caplog.text
    await keep(path, records)
    assert path.read_bytes() == data


@pytest.mark.parametrize("written", [b"", b'{"sum":"0123', line_of({"trail": "audit"})[:-1]])
async def test_a_length_without_what_was_written_there_is_what_a_power_cut_leaves(path, written):
    records = a_chain(2)
    await keep(path, records)
    with path.open("ab") as file:
        file.write(written + b"\0" * 4096)
    assert await kept(path) == records
    await keep(path, a_chain(3))
    assert await kept(path) == a_chain(3)


async def test_zeros_that_stand_where_something_else_was_are_no_power_cut(path):
    await keep(path, a_chain(3))
    whole = path.read_bytes()
    place = whole.rindex(b"\n", 0, -1) + 1  # of the last line
    for changed in (
        whole[: place - 1] + b"\0" + whole[place:],
        whole[:-1] + b"\0",
        whole[:place] + b"\0" * 100 + whole[place + 100 :],
    ):
        path.write_bytes(changed)
        with pytest.raises(StoreDamaged):
            await kept(path)
        assert path.read_bytes() == changed


async def test_a_crash_as_the_file_was_made_leaves_what_becomes_a_file(path):
    for place in range(len(HEAD)):
        path.write_bytes(HEAD[:place])
        assert await kept(path) == []
        assert path.read_bytes() == HEAD


async def test_a_line_in_the_middle_that_is_cut_is_no_crash(path):
    await keep(path, a_chain(4))
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2][:-9]
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    with pytest.raises(StoreDamaged, match=r"line 3, behind record 1 of 'w'"):
        await kept(path)
    assert path.read_bytes() == before


async def test_a_last_line_whose_end_was_changed_is_no_crash(path):
    await keep(path, a_chain(4))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    with pytest.raises(StoreDamaged):
        await kept(path)
    assert path.read_bytes() == data[:-1] + b"x"


@pytest.mark.parametrize("content", [b"my diary", b"my diary\n", b"{}\n", b"\x00" * 100, b"\n"])
async def test_a_file_that_is_something_else_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(StoreDamaged):
        await FileState(path).audit("audit").writers()
    assert path.read_bytes() == content


async def test_a_file_of_a_newer_version_is_left_alone(path):
    content = line_of({"llmpipe": "audit", "version": 2}) + b"what nobody knows yet\n"
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match="version 2"):
        await FileState(path).audit("audit").writers()
    assert path.read_bytes() == content


def test_what_was_acknowledged_survives_kill_9_and_the_chain_verifies(path):
    known = 0
    for number in range(40 if os.environ.get("LLMPIPE_LONG") else 6):
        process = child(f"file://{path}")
        assert process.stdout is not None
        for _ in range(1 + number * 7 % 40):
            known = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        known = int(rest.split()[-1]) if rest.endswith("\n") and rest.split() else known
        found = asyncio.run(kept(path))
        assert len(found) >= known
    assert known > 50


# ------------------------------------------------------------ other processes


def test_one_file_is_for_one_process_at_a_time(path):
    process = child(f"file://{path}")
    assert process.stdout is not None
    process.stdout.readline()

    async def ask() -> None:
        with pytest.raises(StoreUnavailable, match="another process"):
            await FileState(path).audit("audit").append(a_chain(1))
        reading = FileState(path, read_only=True)
        assert await reading.audit("audit").writers() == ["w"]
        with pytest.raises(ConfigError, match="read only"):
            await reading.audit("audit").append(a_chain(1))
        await reading.aclose()

    asyncio.run(ask())
    process.kill()
    process.communicate()
    assert asyncio.run(kept(path))  # the lock died with it


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_was_forked_has_no_part_in_its_parents_file(path):
    code = """
import asyncio, os, sys
from llmpipe.errors import StoreUnavailable
from llmpipe.state import open_state
state = open_state(sys.argv[1])
asyncio.run(state.audit("audit").writers())
if (pid := os.fork()) == 0:
    try:
        asyncio.run(state.audit("audit").writers())
    except StoreUnavailable:
        os._exit(7)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    run = subprocess.run(
        [sys.executable, "-c", code, f"file://{path}"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.stdout == "7\n", run.stderr


# ------------------------------------------------------------ the disk


async def test_a_disk_that_is_full_refuses_all_and_leaves_the_file_as_it_was(path, monkeypatch):
    records = a_chain(6)
    state = FileState(path)
    audit = state.audit("audit")
    await audit.append(records[:2])
    before = path.read_bytes()
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 100:
            return real(descriptor, data[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("llmpipe.state.files.journal.os.write", half)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="No space left"):
                await audit.append(records[2:4])
            assert path.read_bytes() == before
    await audit.append(records[2:])
    await state.aclose()
    assert await kept(path) == records


async def test_a_sync_that_fails_is_no_success(path, monkeypatch):
    state = FileState(path)
    audit = state.audit("audit")
    await audit.append(a_chain(1))

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("llmpipe.state.files.journal.os.fsync", failing)
        with pytest.raises(StoreUnavailable, match="Input/output"):
            await audit.append(a_chain(2))
    await audit.append(a_chain(3))
    await state.aclose()
    assert await kept(path) == a_chain(3)


async def test_those_who_append_together_share_a_sync(path, monkeypatch):
    state = FileState(path)
    audit = state.audit("audit")
    await audit.append([])
    await audit.append(a_chain(1))
    real, count = os.fsync, 0

    def counting(descriptor: int) -> None:
        nonlocal count
        count += 1
        real(descriptor)

    monkeypatch.setattr("llmpipe.state.files.journal.os.fsync", counting)
    writers = [
        [chained(AuditRecord(writer=f"w{n}", seq=0, kind="note", at=1.0, body={}), Anchor())]
        for n in range(200)
    ]
    await asyncio.gather(*[audit.append(records) for records in writers])
    assert 1 <= count <= 20
    await state.aclose()


@pytest.fixture
def hanging(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Said when the disk hangs, and what lets it go on."""
    hangs, goes_on, real = threading.Event(), threading.Event(), os.fsync

    def sync(descriptor: int) -> None:
        hangs.set()
        assert goes_on.wait(30)
        real(descriptor)

    monkeypatch.setattr("llmpipe.state.files.journal.os.fsync", sync)
    yield hangs, goes_on
    goes_on.set()


async def test_nobody_waits_for_a_disk_that_hangs_and_all_is_kept_once_when_it_goes_on(path, hanging, caplog):
    hangs, goes_on = hanging
    state = FileState(path, timeout=0.05)
    audit = state.audit("audit")
    records = a_chain(3)
    for batch in (records[:1], records[1:2]):  # the second waits behind the first
        with pytest.raises(StoreUnavailable, match=r"has not answered in 0\.05 s; it is not known"):
            await audit.append(batch)
    assert hangs.is_set()
    goes_on.set()
    patient = FileState(path, timeout=30.0)
    await patient.audit("audit").append(records)
    await patient.aclose()
    await state.aclose()
    assert await kept(path) == records
    assert not caplog.records  # nobody was told twice


async def test_who_is_cancelled_leaves_what_he_asked_for_to_be_kept(path, hanging, caplog):
    hangs, goes_on = hanging
    state = FileState(path, timeout=30.0)
    audit = state.audit("audit")
    records = a_chain(2)
    asked = asyncio.create_task(audit.append(records[:1]))
    assert await asyncio.to_thread(hangs.wait, 30)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    goes_on.set()
    await audit.append(records[1:])
    await state.aclose()
    assert await kept(path) == records
    assert not caplog.records


def test_whoever_asked_in_a_loop_that_is_closed_holds_up_nobody(path, hanging):
    hangs, goes_on = hanging
    state = FileState(path, timeout=30.0)
    records = a_chain(3)

    async def leave() -> None:
        first = asyncio.ensure_future(state.audit("audit").append(records[:1]))
        assert await asyncio.to_thread(hangs.wait, 30)
        second = asyncio.ensure_future(state.audit("audit").append(records[1:2]))
        await asyncio.sleep(0)
        first.cancel()
        second.cancel()

    async def stay() -> None:
        third = asyncio.ensure_future(state.audit("audit").append(records[2:]))
        await asyncio.sleep(0)  # it is asked for, and will be in one write with the second
        goes_on.set()
        await third
        await state.aclose()

    asyncio.run(leave())
    asyncio.run(stay())
    assert asyncio.run(kept(path)) == records


def test_in_a_test_that_says_its_own_time_no_time_passes_while_the_disk_works(path, monkeypatch):
    real = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(0.05)  # so that the loop has nothing else to do meanwhile
        real(descriptor)

    monkeypatch.setattr("llmpipe.state.files.journal.os.fsync", slow)

    async def main() -> float:
        state, began = FileState(path, timeout=1.0), asyncio.get_running_loop().time()
        await state.audit("audit").append(a_chain(1))
        assert await state.audit("audit").prune(9.0) == 1
        await state.aclose()
        return asyncio.get_running_loop().time() - began

    assert run(main()) < 1.0


async def test_pruning_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    records = a_chain(10)
    await keep(path, records)
    before = path.read_bytes()
    state = FileState(path)

    def failing(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", failing)
        with pytest.raises(StoreUnavailable):
            await state.audit("audit").prune(5.0)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert await state.audit("audit").prune(5.0) == 4
    await state.aclose()
    assert await kept(path) == records[4:]


async def test_what_a_crash_has_left_of_pruning_is_in_nobodys_way(path):
    await keep(path, a_chain(10))
    for suffix in (".new", ".pruned"):
        path.with_name(path.name + suffix).write_bytes(b"half a fi")
    state = FileState(path)
    assert await state.audit("audit").prune(5.0) == 4
    await state.aclose()
    assert await kept(path) == a_chain(10)[4:]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_only_its_owner_may_read_the_file(path):
    await keep(path, a_chain(1))
    assert path.stat().st_mode & 0o077 == 0


# ------------------------------------------------------------ the URL


@pytest.mark.parametrize(
    "url",
    [
        "file://", "file:///", "file://relative.jsonl", "file:///tmp/", "file:///no/such/directory/a.jsonl",
        "file:///tmp/a.jsonl?timeout=0", "file:///tmp/a.jsonl?timeout=soon", "file:///tmp/a.jsonl?size=1",
        "file:///tmp/a.jsonl?read_only=perhaps", "file:///dev/null", "file:///tmp/" + "x" * 5000, "file:///tmp/a%00",
    ],
)  # fmt: skip
def test_a_url_that_names_no_file_is_refused(url):
    with pytest.raises(ConfigError):
        open_state(url)


def test_a_url_may_have_spaces_and_a_timeout(tmp_path):
    state = open_state(f"file://{tmp_path}/my%20trail.jsonl?timeout=7")
    assert isinstance(state, FileState)
    assert (state.path, state.timeout) == (tmp_path.resolve() / "my trail.jsonl", 7.0)
    with pytest.raises(ConfigError, match="keeps no cache"):
        state.cache("c", max_entries=1, max_bytes=1)
