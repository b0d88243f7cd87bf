"""Whose the lock on a file is, and when it is given back."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from llmpipe.state import open_state
from llmpipe.state.files import FileState
from llmpipe.state.files.journal import Journal
from llmpipe.state.files.parts import Rotation
from tests.state.files.test_files import ROOT, a_chain, kept

pytestmark = pytest.mark.real_time

FORKS = """
import asyncio, os, sys
from llmpipe.state import open_state
state = open_state(sys.argv[1])
asyncio.run(state.audit("audit").writers())
wait, go = os.pipe()
if (pid := os.fork()) == 0:  # has nothing to do with the trail, and lives on
    os.close(go)
    os.read(wait, 1)
    os._exit(0)
asyncio.run(state.aclose())
try:
    asyncio.run(state.audit("audit").writers())
    print("opened again")
finally:
    os.close(go)
    os.waitpid(pid, 0)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.mark.parametrize("rotation", [None, Rotation(max_bytes=500)])
async def test_a_state_that_is_dropped_gives_its_lock_back(path, rotation):
    records = a_chain(6)
    state = FileState(path, rotation=rotation)
    for record in records[:4]:
        await state.audit("audit").append([record])
    assert await state.audit("audit").writers() == ["w"]
    engine = weakref.ref(state.engine)
    del state
    while engine() is not None:  # until its thread has let go of what it did last
        gc.collect()
        await asyncio.sleep(0.001)
    state = FileState(path)
    await state.audit("audit").append(records[4:])
    await state.aclose()
    assert await kept(path) == records


async def test_who_was_dropped_uses_the_file_no_more(path):
    dropped, state = FileState(path), FileState(path)
    await dropped.check()
    await state.check()
    del dropped
    gc.collect()
    await state.aclose()
    ask = f"import asyncio, llmpipe.state as s; asyncio.run(s.open_state('file://{path}').check())"
    run = subprocess.run(
        [sys.executable, "-c", ask],
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_was_forked_does_not_keep_its_parents_lock(path):
    run = subprocess.run(
        [sys.executable, "-c", FORKS, f"file://{path}"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.stdout == "opened again\n", run.stderr


async def test_a_journal_that_was_closed_shows_nobody_the_file_that_has_its_number_now(path, tmp_path):
    await open_state(f"file://{path}").check()
    journal = Journal(path, read_only=True)
    number = journal.descriptor
    journal.close()
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    try:
        assert other == number
        with pytest.raises(OSError, match="Bad file descriptor"):
            journal.view()
        journal.close()
        del journal
        os.fstat(other)  # is still open
    finally:
        os.close(other)
