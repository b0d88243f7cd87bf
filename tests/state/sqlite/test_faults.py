"""What disks, other processes and other versions do to the file."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.state import Ask, Draw, Entry, Item
from llmpipe.state.sqlite import clock, open_sqlite, opening, schema, writer
from llmpipe.types import Completion, Message

pytestmark = pytest.mark.real_time

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")


def can_mount() -> bool:
    """Whether this process may mount a file system in a namespace of its own."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-Urm", "true"], capture_output=True).returncode == 0


async def made(url: str) -> None:
    state = open_sqlite(url)
    await state.ledger("l").reserve("h", [Draw("a", 0, 5)], 1000.0)
    await state.queue("q").put(Item(id="1", payload=b"x"))
    await state.aclose()


# -- other processes (F97)


async def test_a_write_lock_held_elsewhere_is_waited_for_off_the_loop_and_reading_goes_on(
    url, tmp_path, start
):
    await made(url)
    state = open_sqlite(url + "?timeout=1.5")
    ledger, queue = state.ledger("l"), state.queue("q")
    holder = start("hold", str(tmp_path / "state.db"))
    assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
    loop = asyncio.get_running_loop()
    gaps, last, answered = [], loop.time(), 0

    async def watch():
        nonlocal last
        while True:
            await asyncio.sleep(0.002)
            gaps.append(loop.time() - last)
            last = loop.time()

    watcher = asyncio.ensure_future(watch())
    began = loop.time()
    blocked = [asyncio.ensure_future(queue.put(Item(id=f"new {n}", payload=b""))) for n in range(5)]
    while not blocked[0].done():
        assert (await ledger.balances([("a", 0)]))[0].held == 5
        answered += 1
        await asyncio.sleep(0.01)
    took = loop.time() - began
    for one in blocked:
        with pytest.raises(StoreUnavailable, match="held by another process"):
            await one
    assert took < 1.5 + 1.0
    assert answered > 5
    began = loop.time()
    with pytest.raises(StoreUnavailable):  # now it is known, and nobody waits for long
        await queue.put(Item(id="late", payload=b""))
    assert loop.time() - began < 1.0
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert await asyncio.to_thread(holder.stdout.readline) == "free\n"
    assert await queue.put(Item(id="free", payload=b""))
    assert (await queue.counts()).pending == 2  # nothing of what was refused was done
    watcher.cancel()
    # The loop was never held up: of its steps, on a machine that others use too, hardly one is longer.
    assert sorted(gaps)[int(len(gaps) * 0.98)] < 0.05
    await state.aclose()


async def test_four_processes_never_give_more_than_there_is(url, start):
    await made(url)
    children = [start("race", url, name, "250") for name in "abcd"]
    for child in children:
        assert await asyncio.to_thread(child.stdout.readline) == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    given = [int(await asyncio.to_thread(child.stdout.readline)) for child in children]
    state = open_sqlite(url)
    assert (await state.ledger("l").balances([("a", 0)]))[0].held == 95  # 5 were held before: 9 had room
    assert sum(given) == 9
    await state.check()
    await state.aclose()


async def test_two_processes_that_write_the_log_back_all_the_time_lose_nothing(url, start):
    """F9B: in SQLite before 3.51.3 that can damage a file, where it is done beside a commit."""
    count = 500_000 if os.environ.get("LLMPIPE_LONG") else 250
    await made(url)
    children = [start("hammer", url, name, str(count)) for name in "ab"]
    for word in ("ready\n", "closed\n"):
        for child in children:
            assert await asyncio.to_thread(child.stdout.readline) == word
            if word == "ready\n":
                child.stdin.write("\n")
                child.stdin.flush()
    state = open_sqlite(url + "?timeout=600")  # a million lines at once are much to read
    await state.check()
    assert (await state.ledger("l").balances([("a", 0)]))[0].spent == 2 * count
    assert len(await state.ledger("l").spends(limit=10**9)) == 2 * count
    await state.aclose()


