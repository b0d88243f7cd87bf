"""Dropping what is old while others append, ask and close."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.files import FileState
from llmpipe.state.files.parts import Rotation, parts_of
from llmpipe.state.files.reading import Line, lines_since
from llmpipe.state.hash_chain import chained, fault

pytestmark = pytest.mark.real_time

SMALL = Rotation(max_bytes=1500)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def a_chain(kinds: str, after: AuditRecord | Anchor | None = None) -> list[AuditRecord]:
    """Of a letter each: ``b`` and ``e`` are a call's begin and end, in order; at 1.0, 2.0 and so on."""
    last: AuditRecord | Anchor = after or Anchor()
    records, begun, ended = [], 0, 0
    for kind in kinds:
        call = f"c{begun if kind == 'b' else ended}" if kind in "be" else ""
        begun, ended = begun + (kind == "b"), ended + (kind == "e")
        named = {"b": "begin", "e": "end", "n": "note"}[kind]
        record = AuditRecord(
            writer="w", seq=0, kind=named, at=last.seq + 1.0, call=call, body={"x": "y" * 200}
        )
        last = chained(record, last)
        records.append(last)
    return records


async def look(state: FileState) -> tuple[list[AuditRecord], list[str]]:
    """What is left, its chain verified, and which calls have not ended."""
    audit = state.audit("audit")
    found = sorted(await audit.query(AuditQuery(), limit=10**6), key=lambda each: each.seq)
    assert fault(found, await audit.anchor("w")) is None
    assert await audit.head("w") == (found[-1] if found else await audit.anchor("w"))
    return found, [each.call for each in await audit.unended()]


async def looked_at_anew(path: Path, state: FileState) -> tuple[list[AuditRecord], list[str]]:
    """As `look`, by who has the file open, and by a process that starts: they agree."""
    here = await look(state)
    await state.aclose()
    fresh = FileState(path)
    assert await look(fresh) == here
    await fresh.aclose()
    return here


