"""Bulk jobs on a Ray cluster of this machine, whose workers are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmpipe.bulk import Job, engine
from llmpipe.errors import ConfigError
from llmpipe.testing.simulator import Fault, Rule, Simulator

ray = pytest.importorskip("ray")

from llmpipe_ray import run  # noqa: E402  which needs Ray

COUNT, SHARDS, CONCURRENCY = 240, 4, 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    lines = [
        {
            "custom_id": f"q{number}",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": f"question {number}"}]},
        }
        for number in range(COUNT)
    ]
    (tmp_path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "chain.toml").write_text('[provider]\nuse = "mock"\nname = "openai"\ndefault = "fine"\n')
    return Job(
        chainfile=str(tmp_path / "chain.toml"),
        requests=str(tmp_path / "requests.jsonl"),
        answers=str(tmp_path / "answers.jsonl"),
        shards=SHARDS,
        concurrency=CONCURRENCY,
        again="retryable",
        tenant="acme",
        address="",
    )


def answered(job: Job) -> Counter[str]:
    job.gathered()
    return Counter(json.loads(line)["custom_id"] for line in Path(job.answers).read_text().splitlines())


@pytest.mark.usefixtures("cluster")
def test_all_shards_are_asked_and_their_answers_become_one_file(job: Job):
    assert engine("ray") is run
    told = run(job)
    assert (told.total, told.done, told.failed, told.left) == (COUNT, COUNT, 0, 0)
    assert answered(job) == Counter(f"q{number}" for number in range(COUNT))
    again = run(job)
    assert (again.before, again.done) == (COUNT, 0)


@pytest.mark.usefixtures("cluster")
def test_workers_that_are_killed_lose_nothing_and_nobody_is_asked_for_nothing(job: Job):
    asked: list[int] = []
    ready, over = threading.Event(), threading.Event()
    place: list[str] = []

    async def serve() -> None:
        async with Simulator([Rule(Fault(first_delay=0.05))]) as simulator:
            place.append(simulator.url)
            ready.set()
            while not over.is_set():
                await asyncio.sleep(0.01)
            asked.append(len(simulator.book.entries))

    server = threading.Thread(target=asyncio.run, args=(serve(),))
    server.start()
    assert ready.wait(20)
    Path(job.chainfile).write_text(
        f'[provider]\nuse = "openai"\nmodel = "m"\napi_key = "k"\nbase_url = "{place[0]}/v1"\n'
    )
    killed: list[int] = []

    def kill() -> None:
        """Kill a worker that has answered something, twice."""
        while len(killed) < 2 and not over.is_set():
            for pid in _writers(job):
                if pid not in killed and len(killed) < 2:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    break
            time.sleep(0.3)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        told = run(job)
    finally:
        over.set()
        killer.join()
        server.join()
    assert len(killed) == 2
    assert answered(job) == Counter(f"q{number}" for number in range(COUNT))
    assert (told.total, told.before + told.done, told.left) == (COUNT, COUNT, 0)
    assert COUNT <= asked[0] <= COUNT + len(killed) * CONCURRENCY


def _writers(job: Job) -> list[int]:
    """Processes that have a file of answers open with something in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:  # it has ended, or is somebody else's
            continue
        parts = [
            file for file in files if ".part-" in file and file.startswith(str(Path(job.answers).parent))
        ]
        if any(Path(part).exists() and Path(part).stat().st_size for part in parts):
            found.append(int(process.name))
    return found


@pytest.mark.usefixtures("cluster")
def test_what_is_wrong_is_told_as_if_it_had_been_done_here(job: Job):
    Path(job.requests).write_text('{"custom_id": "a"}\n')
    with pytest.raises(ConfigError, match="line 1: body is missing"):
        run(job)


def test_where_there_is_no_cluster_it_is_said():
    job = Job(
        chainfile="c", requests="r", answers="a", shards=1, concurrency=1, again="none", tenant="",
        address="127.0.0.1:1",
    )  # fmt: skip
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(ConfigError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        run(job)
