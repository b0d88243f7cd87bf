"""A server that hangs, dies, is full, is the wrong one: what callers see, and that it ends by itself."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from attrs import evolve

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.state import Ask, AuditRecord, Draw, Item, Spend
from llmpipe.state.hash_chain import digest
from llmpipe_postgres import open_postgres

pytestmark = pytest.mark.real_time

SLACK = 2.0  # seconds that a busy machine may add to a bound


def draw(nano: int, limit: int | None = None, account: str = "a") -> Draw:
    return Draw(account, 0, nano, limit)


async def recovered(work, within: float = 20.0):
    """What `work` gives once the store is back; nobody does anything for that but call."""
    end = time.monotonic() + within
    while True:
        try:
            return await work()
        except StoreUnavailable:
            assert time.monotonic() < end, "it did not recover by itself"
            await asyncio.sleep(0.05)


async def test_what_was_acknowledged_is_there_after_the_server_was_killed(own_server):
    state = await own_server.open()
    ledger, queue, audit = state.ledger("l"), state.queue("q"), state.audit("a")
    settled: list[str] = []
    put: list[str] = []
    kept: list[int] = []
    over = asyncio.Event()

    async def write(worker: int) -> None:
        for number in itertools.count():
            name = f"{worker}-{number}"
            record = AuditRecord(writer=str(worker), seq=number + 1, kind="note", at=1.0, body={})
            try:
                await ledger.reserve(name, [draw(3)], 60.0)
                if await ledger.settle(name, [draw(3)], [Spend(id=name, at=1.0, nano=3)]):
                    settled.append(name)
                if await queue.put(Item(id=name, payload=b"x")):
                    put.append(name)
                await audit.append([evolve(record, hash=digest(record))])
                kept.append(worker)
            except StoreUnavailable:
                if over.is_set():
                    return

    writers = [asyncio.ensure_future(write(worker)) for worker in range(8)]
    while len(kept) < 100:
        await asyncio.sleep(0.01)
    own_server.server.kill()
    over.set()
    await asyncio.gather(*writers)
    own_server.server.start()

    again = await own_server.reopen()
    found = await recovered(lambda: again.ledger("l").spends(limit=100_000))
    assert set(settled) <= {row.id for row in found}
    assert (await again.ledger("l").balances([("a", 0)]))[0].spent == 3 * len(found)
    for name in put:
        assert await again.queue("q").status(name) is not None
    for worker in range(8):
        head = await again.audit("a").head(str(worker))
        assert head.seq >= kept.count(worker)


async def test_a_frozen_server_costs_one_timeout_and_then_nothing_and_comes_back_by_itself(own_server):
    state = await own_server.open(timeout=1)
    ledger = state.ledger("l")
    await asyncio.gather(*[ledger.reserve(f"w{n}", [draw(1, 100)], 600.0) for n in range(20)])
    own_server.server.pause()
    began = time.monotonic()

    async def ask(number: int) -> float:
        before = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
            await ledger.reserve(f"h{number}", [draw(1, 100)], 600.0)
        return time.monotonic() - before

    first = await asyncio.gather(*[ask(number) for number in range(40)])
    assert max(first) < 1.0 + SLACK
    quick = [await ask(100 + number) for number in range(20)]
    assert sum(seconds < 0.5 for seconds in quick) >= 15  # but for those that were let in to try
    assert time.monotonic() - began < 25.0
    own_server.server.resume()
    assert await recovered(lambda: ledger.reserve("after", [draw(1, 100)], 600.0)) is None
    # Those that the server had taken in before it froze may be done, each once; by id they can be settled.
    held = (await ledger.balances([("a", 0)]))[0].held
    assert 21 <= held <= 61
    assert held == len(await ledger.holds())


async def test_cancelling_ends_at_once_even_while_the_server_is_frozen(own_server):
    state = await own_server.open(timeout=30)
    ledger = state.ledger("l")
    await ledger.reserve("h", [draw(1)], 600.0)
    fresh = await own_server.reopen(timeout=30)
    own_server.server.pause()
    calls = [ledger.reserve("i", [draw(1)], 600.0), fresh.ledger("l").reserve("j", [draw(1)], 600.0)]
    calls += [
        ledger.reserve(f"k{number}", [draw(1)], 600.0) for number in range(20)
    ]  # some wait for the pool
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0.2)
    before = time.monotonic()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert time.monotonic() - before < 2.0
    assert all(task.cancelled() for task in tasks)
    own_server.server.resume()
    assert await ledger.reserve("after", [draw(1)], 600.0) is None


async def test_a_restart_is_bridged_by_saying_the_same_again(own_server):
    state = await own_server.open()
    ledger = state.ledger("l")
    await asyncio.gather(*[ledger.reserve(f"h{number}", [draw(1)], 600.0) for number in range(30)])
    own_server.server.restart()
    assert await ledger.settle("h0", [draw(1)]) is True
    assert len(await ledger.holds()) == 29


async def test_a_server_that_is_away_is_unavailable_with_its_place_and_is_found_again(own_server):
    state = await own_server.open()
    ledger = state.ledger("l")
    own_server.server.stop()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{own_server.server.port}/postgres"):
        await ledger.balances([])
    own_server.server.start()
    assert await recovered(lambda: ledger.balances([])) == []


async def test_a_schema_that_nobody_could_open_yet_is_opened_when_the_server_is_there(own_server):
    own_server.schema = "later"
    own_server.server.pause()
    state = await own_server.reopen(timeout=1)
    with pytest.raises(StoreUnavailable, match="did not answer within 1 s"):
        await state.check()
    own_server.server.resume()
    await recovered(state.check)


async def test_where_the_server_has_few_connections_all_make_do_with_them(own_server):
    await own_server.sql("ALTER SYSTEM SET max_connections = 8;")
    own_server.server._settings["max_connections"] = "8"
    own_server.server.restart()
    state = await own_server.open(pool=30, timeout=20)
    other = await own_server.reopen(pool=30, timeout=20)
    await other.check()
    ledger = state.ledger("l")
    assert set(await asyncio.gather(*[ledger.reserve(f"h{n}", [draw(1)], 600.0) for n in range(100)])) == {
        None
    }
    assert len(await ledger.holds()) == 100


async def test_a_server_that_only_reads_after_a_failover_is_left_and_tried_again(own_server):
    state = await own_server.open()
    ledger = state.ledger("l")
    await ledger.reserve("h", [draw(1)], 600.0)
    await own_server.sql("ALTER DATABASE postgres SET default_transaction_read_only = on;")
    own_server.server.restart()
    with pytest.raises(StoreUnavailable, match="read-only"):
        await ledger.reserve("i", [draw(1)], 600.0)
    await own_server.sql("BEGIN READ WRITE; ALTER DATABASE postgres RESET ALL; COMMIT;")
    assert await recovered(lambda: ledger.reserve("i", [draw(1)], 600.0)) is None


async def test_a_wrong_password_is_said_and_not_shown(harness):
    await harness.sql("DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN PASSWORD 'opensesame99';")
    place = f"@127.0.0.1:{harness.server.port}/postgres?schema=guarded_"
    state = open_postgres(f"postgresql://guarded:wr0ng-password{place}")
    with pytest.raises(StoreUnavailable, match="guarded") as caught:
        await state.check()
    assert "wr0ng" not in str(caught.value)
    assert caught.value.__cause__ is None
    await state.aclose()
    state = open_postgres(f"postgresql://guarded:opensesame99{place}")
    with pytest.raises(StoreUnavailable, match="permission denied"):  # it may not make a schema
        await state.check()
    await state.aclose()


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
async def test_whoever_stood_in_anothers_way_says_it_again_until_it_passes(harness, state):
    ledger = (await harness.open()).ledger("l")
    await harness.sql(
        f"SET search_path TO {harness.schema}; CREATE SEQUENCE times;"
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS "
        "$$ BEGIN IF nextval('times') % 3 > 0 THEN "
        f"RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER refuses BEFORE INSERT ON holds FOR EACH ROW EXECUTE FUNCTION refuse();"
    )
    try:
        for number in range(3):
            assert await ledger.reserve(f"h{number}", [draw(7, 70)], 600.0) is None
        assert (await ledger.balances([("a", 0)]))[0].held == 21
        await harness.sql(f"SELECT setval('{harness.schema}.times', 1)")
        await harness.sql(f"ALTER SEQUENCE {harness.schema}.times INCREMENT 3;")
        with pytest.raises(StoreUnavailable, match="each other's way 6 times"):
            await ledger.reserve("never", [draw(7, 70)], 600.0)
        assert (await ledger.balances([("a", 0)]))[0].held == 21  # it answers, and is not left alone
    finally:
        await harness.sql(
            f"DROP FUNCTION {harness.schema}.refuse CASCADE; DROP SEQUENCE {harness.schema}.times;"
        )


async def test_where_transactions_are_serializable_by_default_all_goes_on(harness):
    await harness.open()
    await harness.sql("ALTER DATABASE postgres SET default_transaction_isolation = serializable;")
    try:
        ledger = (await harness.reopen(pool=4)).ledger("l")
        held = await asyncio.gather(
            *[ledger.reserve(f"h{number}", [draw(7, 70)], 600.0) for number in range(60)],
            return_exceptions=True,
        )
    finally:
        await harness.sql("ALTER DATABASE postgres RESET ALL;")
    refused = [each for each in held if isinstance(each, BaseException)]
    assert all(isinstance(each, StoreUnavailable) and "in each other's way" in str(each) for each in refused)
    assert held.count(None) <= 10
    assert (
        (await (await harness.reopen()).ledger("l").balances([("a", 0)]))[0].held == 7 * held.count(None) > 0
    )


async def test_draws_in_any_order_never_wait_for_one_another_in_a_circle(harness):
    state = await harness.open()
    ledger, limits = state.ledger("l"), state.limits("l")
    before = await harness.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'")
    accounts = ["a", "b", "c", "d"]
    orders = list(itertools.permutations(accounts))

    async def call(number: int) -> None:
        order = orders[number % len(orders)]
        await ledger.reserve(f"h{number}", [draw(1, None, name) for name in order], 600.0)
        await limits.take(f"t{number}", [Ask(name, 1.0, 1e9, 1.0, 1e9) for name in order], 600.0)
        await limits.settle(f"t{number}", dict.fromkeys(reversed(order), 0.5))
        await ledger.settle(f"h{number}", [draw(1, None, name) for name in reversed(order)])

    await asyncio.gather(*[call(number) for number in range(240)])
    after = await harness.sql("SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'")
    assert after == before
    assert {balance.spent for balance in await ledger.balances([(name, 0) for name in accounts])} == {240}


async def test_values_that_the_database_has_no_room_for_are_value_errors_and_the_store_stays_in_use(harness):
    ledger = (await harness.open()).ledger("l")
    with pytest.raises(ValueError, match="nano"):
        await ledger.reserve("h", [draw(2**63)], 60.0)
    await ledger.settle("g", [draw(2**62)])
    with pytest.raises(ValueError, match="out of range"):
        await ledger.settle("h", [draw(2**62)])
    assert (await ledger.balances([("a", 0)]))[0].spent == 2**62
    with pytest.raises(ValueError, match="finite"):
        await ledger.settle("i", [], [Spend(id="s", at=float("nan"), nano=1)])


async def test_names_that_postgresql_has_no_form_for_are_kept(harness):
    ledger = (await harness.open()).ledger("nul\0")
    name = "of \0 and \ud83d alone"
    await ledger.reserve(name, [draw(5, 10, name)], 60.0)
    assert await ledger.holds() == [name]
    assert (await ledger.balances([(name, 0)]))[0].held == 5
    await ledger.settle(name, [], [Spend(id=name, at=1.0, nano=None, tenant=name)])
    assert [row.id for row in await ledger.spends(tenant=name)] == [name]


@pytest.mark.parametrize("opened", [False, True])
async def test_closing_cancels_nobody_and_those_who_ask_have_their_answers_or_an_error(harness, opened):
    await harness.open()
    state = await harness.reopen(pool=1, timeout=20)
    if opened:
        await state.check()
    asking = [asyncio.ensure_future(state.ledger(f"l{number}").holds()) for number in range(5)]
    await asyncio.sleep(0.0 if opened else 0.002)
    await state.aclose()
    found, _ = await asyncio.wait(asking, timeout=15)
    assert len(found) == 5
    for each in asking:
        assert not each.cancelled()
        if opened:
            assert each.result() == []
        elif error := each.exception():
            assert isinstance(error, StoreUnavailable)
            assert "closed" in str(error)
    assert await state.ledger("l").holds() == []


async def test_a_state_serves_one_event_loop_after_another(harness):
    state = await harness.open()

    async def use(number: int) -> int:
        await state.ledger("l").settle(f"h{number}", [draw(1)])
        await state.aclose()
        return number

    for number in range(3):
        assert await asyncio.to_thread(asyncio.run, use(number)) == number
    assert (await state.ledger("l").balances([("a", 0)]))[0].spent == 3


async def test_it_works_where_no_prepared_statement_outlives_a_transaction(harness):
    state = await harness.open(pgbouncer="true")
    ledger = state.ledger("l")
    held = await asyncio.gather(
        *[ledger.reserve(f"h{number}", [draw(7, 70)], 600.0) for number in range(100)]
    )
    assert held.count(None) == 10
    with pytest.raises(ValueError, match="settled"):
        await ledger.settle("h", [])
        await ledger.reserve("h", [], 60.0)
    left = await harness.sql("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
    assert left[0][0] == 0


async def test_tables_that_vanish_while_it_runs_are_damage(harness):
    state = await harness.open()
    schema, harness._schemas = harness.schema, []
    await harness.sql(f"DROP TABLE {schema}.journal CASCADE;")
    with pytest.raises(StoreDamaged, match="journal"):
        await state.ledger("l").spends()
    assert await state.ledger("l").holds() == []  # the rest is there
