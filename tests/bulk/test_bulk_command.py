"""`llmpipe bulk`: as a program that is killed, interrupted, and run again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmpipe.bulk import GROUP, Job, Summary, spread
from llmpipe.cli import main
from llmpipe.testing.simulator import Fault, Rule, Simulator
from tests.bulk.test_bulk import chat, read, written

ROOT = Path(__file__).parents[2]


@pytest.fixture
def at(tmp_path: Path) -> Path:
    (tmp_path / "chain.toml").write_text('[provider]\nuse = "mock"\nname = "openai"\ndefault = "fine"\n')
    written(tmp_path / "requests.jsonl", [chat(f"q{n}", f"question {n}") for n in range(20)])
    return tmp_path


def words(at: Path, *more: str) -> list[str]:
    return ["bulk", *[str(at / name) for name in ("chain.toml", "requests.jsonl", "answers.jsonl")], *more]


@pytest.mark.real_time  # a program, sockets, and signals
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_a_program_that_is_ended_at_any_moment_goes_on_where_it_was(at: Path, how: signal.Signals):
    count, concurrency = 200, 8
    written(at / "requests.jsonl", [chat(f"q{n}", f"question {n}") for n in range(count)])
    async with Simulator([Rule(Fault(first_delay=0.04))]) as simulator:
        (at / "chain.toml").write_text(
            f'[provider]\nuse = "openai"\nmodel = "m"\napi_key = "k"\nbase_url = "{simulator.url}/v1"\n'
        )
        ended = 0
        while True:
            process = subprocess.Popen(
                [sys.executable, "-m", "llmpipe", *words(at, "--concurrency", str(concurrency))],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            if ended < 2:
                before = len(simulator.book.entries)
                while len(simulator.book.entries) < before + 30 + 13 * ended:
                    assert process.poll() is None, process.communicate()
                    await asyncio.sleep(0.005)
                process.send_signal(how)
                ended += 1
                _, err = await asyncio.to_thread(process.communicate)
                assert "Traceback" not in err
                assert process.returncode in (0, -9 if how is signal.SIGKILL else 130), err
                if process.returncode:  # else it was ready before the signal came
                    continue
            else:
                _, err = await asyncio.to_thread(process.communicate)
                assert process.returncode == 0, err
            break
    answered = {line["custom_id"]: line for line in read(at / "answers.jsonl")}
    assert len(answered) == len(read(at / "answers.jsonl")) == count
    assert len(simulator.book.entries) <= count + concurrency * ended


def test_it_says_what_came_of_it(at: Path, capsys: pytest.CaptureFixture[str]):
    assert main(words(at)) == 0
    assert "20 answered in" in capsys.readouterr().out
    assert main(words(at)) == 0
    assert "0 failed, 20 were there before, 0 left" in capsys.readouterr().out


def test_failures_are_named_and_its_status_is_one(at: Path, capsys: pytest.CaptureFixture[str]):
    (at / "chain.toml").write_text('[provider]\nuse = "openai"\nmodel = "m"\napi_key = "sk-canary"\n'
                                   'base_url = "http://127.0.0.1:1/v1"\n')  # fmt: skip
    assert main(words(at)) == 1
    out = capsys.readouterr().out
    assert "20 failed" in out
    assert f"failures: {at / 'answers.errors.jsonl'}" in out
    assert "run the same again to go on" in out
    assert "canary" not in (at / "answers.errors.jsonl").read_text()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--shards", "4"], "needs an --engine"),
        (["--engine", "nosuch"], "no engine is called 'nosuch'"),
        (["--concurrency", "0"], "concurrency is requests at a time"),
    ],
)
def test_wrong_use_is_told(at: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    assert main(words(at, *more)) == 2
    assert says in capsys.readouterr().err
    assert not (at / "answers.jsonl").exists()


def test_an_engine_does_all_shards_and_their_files_become_one(
    at: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    jobs: list[Job] = []

    class Point:
        name = "loop"

        def load(self) -> Any:
            return engine

    def engine(job: Job) -> Summary:
        jobs.append(job)
        told = [asyncio.run(job.run_part(index)) for index in range(job.shards)]
        return sum(told[1:], told[0])

    monkeypatch.setattr(spread, "entry_points", lambda group: [Point()] if group == GROUP else [])
    assert main(words(at, "--engine", "loop", "--shards", "3", "--tenant", "acme")) == 0
    assert "20 answered" in capsys.readouterr().out
    (job,) = jobs
    assert (job.shards, job.tenant, Path(job.chainfile).is_absolute()) == (3, "acme", True)
    assert {line["custom_id"] for line in read(at / "answers.jsonl")} == {f"q{n}" for n in range(20)}
    assert json.loads((at / "answers.part-00001-of-00003.jsonl").read_text().splitlines()[0])["error"] is None