async def test_all_processes_go_by_one_clock_whatever_the_wall_says(url, monkeypatch):
    await made(url)
    one = open_sqlite(url)
    await one.check()
    monkeypatch.setattr("llmpipe.state.sqlite.clock.time.time", lambda: 4e9)
    other = open_sqlite(url)
    await other.check()
    assert abs(one._engine.clock.now() - other._engine.clock.now()) < 0.1
    await one.aclose()
    await other.aclose()


async def test_after_a_new_start_of_the_machine_time_does_not_go_back(url, monkeypatch):
    state = open_sqlite(url)
    state.ahead = 0.0
    await state.queue("q").put(Item(id="1", payload=b""))
    before = state._engine.clock.now()
    await state.aclose()
    monkeypatch.setattr(clock, "this_boot", lambda: "another")
    monkeypatch.setattr(clock, "since_boot", lambda: 3.0)
    monkeypatch.setattr("llmpipe.state.sqlite.clock.time.time", lambda: 0.0)  # no battery
    state = open_sqlite(url)
    counts = await state.queue("q").counts()
    assert 0.0 <= counts.oldest < 120.0
    assert state._engine.clock.now() > before - 120.0
    await state.aclose()


# -- the disk (F98, F99)


@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
def test_a_full_disk_refuses_keeps_what_was_accepted_and_recovers_when_there_is_room(tmp_path, tell):
    place = tmp_path / "small"
    place.mkdir()
    script = f'mount -t tmpfs -o size=3m none {place} && exec "$@"'
    told = tell(
        "fill",
        f"sqlite:///{place}/s.db",
        f"{place}/ballast",
        before=("unshare", "-Urm", "sh", "-c", script, "sh"),
    ).splitlines()
    assert told[0].startswith("full")
    assert told[0].endswith("StoreUnavailable")
    assert int(told[0].split()[1]) > 10
    assert told[-3:] == ["counts True", "again True", "closed"]


@strace
@pytest.mark.parametrize(
    "fault", ["fsync,fdatasync:error=EIO", "pwrite64:error=EIO", "pwrite64:error=ENOSPC"]
)
@pytest.mark.parametrize("when", [6, 9, 14, 23])
def test_a_write_that_fails_is_not_acknowledged_and_the_next_one_works(url, tell, tmp_path, fault, when):
    log = str(tmp_path / "trace")
    inject = f"inject={fault}:when={when}"
    asyncio.run(made(url))
    told = tell(
        "put",
        url,
        "40",
        "3000",
        before=("strace", "-f", "-qq", "-o", log, "-e", "trace=fsync,fdatasync,pwrite64", "-e", inject),
    ).splitlines()
    kept = {line.split()[1] for line in told if line.startswith("kept")}
    refused = [line.split() for line in told if line.startswith("refused")]
    there = {line.split()[1] for line in told if line.startswith("there")}
    assert "INJECTED" in Path(log).read_text()
    assert kept <= there
    assert {line[2] for line in refused} <= {"StoreUnavailable"}
    assert len(refused) <= 1
    assert told[-1] == "closed"


async def test_after_an_error_of_the_disk_the_file_is_opened_and_looked_at_again(url, monkeypatch):
    await made(url)
    state = open_sqlite(url)
    queue = state.queue("q")
    await queue.counts()
    opened = []
    connect = opening.connect
    monkeypatch.setattr(writer, "connect", lambda *a, **k: opened.append(1) or connect(*a, **k))

    def broken(session):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"
        raise error

    both = [queue.put(Item(id="beside", payload=b"")), state._engine.run(broken)]
    given = await asyncio.gather(*both, return_exceptions=True)
    assert [type(one) for one in given] == [StoreUnavailable] * 2
    assert await queue.status("beside") is None
    assert opened == [1]
    assert await queue.put(Item(id="beside", payload=b""))
    await state.aclose()


