"""Disks that take nothing (F98): read-only, without a free inode, failing for a while; for SQLite and files.

Each runs in a process of its own (`disks.py`), the first two in a namespace where it may mount a small tmpfs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.state.stores import LONG

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[2]
CHILD = str(Path(__file__).with_name("disks.py"))
BOTH = pytest.mark.parametrize("kind", ["sqlite", "file"])


def can_mount() -> bool:
    """Whether this process may mount a file system in a namespace of its own."""
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-Urm", "true"], capture_output=True).returncode == 0


namespaces = pytest.mark.skipif(not can_mount(), reason="no user namespaces here: nothing can be mounted")


def told(*words: str) -> list[str]:
    """What `disks.py` says, in lines."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def on_a_small_disk(command: str, kind: str, place: Path) -> list[str]:
    """What is said on a tmpfs of 3 MiB and eight inodes, of which its root is one."""
    script = f'mount -t tmpfs -o size=3m,nr_inodes=8 none {place} && exec "$@"'
    child = (sys.executable, "-W", "error", CHILD, command, kind, str(place))
    return told("unshare", "-Urm", "sh", "-c", script, "sh", *child)


@namespaces
@BOTH
def test_a_read_only_disk_refuses_before_it_acknowledges_and_recovers_by_itself(
    kind: str, tmp_path: Path
) -> None:
    # The trail can be read meanwhile. SQLite reads only where it may write what is beside its file.
    reading = "StoreUnavailable" if kind == "sqlite" else "1"
    assert on_a_small_disk("read-only", kind, tmp_path) == [
        "before True 1",
        f"read-only StoreUnavailable StoreUnavailable {reading}",
        "again StoreUnavailable",
        "recovers True",
        "after 2",
        "closed",
    ]


@namespaces
@BOTH
def test_without_an_inode_nothing_is_half_made_and_what_is_open_goes_on(kind: str, tmp_path: Path) -> None:
    needs, kept = {"sqlite": (3, 10), "file": (1, 2)}[kind]
    assert on_a_small_disk("inodes", kind, tmp_path) == [
        "none StoreUnavailable",
        f"needs {needs}",  # SQLite's file, its log and its index; what was made in vain is in nobody's way
        "one 1",
        f"kept {kept}",  # an open database needs no more of them; a trail does where a file of it is full
        "recovers True",
        "there True",
        "closed",
    ]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not here")
@pytest.mark.parametrize("error", ["EROFS", "ENOSPC", "EDQUOT"] if LONG else ["EROFS"])
@BOTH
def test_while_all_writes_fail_reading_goes_on_and_what_was_acknowledged_is_there(
    kind: str, error: str, tmp_path: Path
) -> None:
    """As when a disk with errors is made read-only under an open file, which no test can do to it."""
    calls = "pwrite64,write,fsync,fdatasync,ftruncate"
    paths = [word for name in ("s.db", "s.db-wal", "t.jsonl") for word in ("-P", str(tmp_path / name))]
    log = tmp_path / "trace"
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(log), "-e", f"trace={calls}", *paths]
    strace += ["-e", f"inject={calls}:error={error}:when=25..60"]
    child = [sys.executable, "-W", "error", CHILD, "refused", kind, str(tmp_path)]
    assert told(*strace, *child) == ["refused True", "kept True", "closed"]
    assert log.read_text().count("INJECTED") > 10
