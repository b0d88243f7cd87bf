"""Transactions that run into each other, one step at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types of its own
import pytest

from llmpipe.state import Anchor, AuditQuery, AuditRecord, Item
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


@pytest.mark.parametrize("pgbouncer", ["false", "true"])
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_what_is_being_pruned_is_not_appended_again(
    harness: Any, isolation: str, pgbouncer: str
) -> None:
    await harness.open()
    await harness.sql(f"ALTER DATABASE postgres SET default_transaction_isolation = '{isolation}';")
    try:
        audit = (await harness.reopen(pgbouncer=pgbouncer)).audit("a")
        given = record("w", "note", "")
        await audit.append([given])
        async with unfinished(harness, "SELECT prune_writer('a', 'w', 10, 100)") as other:
            again = asyncio.ensure_future(audit.append([given]))
            async with asyncio.timeout(60):
                while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)
            assert not again.done()  # it waits for what becomes of the other
        await again
    finally:
        await harness.sql("ALTER DATABASE postgres RESET ALL;")
    assert await audit.query(AuditQuery()) == []
    assert await audit.anchor("w") == Anchor(1, given.hash)


async def test_two_who_lease_at_once_see_to_it_that_only_one_of_an_order_is_leased(harness: Any) -> None:
    """One takes what is first; then what was before it is revived, and nobody sees yet what that one took."""
    queue = (await harness.open()).queue("q")
    for name in ("first", "second"):
        await queue.put(Item(id=name, payload=b"p", order="o", attempts=1))
    (first,) = await queue.lease("dies", seconds=600.0)
    assert await queue.fail(first.id, first.token, "no")
    async with unfinished(harness, "SELECT lease_items('q', 0, 'one', 9, 600)"):
        assert await queue.revive("first")
        assert await queue.lease("another", count=9) == []
    assert await queue.lease("another", count=9) == []
    status = await queue.status("second")
    assert status is not None
    assert status.state == "leased"
    assert (await queue.counts()).pending == 1


async def test_a_name_that_no_index_has_room_for_is_a_value_error_and_blows_no_fuse(
    harness: Any,
) -> None:
    limits = (await harness.open()).limits("l")
    name = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(5000))
    with pytest.raises(ValueError, match="index row"):
        await limits.reset([name]) or await limits.take(name, [], 60.0)
    assert (await limits.take("t", [], 60.0)).refused is None