async def test_what_does_not_fit_on_the_disk_takes_nothing_with_it_that_does(url):
    await made(url)
    state = open_sqlite(url)
    queue = state.queue("q")

    def large(session):
        session.execute("INSERT INTO revisions VALUES ('large', 1)")
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_FULL, "SQLITE_FULL"
        raise error

    small = [queue.put(Item(id=f"small {n}", payload=b"")) for n in range(6)]
    given = await asyncio.gather(*small[:3], state._engine.run(large), *small[3:], return_exceptions=True)
    assert [one for one in given if not isinstance(one, StoreUnavailable)] == [True] * 6
    assert isinstance(given[3], StoreUnavailable)
    assert (await queue.counts()).pending == 7
    assert await state._engine.run(lambda s: s.execute("SELECT * FROM revisions").fetchall(), "read") == []
    await state.aclose()


async def test_a_file_that_is_removed_or_replaced_under_way_is_noticed(url, tmp_path):
    await made(url)
    state = open_sqlite(url)
    queue = state.queue("q")
    await queue.put(Item(id="2", payload=b""))
    shutil.move(tmp_path / "state.db", tmp_path / "moved.db")
    with pytest.raises(StoreDamaged, match="removed or replaced"):
        await queue.put(Item(id="3", payload=b""))
    with pytest.raises(StoreDamaged, match="gone"):
        await queue.put(Item(id="3", payload=b""))
    assert not (tmp_path / "state.db").exists()
    await state.aclose()


# -- what is no file of ours (F111, F9A)


async def refused(url: str, match: str | None) -> None:
    """Whatever is asked is refused as damaged, with the file's name and advice."""
    state = open_sqlite(url)
    ledger, limits = state.ledger("l"), state.limits("r")
    for ask in (state.check, lambda: ledger.reserve("h", [], 1.0), lambda: limits.levels([])):
        with pytest.raises(StoreDamaged, match=match) as caught:
            await ask()
        assert "state.db" in caught.value.message
        assert "backup" in caught.value.message
    await state.aclose()


async def test_a_newer_version_is_refused_and_left_as_it_is(url, tmp_path):
    await made(url)
    db = sqlite3.connect(tmp_path / "state.db")
    db.execute("PRAGMA user_version = 99")
    db.commit()
    db.close()
    before = (tmp_path / "state.db").read_bytes()
    await refused(url, "newer llmpipe")
    assert (tmp_path / "state.db").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"hello", "not a database"),
        (b"SQLite format 3\0" + b"\0" * 84, None),
        (b"\0" * 8192, None),
    ],
    ids=range(4),
)
async def test_what_is_no_database_is_refused_and_left_as_it_is(url, tmp_path, content, match):
    (tmp_path / "state.db").write_bytes(content)
    await refused(url, match)
    assert (tmp_path / "state.db").read_bytes() == content


async def test_a_database_of_something_else_is_refused(url, tmp_path):
    db = sqlite3.connect(tmp_path / "state.db")
    db.execute("CREATE TABLE mine (x)")
    db.commit()
    db.close()
    await refused(url, "something else")


async def test_a_table_that_was_altered_is_refused_by_name(url, tmp_path):
    await made(url)
    db = sqlite3.connect(tmp_path / "state.db")
    db.execute("DROP INDEX holds_open")
    db.commit()
    db.close()
    await refused(url, "holds_open")


async def test_a_log_without_its_file_is_refused(url, tmp_path):
    (tmp_path / "state.db-wal").write_bytes(b"x" * 5000)
    await refused(url, "-wal")
    assert not (tmp_path / "state.db").exists()


async def test_a_balance_that_was_changed_behind_our_back_is_found(url, tmp_path):
    await made(url)
    db = sqlite3.connect(tmp_path / "state.db")
    db.execute("UPDATE sums SET held = 4")
    db.commit()
    db.close()
    await refused(url, "sums")


