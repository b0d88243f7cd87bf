"""What the tests of this folder share: a file to begin with, and programs that run beside the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHILD = str(Path(__file__).with_name("child.py"))


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path / 'state.db'}"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start child.py with these arguments, behind `before` (such as strace); killed with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [*before, sys.executable, "-W", "error", CHILD, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(child)
        return child

    yield begin
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def tell(start) -> Callable[..., str]:
    """Run child.py to its end; what it printed."""

    def run(*arguments: str, before: tuple[str, ...] = (), timeout: float = 120) -> str:
        child = start(*arguments, before=before)
        out, err = child.communicate(timeout=timeout)
        assert child.returncode == 0, err
        return out

    return run