class Held:
    """Holds up who goes through the trail, once it has seen all that was there."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.times = 0


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    hold = Held()

    def lines(*args: Any) -> Iterator[Line]:
        yield from lines_since(*args)
        hold.times += 1
        if hold.times == 2:  # first it is found what goes, then what stays
            hold.reached.set()
            assert hold.go.wait(20)

    monkeypatch.setattr("llmpipe.state.files.pruning.lines_since", lines)
    yield hold
    hold.go.set()


@pytest.fixture(params=[None, SMALL], ids=["one file", "several"])
def rotation(request: pytest.FixtureRequest) -> Rotation | None:
    return request.param


async def amid(state: FileState, held: Held, before: float, do: Callable[[], Awaitable[object]]) -> int:
    """Prune, and do that meanwhile; how many went."""
    task = asyncio.create_task(state.audit("audit").prune(before))
    await asyncio.to_thread(held.reached.wait, 20)
    await do()
    assert not task.done()
    held.go.set()
    return await task


async def test_nobody_waits_until_what_is_old_is_dropped(path, held, rotation):
    records = a_chain("bebebebenn" + "bbee" + "nn")
    state = FileState(path, timeout=5.0, rotation=rotation)
    audit = state.audit("audit")
    for record in records[:10]:
        await audit.append([record])

    async def others() -> None:
        for record in records[10:]:  # into several files, where there may be
            await audit.append([record])
        assert len(await audit.query(AuditQuery())) == 16
        assert await audit.head("w") == records[-1]

    assert await amid(state, held, 8.0, others) == 7
    assert await looked_at_anew(path, state) == (records[7:], [])


async def test_a_call_that_ends_meanwhile_has_ended(path, held, rotation):
    records = a_chain("bbbeb" + "nnnn" + "e" + "ee")
    state = FileState(path, rotation=rotation)
    audit = state.audit("audit")
    for record in records[:9]:
        await audit.append([record])
    assert await amid(state, held, 100.0, lambda: audit.append(records[9:])) == 1  # then the second was open
    assert [each.call for each in await audit.unended()] == []
    assert await looked_at_anew(path, state) == (records[1:], [])


async def test_a_call_whose_end_goes_has_ended_whatever_is_appended_meanwhile(path, held, rotation):
    """Its begin stands in another chain, and stays."""
    begin = AuditRecord(writer="other", seq=0, kind="begin", at=50.0, call="c0", body={})
    records = a_chain("nne" + "nnnnnnnnnn")
    state = FileState(path, rotation=rotation)
    audit = state.audit("audit")
    await audit.append([chained(begin, Anchor())])
    for record in records[:9]:
        await audit.append([record])
    assert await amid(state, held, 5.0, lambda: audit.append(records[9:])) == 4
    assert await audit.unended() == []
    assert await audit.prune(6.0) == 1
    assert await audit.unended() == []
    await state.aclose()
    fresh = FileState(path)
    assert await fresh.audit("audit").unended() == []
    await fresh.aclose()


async def test_a_call_that_begins_when_its_end_was_dropped_has_not_ended(path, rotation):
    """As in every store: of what was dropped nothing is known but where the chain begins."""
    records = a_chain("enn")
    begin = AuditRecord(writer="other", seq=0, kind="begin", at=50.0, call="c0", body={})
    state = FileState(path, rotation=rotation)
    audit = state.audit("audit")
    await audit.append(records)
    assert await audit.prune(2.0) == 1
    await audit.append([chained(begin, Anchor())])
    assert [each.call for each in await audit.unended()] == ["c0"]
    await state.aclose()
    fresh = FileState(path)
    assert [each.call for each in await fresh.audit("audit").unended()] == ["c0"]
    await fresh.aclose()


async def test_a_file_of_which_enough_is_left_is_full_all_the_same(path):
    records = a_chain("n" * 12)
    state = FileState(path, rotation=SMALL)
    await state.audit("audit").append(records[:10])
    assert await state.audit("audit").prune(2.0) == 1
    await state.audit("audit").append(records[10:])
    assert len(parts_of(path)) == 1
    assert await looked_at_anew(path, state) == (records[1:], [])


async def test_a_record_that_fills_a_gap_meanwhile_is_not_lost(path, held):
    records = a_chain("nnnnnn")
    state = FileState(path)
    audit = state.audit("audit")
    await audit.append([*records[:2], *records[3:]])
    late = chained(
        AuditRecord(writer="w", seq=0, kind="note", at=9.0, body={}), records[1]
    )  # of a time that is not to go, so nothing behind it is
    assert await amid(state, held, 5.0, lambda: audit.append([late])) == 2
    assert [each.seq for each in await audit.query(AuditQuery())] == [4, 5, 6, 3]
    await state.aclose()


async def test_what_was_one_file_and_is_several_meanwhile_is_pruned_too(path, held):
    records = a_chain("n" * 20)
    state = FileState(path, rotation=SMALL)
    audit = state.audit("audit")
    await audit.append(records[:4])
    assert parts_of(path) == []

    async def others() -> None:
        for record in records[4:]:
            await audit.append([record])

    assert await amid(state, held, 4.0, others) == 3
    assert len(parts_of(path)) > 1
    assert [each.name for each in path.parent.iterdir() if "prun" in each.name] == []
    assert await looked_at_anew(path, state) == (records[3:], [])


async def test_a_file_that_is_closed_meanwhile_stays_closed_and_as_it_was(path, held):
    records = a_chain("n" * 6)
    state = FileState(path)
    audit = state.audit("audit")
    await audit.append(records)
    task = asyncio.create_task(audit.prune(4.0))
    await asyncio.to_thread(held.reached.wait, 20)
    closing = asyncio.create_task(state.aclose())
    while state.engine._journal is not None:
        await asyncio.sleep(0.001)
    held.go.set()
    await closing
    fresh = FileState(path)  # nothing holds the lock any more
    assert await audit.writers() == ["w"]
    with pytest.raises(StoreUnavailable, match="closed meanwhile"):
        await task
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert await fresh.audit("audit").prune(4.0) == 3
    await fresh.aclose()
    assert await looked_at_anew(path, state) == (records[3:], [])
