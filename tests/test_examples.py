"""Every program in examples/ runs, and says what the pages that show it say it says.

They run in this process under virtual time, so that all of them together take a second or two. Where
`<example>.txt` stands beside `<example>.py` it is what the program prints. After a change that is meant,
LLMPIPE_ACCEPT=1 writes these files anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from llmpipe.cli import main
from llmpipe.pipeline import registry
from llmpipe.providers.profiles import PROFILES
from llmpipe.testing import run
from llmpipe.testing.simulator import Simulator

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
ACCEPT = "LLMPIPE_ACCEPT" in os.environ
REAL = {"front_door.py"}  # speaks to real providers; here to a simulator in their place

PROGRAMS = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in EXAMPLES.rglob("*.py")
    if not path.name.startswith("test_")
)
TESTS = sorted(path.relative_to(ROOT).as_posix() for path in EXAMPLES.rglob("test_*.py"))
CHAINS = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("chains/*.toml"))


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Examples configure logging; the next test must not notice."""
    loggers = [logging.getLogger(name) for name in (None, "llmpipe", "llmpipe.call")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "run", lambda program, **_: run(program))


def agree(told: str, expected: Path) -> None:
    if ACCEPT and expected.exists():
        expected.write_text(told)
    assert not expected.exists() or told == expected.read_text()


@pytest.mark.usefixtures("virtual")
@pytest.mark.parametrize("program", [name for name in PROGRAMS if name not in REAL])
def test_an_example_runs_and_prints_what_its_page_shows(
    program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    if "word_limit" in (EXAMPLES / program).read_text() and "word_limit" not in registry.names():
        pytest.skip("llmpipe-example is not installed")
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(EXAMPLES / program), run_name="__main__")
    told = capsys.readouterr().out
    assert told.strip(), "it prints nothing"
    agree(told, EXAMPLES / Path(program).with_suffix(".txt"))


def test_the_front_door_answers_and_tells_a_story(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    simulator = Simulator()

    def in_front_of_a_simulator(program: Coroutine[Any, Any, None]) -> None:
        async def both() -> None:
            async with simulator:
                for name in ("openai", "anthropic"):
                    profile = evolve(PROFILES[name], base_url=f"{simulator.url}/v1")
                    monkeypatch.setitem(PROFILES, name, profile)
                    monkeypatch.setenv(profile.key_env, "sk-test")
                await program

        run(both())

    monkeypatch.setattr(asyncio, "run", in_front_of_a_simulator)
    runpy.run_path(str(EXAMPLES / "front_door.py"), run_name="__main__")
    assert simulator.book.ends == {"ok": 2}
    assert "Usage(" in capsys.readouterr().out


def test_the_tests_among_the_examples_pass():
    """In a process of their own, as a reader runs them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_file_is_explained_as_its_page_shows(
    chain: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    for profile in PROFILES.values():
        if profile.key_env:
            monkeypatch.setenv(profile.key_env, "sk-test")
    assert main(["explain", f"examples/{chain}"]) == 0
    told = capsys.readouterr().out
    assert "sk-test" not in told
    agree(told, EXAMPLES / Path(chain).with_suffix(".txt"))
