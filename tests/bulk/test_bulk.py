"""Files of requests through a chain: each is answered once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmpipe.bulk import Summary, merge, run
from llmpipe.errors import (
    BudgetExceeded,
    ConfigError,
    InvalidRequest,
    LLMError,
    ServiceUnavailable,
    StoreUnavailable,
)
from llmpipe.middleware.cost import Cost
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


def chat(name: str, said: str = "hi", **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": said}], **more}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def written(path: Path, lines: Iterable[Any]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    return tmp_path / "requests.jsonl", tmp_path / "answers.jsonl", tmp_path / "answers.errors.jsonl"


def chain_of(default: Any = "fine") -> Chain:
    return Chain(MockProvider(default=default), Cost(prices={"*": {"input": 1, "output": 2}}))


def says(call: Any) -> str:
    return str(call.messages[-1].text)


async def test_each_request_is_answered_in_the_format_it_was_written_in(files):
    requests, answers, errors = files
    written(
        requests,
        [
            chat("chat", stream=True),
            "",
            {"custom_id": "responses", "url": "/v1/responses", "body": {"model": "m", "input": "hi"}},
            {"custom_id": "vectors", "url": "/v1/embeddings", "body": {"model": "m", "input": ["a", "b"]}},
            {
                "custom_id": "claude",
                "params": {"model": "c", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
            },
        ],
    )
    told = await run(chain_of(), requests, answers)
    assert (told.total, told.done, told.failed, told.left, told.stopped) == (4, 4, 0, 0, "")
    assert told.input_tokens > 0
    assert told.output_tokens > 0
    assert told.usd == Decimal(told.input_tokens + 2 * told.output_tokens) / 10**6
    by_id = {line["custom_id"]: line for line in read(answers)}
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in by_id.values())
    bodies = {name: line["response"]["body"] for name, line in by_id.items()}
    assert bodies["chat"]["choices"][0]["message"]["content"] == "fine"
    assert bodies["responses"]["output"][0]["content"][0]["text"] == "fine"
    assert [len(one["embedding"]) > 0 for one in bodies["vectors"]["data"]] == [True, True]
    assert bodies["claude"]["content"] == [{"type": "text", "text": "fine"}]
    assert len({line["id"] for line in by_id.values()}) == 4
    assert not errors.exists()


async def test_so_many_are_asked_at_a_time_and_no_more(files):
    requests, answers, _ = files
    written(requests, [chat(f"q{n}") for n in range(50)])
    provider = MockProvider(default=[Wait(1), "fine"])
    most = 0

    def progress(told: Summary) -> None:
        nonlocal most
        most = max(most, provider.open)
        assert told.done + told.left == 50

    began = asyncio.get_running_loop().time()
    told = await run(Chain(provider), requests, answers, concurrency=10, on_progress=progress)
    assert told.done == 50
    assert asyncio.get_running_loop().time() - began == pytest.approx(5, abs=0.01)
    assert len(provider.requests) == 50
    assert most <= 10


async def test_a_cancelled_run_is_gone_on_with_and_nobody_is_asked_twice_who_was_answered(files):
    requests, answers, _ = files
    written(requests, [chat(f"q{n}", f"question {n}") for n in range(60)])
    asked: list[str] = []

    def answer(request: Any) -> list[Any]:
        asked.append(says(request))
        return [Wait(1), f"to {says(request)}"]

    runs = 0
    while True:
        runs += 1
        job = asyncio.create_task(run(chain_of(answer), requests, answers, concurrency=7))
        done, _ = await asyncio.wait([job], timeout=2.5)
        if done:
            break
        before = len(read(answers))
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert len(read(answers)) == before
    told = job.result()
    assert runs == 5
    assert (told.total, told.left) == (60, 0)
    assert told.before + told.done == 60
    lines = read(answers)
    assert sorted(line["custom_id"] for line in lines) == sorted(f"q{n}" for n in range(60))
    for line in lines:
        number = line["custom_id"][1:]
        assert line["response"]["body"]["choices"][0]["message"]["content"] == f"to question {number}"
    assert len(asked) <= 60 + 7 * (runs - 1)
    assert (await run(chain_of(), requests, answers)) == Summary(total=60, before=60)


@pytest.mark.parametrize(
    "torn", ['{"custom_id": "q9', '{"custom_id": "q1", "response": null, "error": null}', "x"]
)
async def test_what_a_crash_left_of_a_line_is_cut_off(files, torn):
    requests, answers, _ = files
    written(requests, [chat(f"q{n}") for n in range(3)])
    await run(chain_of(), written(requests, [chat("q0")]), answers)
    whole = answers.read_bytes()
    with answers.open("a") as file:
        file.write(torn)
    told = await run(chain_of(), written(requests, [chat(f"q{n}") for n in range(3)]), answers)
    assert (told.before, told.done) == (1, 2)
    assert answers.read_bytes().startswith(whole)
    assert sorted(line["custom_id"] for line in read(answers)) == ["q0", "q1", "q2"]


@pytest.mark.parametrize(
    ("again", "tried"), [("retryable", ["busy"]), ("failed", ["busy", "wrong"]), ("none", [])]
)
async def test_failures_are_told_apart_and_tried_again(files, again, tried):
    requests, answers, errors = files
    written(requests, [chat(name, name) for name in ("busy", "good", "wrong")])
    failing: dict[str, LLMError] = {
        "busy": ServiceUnavailable("come back later"),
        "wrong": InvalidRequest("no such thing"),
    }
    told = await run(chain_of(lambda request: failing.get(says(request), "fine")), requests, answers)
    assert (told.done, told.failed, told.left) == (1, 2, 0)
    by_id = {line["custom_id"]: line for line in read(errors)}
    assert by_id["busy"]["response"]["status_code"] == 502
    assert by_id["busy"]["error"] == {
        "code": "SERVICE_UNAVAILABLE", "message": "come back later", "retryable": True,
    }  # fmt: skip
    assert by_id["wrong"]["response"]["body"]["error"]["message"] == "no such thing"
    assert by_id["wrong"]["error"]["retryable"] is False
    asked: list[str] = []

    def answer(request: Any) -> str:
        asked.append(says(request))
        return "now it is"

    told = await run(chain_of(answer), requests, answers, again=again)
    assert sorted(asked) == tried
    assert (told.before, told.done, told.left) == (3 - len(tried), len(tried), 0)
    left = {line["custom_id"] for line in read(errors)} if errors.exists() else set()
    assert left == {"busy", "wrong"} - {*tried}
    answered = [line["custom_id"] for line in read(answers)]
    assert sorted(answered) == sorted({"good", *tried})


async def test_what_all_others_would_meet_too_ends_the_run_and_is_no_failure(files):
    requests, answers, errors = files
    written(requests, [chat(f"q{n}") for n in range(20)])
    provider = MockProvider(["a", "b", BudgetExceeded("nothing left until tomorrow")], default="c")
    told = await run(Chain(provider), requests, answers, concurrency=1)
    assert (told.done, told.failed, told.left) == (2, 0, 18)
    assert told.stopped == "BUDGET_EXCEEDED: nothing left until tomorrow"
    assert not errors.exists()
    told = await run(Chain(provider), requests, answers, stop_on=frozenset())
    assert (told.before, told.done, told.left) == (2, 18, 0)


async def test_all_that_is_wrong_with_a_file_is_told_before_anything_is_sent(files):
    requests, answers, _ = files
    written(
        requests,
        [
            chat("good"),
            "{",
            "[1]",
            {"body": {}},
            chat("good"),
            {"custom_id": "a", "url": "/v1/nowhere", "body": {}},
            {"custom_id": "b", "url": "/v1/chat/completions"},
            {"custom_id": "c", "url": "/v1/chat/completions", "body": {"messages": "hi"}},
            {"custom_id": "d", "method": "GET", "url": "/v1/chat/completions", "body": {}},
        ],
    )
    provider = MockProvider(default="fine")
    with pytest.raises(ConfigError) as caught:
        await run(Chain(provider), requests, answers)
    said = str(caught.value).splitlines()
    for number, words in [
        (2, "this is not JSON"), (3, "this is not a JSON object"), (4, "custom_id is missing"),
        (5, "custom_id 'good' is that of line 1 too"), (6, "url is one of /v1/chat/completions"),
        (7, "body is missing"), (8, "messages"), (9, "method is POST, not 'GET'"),
    ]:  # fmt: skip
        assert any(line.startswith(f"{requests}: line {number}: ") and words in line for line in said), number
    assert len(said) == 8
    assert provider.requests == []
    assert not answers.exists()


async def test_of_a_file_that_is_wrong_all_over_twenty_lines_are_told(files):
    requests, answers, _ = files
    with pytest.raises(ConfigError) as caught:
        await run(chain_of(), written(requests, ["x"] * 1000), answers)
    assert len(str(caught.value).splitlines()) == 21
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        await run(chain_of(), requests.with_name("none.jsonl"), answers)


async def test_two_runs_do_not_write_to_one_file(files):
    requests, answers, _ = files
    written(requests, [chat("a"), chat("b")])
    first = asyncio.create_task(run(chain_of([Wait(5), "fine"]), requests, answers))
    await asyncio.sleep(1)
    with pytest.raises(StoreUnavailable, match="another run writes to it"):
        await run(chain_of(), requests, answers)
    assert (await first).done == 2


async def test_a_file_of_something_else_is_left_as_it_is(files):
    requests, answers, _ = files
    written(requests, [chat("a")])
    for content in ("a,b\n1,2\n", '{"no": "id"}\n'):
        answers.write_text(content)
        with pytest.raises(ConfigError, match=r"line 1 is no answer of a bulk job; name another file"):
            await run(chain_of(), requests, answers)
        assert answers.read_text() == content


async def test_a_place_that_no_answers_can_be_written_to_is_told(files, tmp_path):
    requests, _, _ = files
    before = written(requests, [chat("a")]).read_text()
    provider = MockProvider(default="fine")
    for place, says in [
        (requests, "line 1 is no answer of a bulk job"),
        (tmp_path / "none" / "answers.jsonl", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ]:
        with pytest.raises(ConfigError, match=says):
            await run(Chain(provider), requests, place)
    assert provider.requests == []
    assert requests.read_text() == before


async def test_a_full_disk_ends_the_run_and_loses_nothing_that_was_written(files, monkeypatch):
    requests, answers, _ = files
    written(requests, [chat(f"q{n}") for n in range(20)])
    write, writes = os.write, 0

    def full(file: int, data: Any) -> int:
        nonlocal writes
        writes += 1
        if writes == 8:
            return write(file, data[:10])
        if writes > 8:
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreUnavailable, match="No space left"):
        await run(chain_of(), requests, answers, concurrency=1)
    monkeypatch.undo()
    told = await run(chain_of(), requests, answers)
    assert (told.before, told.done, told.left) == (7, 13, 0)
    assert len({line["custom_id"] for line in read(answers)}) == 20


async def test_shards_have_all_of_a_file_between_them_and_become_one(files, tmp_path):
    requests, answers, errors = files
    written(requests, [chat(f"q{n}", "bad" if n % 10 == 3 else "good") for n in range(100)])
    chain = chain_of(lambda request: InvalidRequest("no") if says(request) == "bad" else "fine")
    parts = [tmp_path / f"part{n}.jsonl" for n in range(4)]
    told = [await run(chain, requests, part, shard=(n, 4)) for n, part in enumerate(parts)]
    assert all(10 < one.total < 40 for one in told)
    whole = told[0] + told[1] + told[2] + told[3]
    assert (whole.total, whole.done, whole.failed, whole.left) == (100, 90, 10, 0)
    assert merge(answers, parts) == 90
    assert {line["custom_id"] for line in read(answers)} == {f"q{n}" for n in range(100) if n % 10 != 3}
    assert {line["custom_id"] for line in read(errors)} == {f"q{n}" for n in range(100) if n % 10 == 3}
    with pytest.raises(ConfigError, match="No such file"):
        merge(answers, [*parts, tmp_path / "part5.jsonl"])
    assert len(read(answers)) == 90


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"concurrency": 0}, "concurrency is requests at a time"),
        ({"again": "always"}, "again is retryable, failed or none"),
        ({"shard": (2, 2)}, "shard is the number of one"),
    ],
)
async def test_wrong_settings_are_told(files, wrong, match):
    requests, answers, _ = files
    with pytest.raises(ConfigError, match=match):
        await run(chain_of(), written(requests, [chat("a")]), answers, **wrong)
