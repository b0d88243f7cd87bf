"""`llmpipe audit`: a trail that was tampered with is found, and named."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from attrs import evolve

from llmpipe.cli import main
from llmpipe.errors import StoreDamaged
from llmpipe.middleware.audit import Audit
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.state import Anchor, AuditRecord, open_state
from llmpipe.state.files import FileState
from llmpipe.state.files.journal import take
from llmpipe.state.files.lines import Unreadable
from llmpipe.state.hash_chain import chained

pytestmark = pytest.mark.real_time

COUNT = 1000 if os.environ.get("LLMPIPE_LONG") else 300


def a_chain(count: int, writer: str = "w") -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for number in range(count):
        record = AuditRecord(
            writer=writer, seq=0, kind=("begin", "end")[number % 2], at=1.7e9 + number,
            call=f"c{number // 2}",
            tenant="t" if number % 4 < 2 else "other", outcome=("", "ok")[number % 2], body={"n": number},
        )  # fmt: skip
        records.append(chained(record, records[-1] if records else Anchor()))
    return records


def trail(path: Path, *chains: list[AuditRecord], url: str = "") -> str:
    url = url or f"file://{path}"

    async def write() -> None:
        state = open_state(url)
        for records in chains:
            await state.audit("audit").append(records)
        await state.aclose()

    asyncio.run(write())
    return url


@pytest.fixture(params=["file", "sqlite"])
def url(request, tmp_path) -> str:
    return {"file": f"file://{tmp_path}/a.jsonl", "sqlite": f"sqlite:///{tmp_path}/a.db"}[request.param]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["audit", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ------------------------------------------------------------ verify


def test_a_trail_as_it_was_written_verifies(url, capsys):
    trail(Path(), a_chain(20), a_chain(5, "v"), url=url)
    assert told(capsys, "verify", url) == (
        0, "v: 5 records, nothing was changed\nw: 20 records, nothing was changed\n", "",
    )  # fmt: skip


def test_an_empty_trail_says_so(url, capsys):
    trail(Path(), a_chain(1), url=url)
    assert told(capsys, "verify", url, "--name", "other")[:2] == (0, "there is nothing in this trail\n")


@pytest.mark.parametrize("action", [["verify"], ["note"], ["show"], ["prune", "--days", "3"]])
def test_a_trail_whose_file_is_gone_is_not_made_anew_and_found_in_order(url, tmp_path, capsys, action):
    status, out, err = told(capsys, *action, url)
    assert (status, out) == (2, "")
    assert "that file is not there" in err
    assert [*tmp_path.iterdir()] == []


def test_a_chain_that_is_not_there_is_not_in_order(url, capsys):
    """It was deleted as a whole, or the name is wrong."""
    trail(Path(), a_chain(2), url=url)
    status, out, err = told(capsys, "verify", url, "--writer", "W")
    assert (status, out) == (1, "")
    assert err == "W: there is no chain of this writer\n"


def test_a_cut_tail_is_found_by_a_head_that_was_noted(tmp_path, capsys):
    records = a_chain(20)
    url = trail(tmp_path / "whole.jsonl", records)
    _, noted, _ = told(capsys, "note", url)
    assert noted == f"20:{records[-1].hash} w\n"
    (tmp_path / "heads").write_text(noted)
    cut = trail(tmp_path / "cut.jsonl", records[:-3])
    assert told(capsys, "verify", cut)[0] == 0
    head = noted.split()[0]
    for ways in (["--writer", "w", "--noted", head], ["--heads", str(tmp_path / "heads")]):
        assert told(capsys, "verify", url, *ways)[0] == 0
        status, out, _ = told(capsys, "verify", cut, *ways)
        assert status == 1
        assert "ends at record 17, and record 20 had been written" in out


def test_a_chain_that_is_gone_altogether_is_found_by_its_head(tmp_path, capsys):
    (tmp_path / "heads").write_text(f"20:{a_chain(20)[-1].hash} gone\n")
    url = trail(tmp_path / "a.jsonl", a_chain(2))
    status, out, _ = told(capsys, "verify", url, "--heads", str(tmp_path / "heads"))
    assert status == 1
    assert out.startswith("gone: the chain ends at record 0, and record 20 had been written")


def test_a_chain_that_was_written_anew_is_found_by_a_head(tmp_path, capsys):
    url = trail(tmp_path / "a.jsonl", a_chain(20))
    noted = f"10:{'0' * 64}"
    status, out, _ = told(capsys, "verify", url, "--writer", "w", "--noted", noted)
    assert status == 1
    assert "record 10 of 'w' is not the one that was noted" in out


@pytest.mark.parametrize("drop", [0, 7, 18])
def test_a_record_that_was_cut_out_is_named(tmp_path, capsys, drop):
    records = a_chain(20)
    del records[drop]
    status, out, _ = told(capsys, "verify", trail(tmp_path / "a.jsonl", records))
    assert status == 1
    assert f"record {drop + 2} of 'w' follows record {drop}" in out


def test_a_record_that_was_changed_together_with_its_line_is_named(url, capsys):
    """Whoever knows the format can make the line's sum fit, and not the chain."""
    records = a_chain(20)
    records[11] = evolve(records[11], tenant="somebody else")
    status, out, _ = told(capsys, "verify", trail(Path(), records, url=url))
    assert status == 1
    assert out == "w: record 12 of 'w' was changed\n"