async def test_a_damaged_item_is_dead_and_the_queue_goes_on(url, tmp_path):
    state = open_sqlite(url)
    for name in ("bad payload", "bad row", "good"):
        await state.queue("q").put(Item(id=name, payload=b"payload"))
    await state.aclose()
    db = sqlite3.connect(tmp_path / "state.db")
    db.execute("UPDATE payloads SET payload = x'00' WHERE number = 1")
    db.execute("UPDATE items SET priority = 7 WHERE number = 2")
    db.commit()
    db.close()
    state = open_sqlite(url)
    queue = state.queue("q")
    assert [one.id for one in await queue.lease("me", count=5)] == ["good"]
    assert [name for name, reason in await queue.dead() if "damaged" in reason] == ["bad payload", "bad row"]
    await state.aclose()


async def test_a_damaged_reply_is_a_miss_and_goes_and_a_damaged_file_misses_too(url, tmp_path, caplog):
    entry = Entry(Completion(message=Message("assistant", "hi"), finish_reason="stop"), 7)
    state = open_sqlite(url)
    cache = state.cache("c", max_entries=10, max_bytes=10**6)
    await cache.put(b"one", entry, 60)
    await cache.put(b"two", entry, 60)
    await state.aclose()
    db = sqlite3.connect(tmp_path / "state.db")
    db.execute("UPDATE replies SET entry = zeroblob(50) WHERE number = 1")
    db.commit()
    db.close()
    assert await cache.get(b"one") is None
    found = await cache.get(b"two")
    assert found is not None
    assert found[0] == entry
    assert await state._engine.run(
        lambda s: s.execute("SELECT count(*) FROM entries").fetchone(), "read"
    ) == (1,)
    await state.aclose()
    (tmp_path / "state.db").write_bytes(b"broken" * 1000)
    caplog.clear()
    for _ in range(3):
        assert await cache.get(b"two") is None
        await cache.put(b"two", entry, 60)
        assert await cache.delete(b"two") is False
    assert len([one for one in caplog.records if "misses until" in one.getMessage()]) == 1
    await state.aclose()


def test_an_older_version_is_brought_up_to_date_in_one_step_or_not_at_all(tmp_path, monkeypatch):
    path = str(tmp_path / "state.db")
    opening.connect(path, 5.0, clock.Clock(), known=False).close()
    for broken in (True, False):
        steps = (
            *schema._STEPS,
            "CREATE TABLE more (x INTEGER) STRICT;\n" + ("nonsense;\n" if broken else ""),
        )
        monkeypatch.setattr(schema, "_STEPS", steps[:1] + steps[1:])
        monkeypatch.setattr(schema, "VERSION", 2)
        monkeypatch.setattr(opening, "VERSION", 2)
        db = opening._open(path, 1.0)
        if broken:
            with pytest.raises(sqlite3.OperationalError):
                opening._whose(db, path)
            monkeypatch.setattr(schema, "_STEPS", schema._STEPS[:1])
        else:
            schema.expected.cache_clear()
            opening._whose(db, path)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        tables = {name for _, name, _ in schema.shape(db)}
        db.close()
        assert (version, "more" in tables) == ((1, False) if broken else (2, True))
    schema.expected.cache_clear()


def test_statements_have_no_values_in_their_text():
    """Parameters only: nothing that was asked for stands in a statement (S-13)."""
    folder = Path(writer.__file__).parent
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "S608",
            "--output-format",
            "json",
            folder,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(told.stdout) == []


async def test_hostile_names_are_only_names(url):
    state = open_sqlite(url)
    evil = "x'; DROP TABLE sums; --"
    ledger, limits = state.ledger(evil), state.limits(evil)
    assert await ledger.reserve(evil, [Draw(evil, 0, 5, 10)], 60.0) is None
    assert (await ledger.balances([(evil, 0)]))[0].held == 5
    assert (await limits.take(evil, [Ask(evil, 1, 5)], 60.0)).refused is None
    await state.check()
    await state.aclose()
