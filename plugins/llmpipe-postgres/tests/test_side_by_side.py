"""Ledgers of several processes side by side, and what many steps and steps in vain cost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types of its own
import pytest

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Balance, Draw, Shortage, Spend
from llmpipe_postgres import PostgresState
from llmpipe_postgres.ledger import PostgresLedger

pytestmark = pytest.mark.real_time


def draw(nano: int, limit: int | None = None, account: str = "a", likely: int = 0) -> Draw:
    return Draw(account, 0, nano, limit, likely)


@pytest.mark.parametrize("shared", ["holds", "balances", "lines"])
async def test_batches_of_several_processes_and_the_release_before_never_wait_in_a_circle(harness, shared):
    """What they share stands in opposite orders on each side."""
    states: list[PostgresState] = [await harness.open(), await harness.reopen(), await harness.reopen()]
    before = harness.server.log.count("deadlock detected")
    accounts = ["a", "b", "c", "d", "e"]

    async def call(side: int, number: int) -> None:
        ledger: Any = states[side % 3].ledger("l")
        if side == 3:  # as the release before, which sent each step alone
            ledger = PostgresLedger(states[0]._link, lambda: 0.0, "l")
        name = f"{number if side % 2 else 99 - number:02}"
        charges = [draw(1, None, account) for account in (accounts[::-1] if side % 2 else accounts)]
        if shared == "holds":
            with contextlib.suppress(ValueError):  # another side has settled it
                await ledger.reserve(name, [], 600.0)
            await ledger.settle(name, [])
        elif shared == "balances":
            await ledger.reserve(f"{side}-{name}", charges, 600.0)
            await ledger.settle(f"{side}-{name}", charges)
        else:
            lines = [Spend(id=f"{name}-{n if side % 2 else 9 - n}", at=1.0, nano=1) for n in range(10)]
            await ledger.settle(f"{side}-{name}", [], lines)

    await asyncio.gather(*[call(side, number) for number in range(100) for side in range(4)])
    assert harness.server.log.count("deadlock detected") == before
    ledger = states[0].ledger("l")
    spent = 400 if shared == "balances" else 0
    assert await ledger.balances([(name, 0) for name in accounts]) == [Balance(spent, 0)] * 5
    assert len(await ledger.spends(limit=2000)) == (1000 if shared == "lines" else 0)
    assert await ledger.holds() == []


async def test_thousands_of_draws_cost_what_they_are(harness):
    """Twice as many, four times as long, was what it took when each was held against each: minutes."""
    ledger = (await harness.open(timeout=20)).ledger("l")
    many = [draw(5, 100, f"a{number}", 1) for number in range(4000)]
    began = time.monotonic()
    assert await ledger.reserve("h", many, 600.0) is None
    assert await ledger.reserve("h", many[::-1], 600.0) is None
    assert await ledger.reserve("i", [draw(96, 100, "a3999"), *many[:3999]], 600.0) == Shortage(0, 0, 5)
    assert await ledger.settle("h", [draw(4, None, one.account) for one in many]) is True
    assert time.monotonic() - began < 20.0 * 4
    assert set(await ledger.balances([(one.account, 0) for one in many])) == {Balance(4, 0)}


async def test_refusals_wait_for_no_disk(harness):
    """Where nothing is changed nothing can be lost; what is done beside them is on the disk all the same."""
    ledger = (await harness.open()).ledger("l")
    await ledger.reserve("h", [draw(10, 10)], 600.0)
    connection = await asyncpg.connect(harness.server.url)
    await connection.execute(f"SET search_path TO {harness.schema}")
    for settles, synced in (("NULL", "off"), ("7", "on")):
        await connection.execute("BEGIN")
        rows = await connection.fetch(
            "SELECT verdict FROM ledger_steps('l', 0, false, '{i,j}', '{60,60}', "
            f"'{{NULL,{settles}}}', NULL, '{{1,2}}', '{{a,a}}', '{{0,0}}', '{{1,1}}', '{{10,10}}', "
            "'{0,0}', '{NULL,NULL}')"
        )
        assert [row[0] for row in rows] == [0, 0 if settles == "NULL" else -1]
        assert await connection.fetchval("SHOW synchronous_commit") == synced
        await connection.execute("ROLLBACK")
    await connection.close()


async def test_one_who_finds_much_that_is_over_waits_no_longer_than_the_timeout_for_its_end(harness):
    """Each turn expires 500 holds, and takes 0.4 s here: three turns do not fit into a second."""
    ledger = (await harness.open()).ledger("l")
    await asyncio.gather(*[ledger.reserve(f"h{number}", [draw(1)], 30.0) for number in range(1200)])
    state = await harness.reopen(timeout=1)
    await state.check()
    await harness.pass_time(31.0)
    await harness.sql(
        f"SET search_path TO {harness.schema}; ALTER FUNCTION sweep RENAME TO swift_sweep;"
        "CREATE FUNCTION sweep(l text, a float8, m integer) RETURNS integer LANGUAGE plpgsql "
        "SET search_path FROM CURRENT AS $$ BEGIN PERFORM pg_sleep(0.4); RETURN swift_sweep(l, a, m); END $$;"
    )
    try:
        with pytest.raises(StoreUnavailable, match="within 1 s"):
            await state.ledger("l").reserve("more", [draw(1, 2000)], 60.0)
    finally:
        await harness.sql(
            f"SET search_path TO {harness.schema}; DROP FUNCTION sweep; "
            "ALTER FUNCTION swift_sweep RENAME TO sweep;"
        )
    assert await ledger.reserve("more", [draw(1, 2000)], 60.0) is None
    assert await ledger.holds() == ["more"]


async def test_while_one_tries_whether_the_server_is_back_nobody_lines_up_behind_it(own_server):
    ledger = (await own_server.open(timeout=2)).ledger("l")
    await ledger.reserve("h", [draw(1)], 600.0)
    own_server.server.pause()
    began = time.monotonic()
    steps = [ledger.reserve(f"i{number}", [draw(1)], 600.0) for number in range(20)]
    answers = await asyncio.gather(*steps, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 20
    assert time.monotonic() - began < 2.0 + 2.0
    await asyncio.sleep(0.3)
    tries = asyncio.ensure_future(ledger.reserve("tries", [draw(1)], 600.0))
    await asyncio.sleep(0.1)
    for number in range(20):
        with pytest.raises(StoreUnavailable, match="out of reach just now"):
            await ledger.reserve(f"j{number}", [draw(1)], 600.0)
    assert not tries.done()
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await tries