def test_the_last_record_is_looked_at_whatever_its_time_was_changed_to(url, capsys):
    records = a_chain(20)
    records[-1] = evolve(records[-1], at=-5.0)
    status, out, _ = told(capsys, "verify", trail(Path(), records, url=url))
    assert (status, out) == (1, "w: record 20 of 'w' was changed\n")


def test_a_clock_that_went_back_changes_nothing(tmp_path, capsys):
    records: list[AuditRecord] = []
    for number, record in enumerate(a_chain(30)):
        records.append(
            chained(evolve(record, at=1e9 - number % 7 * 100), records[-1] if records else Anchor())
        )
    assert told(capsys, "verify", trail(tmp_path / "a.jsonl", records))[0] == 0


def test_every_byte_that_is_changed_is_found(tmp_path):
    """S-91: each byte of the file, by one bit; and each line is named."""
    path = tmp_path / "a.jsonl"
    trail(path, a_chain(COUNT))
    data = path.read_bytes()
    lines, found = data.split(b"\n"), 0

    async def fails(content: bytes) -> bool:
        path.write_bytes(content)
        state = FileState(path)
        try:
            await state.check()
        except StoreDamaged:
            return True
        finally:
            await state.aclose()
        return False

    for number, line in enumerate(lines[:-1], 1):
        for place in range(len(line)):
            changed = line[:place] + bytes([line[place] ^ 1 << place % 8]) + line[place + 1 :]
            try:
                for part in changed.split(b"\n"):
                    take({}, part, number)
            except (Unreadable, StoreDamaged):
                found += 1
    assert found == len(data) - len(lines) + 1

    async def whole() -> None:
        """Through the whole file: every line end, all of the last line, and a byte of every other line."""
        step = len(data) // 40
        ends = [place for place, byte in enumerate(data) if byte == 0x0A]
        places = {*ends[:: max(1, len(ends) // 40)], ends[-1], *range(0, len(data), step)}
        places |= set(range(len(data) - 60, len(data)))
        for place in sorted(places):
            assert await fails(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]), place
        assert not await fails(data)

    asyncio.run(whole())


def test_a_changed_byte_is_told_by_its_line_and_the_status_is_1(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    url = trail(path, a_chain(20))
    data = bytearray(path.read_bytes())
    data[data.index(b'"n":13') + 4] ^= 1
    path.write_bytes(data)
    status, _, err = told(capsys, "verify", url)
    assert status == 1
    assert "line 15, behind record 13 of 'w', does not agree with its sum" in err


def test_a_trail_can_be_verified_while_its_process_writes(tmp_path, capsys):
    url = f"file://{tmp_path}/a.jsonl"

    async def write() -> None:
        chain = Chain(MockProvider(default="fine"), Audit(store=url), runtime=Runtime())
        await chain.complete("hi")
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, main, ["audit", "verify", url]) == 0
        await chain.complete("hi")
        await chain.aclose()

    asyncio.run(write())
    assert "1 records, nothing was changed" in capsys.readouterr().out


# ------------------------------------------------------------ show, note, prune


def test_records_are_shown_by_what_is_asked(url, capsys):
    trail(Path(), a_chain(20), url=url)
    status, out, _ = told(capsys, "show", url, "--tenant", "t", "--outcome", "ok")
    assert status == 0
    assert out.splitlines()[0] == "2023-11-14T22:13:21.000Z end ok c0 tenant=t [w 2]"
    assert len(out.splitlines()) == 5
    assert len(told(capsys, "show", url, "--call", "c3")[1].splitlines()) == 2
    window = ["--since", "2023-11-14T22:13:25Z", "--until", "1700000010"]
    assert len(told(capsys, "show", url, *window)[1].splitlines()) == 5
    assert len(told(capsys, "show", url, "--limit", "3", "--json")[1].splitlines()) == 3


def test_what_is_shown_does_nothing_to_the_terminal(tmp_path, capsys):
    record = AuditRecord(writer="w", seq=0, kind="note", at=1.0, tenant="\x1b[2J\u202e\n", body={})
    url = trail(tmp_path / "a.jsonl", [chained(record, Anchor())])
    out = told(capsys, "show", url)[1]
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert out.count("\n") == 1


@pytest.mark.parametrize("at", [1e300, -1e300, 1e12])
def test_a_record_of_a_time_that_is_no_date_is_shown_too(url, capsys, at):
    record = AuditRecord(writer="w", seq=0, kind="note", at=at, body={})
    trail(Path(), [chained(record, Anchor())], url=url)
    status, out, _ = told(capsys, "show", url)
    assert status == 0
    assert out == f"{at!r} note - - [w 1]\n"


def test_what_is_old_is_dropped(url, capsys):
    trail(Path(), a_chain(20), url=url)
    assert told(capsys, "prune", url, "--days", "30")[1] == "20 records dropped\n"
    assert told(capsys, "verify", url)[:2] == (0, "w: 0 records, nothing was changed\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "memory://"], ["verify", "nowhere"], ["verify", "file:///x/y/z"],
        ["prune", "URL", "--days", "0"],
        ["verify", "URL", "--noted", "1:ab"], ["verify", "URL", "--writer", "w", "--noted", "1:ab"],
        ["show", "URL", "--since", "yesterday"], ["show", "URL", "--until", "nan"],
        ["verify", "URL", "--heads", "/nowhere"],
    ],
)  # fmt: skip
def test_wrong_use_ends_with_2_and_says_what_would_be_right(arguments, tmp_path, capsys):
    url = trail(tmp_path / "a.jsonl", a_chain(2))
    status, _, err = told(capsys, *[url if each == "URL" else each for each in arguments])
    assert status == 2
    assert err.startswith("llmpipe audit: ")


async def test_a_chain_that_grows_while_it_is_read_is_not_taken_for_a_broken_one(monkeypatch):
    """The writer's clock goes back: a record comes behind what was read, and one before the end."""
    from llmpipe.cli import audit as command

    monkeypatch.setattr(command, "_PAGE", 20)
    records = a_chain(40)
    kept = open_state("memory://").audit("audit")
    await kept.append(records)

    class Growing:
        pages = 0

        def __getattr__(self, name: str) -> object:
            return getattr(kept, name)

        async def query(self, *args: object, **options: object) -> list[AuditRecord]:
            self.pages += 1
            found: list[AuditRecord] = await kept.query(*args, **options)
            if self.pages == 1:
                late = AuditRecord(writer="w", seq=0, kind="note", at=1.7e9, body={})
                records.append(chained(late, records[-1]))
                records.append(chained(evolve(late, at=1.8e9), records[-1]))
                await kept.append(records[-2:])
            return found

    assert await command.check(Growing(), "w") == (42, None)
    await kept.append([evolve(chained(evolve(records[0], kind="note"), records[-1]), seq=44)])
    count, wrong = await command.check(kept, "w")
    assert count == 43
    assert wrong is not None
