"""Transactions that run into each other, one step at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types of its own
import pytest

from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.hash_chain import chained

pytestmark = pytest.mark.real_time


@asynccontextmanager
async def unfinished(harness: Any, *statements: str) -> AsyncIterator[Any]:
    """A transaction that has said `statements`; it commits at the end."""
    connection = await asyncpg.connect(harness.server.url)
    try:
        await connection.execute(f"SET search_path TO {harness.schema}; BEGIN; {';'.join(statements)}")
        yield connection
        await connection.execute("COMMIT")
    finally:
        await connection.close()


def record(writer: str, kind: str, call: str = "c") -> AuditRecord:
    return chained(AuditRecord(writer=writer, seq=0, kind=kind, at=1.0, call=call, body={}), Anchor())


def append(one: AuditRecord) -> str:
    return (
        f"SELECT append_records('a', '{{{one.writer}}}', '{{{one.seq}}}', '{{{one.kind}}}', '{{{one.at}}}', "
        f"'{{{one.call}}}', '{{\"\"}}', '{{\"\"}}', '{{\"\"}}', ARRAY['{{}}'::json], '{{\"\"}}', "
        f"'{{{one.hash}}}')"
    )


async def test_a_begin_and_its_end_that_do_not_see_each_other_are_a_call_that_has_ended(
    harness: Any,
) -> None:
    audit = (await harness.open()).audit("a")
    async with unfinished(harness, append(record("w", "begin"))):
        await audit.append([record("rescuer", "end")])
    assert [one.kind for one in await audit.query(AuditQuery())] == ["end", "begin"]
    assert await audit.unended() == await audit.unended("w") == []
    assert await audit.lost() == []
    assert await audit.prune(10.0) == 2
    assert await audit.unended() == []


async def test_a_begin_whose_end_is_pruned_before_it_is_seen_has_ended(harness: Any) -> None:
    audit = (await harness.open()).audit("a")
    async with unfinished(harness, append(record("w", "begin"))):
        await audit.append([record("rescuer", "end")])
    await harness.sql(f"SELECT {harness.schema}.prune_writer('a', 'rescuer', 10, 100)")
    assert [one.kind for one in await audit.query(AuditQuery())] == ["begin"]
    assert await audit.unended() == []


async def test_what_is_being_pruned_is_not_appended_again(harness: Any) -> None:
    audit = (await harness.open()).audit("a")
    given = record("w", "note", "")
    await audit.append([given])
    async with unfinished(harness, "SELECT prune_writer('a', 'w', 10, 100)"):
        again = asyncio.ensure_future(audit.append([given]))
        await asyncio.sleep(0.2)
        assert not again.done()  # it waits for what becomes of the other
    await again
    assert await audit.query(AuditQuery()) == []
    assert await audit.anchor("w") == Anchor(1, given.hash)


async def test_a_name_that_no_index_has_room_for_is_a_value_error_and_blows_no_fuse(
    harness: Any,
) -> None:
    limits = (await harness.open()).limits("l")
    name = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(5000))
    with pytest.raises(ValueError, match="index row"):
        await limits.reset([name]) or await limits.take(name, [], 60.0)
    assert (await limits.take("t", [], 60.0)).refused is None
