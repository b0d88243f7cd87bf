"""What a disk does to a bulk job: no answer is lost that was said to be kept, nor any other file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmpipe.bulk import run
from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


def requests_in(path: Path, count: int = 4) -> Path:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    lines = [{"custom_id": f"r{number}", "body": body} for number in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))  # and no line's end behind the last
    return path


def chain_of(default: Any = "fine") -> Chain:
    return Chain(MockProvider(default=default))


@pytest.mark.parametrize(
    "kept", ["something else, and no line's end", '{"a": 1}\nnotes', "\n\nnotes", '{"custom_id": "1"}', "[1]"]
)
async def test_a_file_of_something_else_keeps_its_last_line_too(tmp_path, kept):
    precious = tmp_path / "precious"
    precious.write_text(kept)
    with pytest.raises(ConfigError, match="is no answer of a bulk job"):
        await run(chain_of(), requests_in(tmp_path / "requests.jsonl"), precious)
    assert precious.read_text() == kept


async def test_the_file_of_requests_named_for_the_answers_too_is_left_as_it_is(tmp_path):
    requests = requests_in(tmp_path / "requests.jsonl")
    before = requests.read_bytes()
    with pytest.raises(ConfigError):
        await run(chain_of(), requests, requests)
    assert requests.read_bytes() == before


async def test_half_a_line_that_a_full_disk_took_does_not_run_into_the_next(tmp_path, monkeypatch):
    requests, answers = requests_in(tmp_path / "requests.jsonl"), tmp_path / "answers.jsonl"
    write, full = os.write, [False, True, True]

    def tight(file: int, data: Any) -> int:
        """The disk is full in the middle of the second line, and has room again at once."""
        if not full:
            return write(file, data)
        if not full.pop(0):
            return write(file, data)
        if len(full) == 1:
            return write(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", tight)
    with pytest.raises(StoreUnavailable, match="No space left"):
        await run(chain_of(), requests, answers, concurrency=4)
    monkeypatch.undo()
    summary = await run(chain_of(), requests, answers)
    assert summary.left == 0
    told = [json.loads(line)["custom_id"] for line in answers.read_text().splitlines()]
    assert sorted(told) == ["r0", "r1", "r2", "r3"]


async def test_a_disk_that_lost_what_it_had_taken_is_told_though_it_says_so_once(tmp_path, monkeypatch):
    """The kernel tells of a failed write-back once, and calls the next fsync a success."""
    requests, answers = requests_in(tmp_path / "requests.jsonl"), tmp_path / "answers.jsonl"
    sync, told = os.fsync, []

    def failing(file: int) -> None:
        told.append(file)
        if len(told) == 2:  # the first is that of the file of failures, written anew
            raise OSError(errno.EIO, "Input/output error")
        sync(file)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        await run(chain_of([Wait(3), "fine"]), requests, answers, concurrency=1)
    assert len(told) == 2
