"""The vault in a file: what a process that is killed while it rotates leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from llmpipe.errors import StoreDamaged
from llmpipe.keys import KeyVault
from tests.keys.kit import CANARY, MASTERS, NEW, NEW_FIRST, OLD

pytest.importorskip("cryptography")
pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[2]
ROWS = 60


async def fill(url: str) -> None:
    vault = KeyVault(url, {"old": OLD})
    await asyncio.gather(*(vault.put("openai", f"{CANARY}{n}", tenant=f"t{n:03}") for n in range(ROWS)))
    await vault.aclose()


async def read(url: str, masters) -> tuple[list[str], list[str]]:
    """The keys, and the master key that seals each."""
    vault = KeyVault(url, masters)
    infos = await vault.keys()
    found = [await vault.get("openai", tenant=info.tenant) for info in infos]
    await vault.aclose()
    return [each.reveal() for each in found if each is not None], [info.master for info in infos]


EXPECTED = [f"{CANARY}{n}" for n in range(ROWS)]


def test_a_rotation_that_is_killed_at_any_instant_loses_no_key(tmp_path):
    random, cut = Random(7), 0
    for run in range(12):
        url = f"sqlite:///{tmp_path}/keys{run}.db"
        asyncio.run(fill(url))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            [sys.executable, "-m", "tests.keys.child", url],
            stdout=subprocess.PIPE, env=environment, cwd=ROOT,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert child.stdout.readline() == b"begun\n"
            time.sleep(random.random() * 0.06)
            child.send_signal(signal.SIGKILL)
        for masters in (MASTERS, NEW_FIRST):
            keys, sealed = asyncio.run(read(url, masters))
            assert keys == EXPECTED
        cut += len(set(sealed)) == 2
        done = asyncio.run(_rotate(url))
        assert done.complete
        assert done.rotated == sealed.count("old")
        assert asyncio.run(read(url, {"new": NEW})) == (EXPECTED, ["new"] * ROWS)
    assert cut > 0  # some were killed half way


async def _rotate(url: str):
    vault = KeyVault(url, NEW_FIRST)
    done = await vault.rotate()
    await vault.aclose()
    return done


async def test_two_processes_rotate_one_file_at_once(tmp_path):
    url = f"sqlite:///{tmp_path}/keys.db"
    await fill(url)
    done = await asyncio.gather(_rotate(url), _rotate(url))
    assert all(each.complete for each in done)
    assert sum(each.rotated for each in done) == ROWS
    assert (await read(url, {"new": NEW}))[0] == EXPECTED


async def test_the_file_holds_no_key_in_plain_and_an_edit_of_it_is_noticed(tmp_path):
    path = tmp_path / "keys.db"
    url = f"sqlite:///{path}"
    await fill(url)
    for each in tmp_path.iterdir():
        raw = each.read_bytes()
        assert CANARY[:12].encode() not in raw
        assert OLD[:12].encode() not in raw
    with sqlite3.connect(path) as db:
        a, b = (
            db.execute("SELECT data_key, secret FROM vault WHERE tenant = ?", (t,)).fetchone()
            for t in ("t000", "t001")
        )
        db.execute("UPDATE vault SET data_key = ?, secret = ? WHERE tenant = 't000'", b)
    db.close()
    assert a != b
    vault = KeyVault(url, MASTERS)
    with pytest.raises(StoreDamaged):
        await vault.get("openai", tenant="t000")
    await vault.aclose()
