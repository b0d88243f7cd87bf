from __future__ import annotations

import asyncio
import subprocess
import sys

import asyncpg  # type: ignore[import-untyped]  # has no types of its own
import pytest

from llmpipe.errors import StoreDamaged
from llmpipe.state import Draw, ProviderRow
from llmpipe_postgres import migrate as module
from llmpipe_postgres import open_postgres
from llmpipe_postgres.migrate import Migration, migrations

pytestmark = pytest.mark.real_time

NEWEST = migrations()[-1].version


@pytest.fixture
async def fresh(harness):
    """The name of a schema that is not there, which goes again."""
    harness.schema = "fresh"
    await harness.sql("DROP SCHEMA IF EXISTS fresh CASCADE;")
    yield harness
    await harness.aclose()
    await harness.sql("DROP SCHEMA IF EXISTS fresh CASCADE;")


async def versions(harness) -> list[int]:
    return [row[0] for row in await harness.sql("SELECT version FROM fresh.schema_versions ORDER BY 1")]


def test_the_files_are_numbered_without_a_gap_and_say_what_works_with_them():
    found = migrations()
    assert [one.version for one in found] == list(range(1, len(found) + 1))
    assert all(1 <= one.oldest <= one.version for one in found)


async def test_applying_twice_is_applying_once(fresh):
    await (await fresh.reopen()).check()
    await (await fresh.reopen()).ledger("l").settle("h", [Draw("a", 0, 5)])
    await (await fresh.reopen()).check()
    assert await versions(fresh) == [one.version for one in migrations()]
    (balance,) = await (await fresh.reopen()).ledger("l").balances([("a", 0)])
    assert balance.spent == 5


async def test_many_that_start_at_once_in_several_processes_all_come_up(fresh):
    program = (
        "import asyncio, sys\nfrom llmpipe.state import open_state\n"
        "async def main():\n    state = open_state(sys.argv[1]); await state.check(); await state.aclose()\n"
        "asyncio.run(main())"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, fresh.url()]) for _ in range(3)]
    states = [await fresh.reopen() for _ in range(8)]
    await asyncio.gather(*[state.check() for state in states])
    assert [await asyncio.to_thread(process.wait) for process in started] == [0, 0, 0]
    assert await versions(fresh) == [one.version for one in migrations()]


@pytest.mark.parametrize(("isolation", "pgbouncer"), [("repeatable read", "true"), ("serializable", "false")])
async def test_those_who_waited_for_another_see_what_it_has_applied(fresh, isolation, pgbouncer):
    other = await asyncpg.connect(fresh.server.url)
    await other.execute(f"ALTER DATABASE postgres SET default_transaction_isolation = '{isolation}'")
    try:
        await other.execute("SELECT pg_advisory_lock(hashtext('llmpipe migrations fresh'))")
        states = [await fresh.reopen(pgbouncer=pgbouncer) for _ in range(3)]
        starting = [asyncio.ensure_future(state.check()) for state in states]
        async with asyncio.timeout(60):
            while await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 3:
                await asyncio.sleep(0.01)
        await other.execute("SELECT pg_advisory_unlock_all()")
        await asyncio.gather(*starting)
    finally:
        await other.execute("ALTER DATABASE postgres RESET ALL")
        await other.close()
    assert await versions(fresh) == [one.version for one in migrations()]


async def test_a_newer_schema_that_this_code_cannot_work_with_is_damage_and_stays_as_it_is(fresh):
    await (await fresh.reopen()).check()
    await fresh.sql(f"INSERT INTO fresh.schema_versions VALUES ({NEWEST + 1}, {NEWEST + 1}, 'later');")
    state = await fresh.reopen()
    with pytest.raises(StoreDamaged, match=f"version {NEWEST + 1} needs a newer llmpipe-postgres"):
        await state.check()
    with pytest.raises(StoreDamaged):
        await state.ledger("l").reserve("h", [], 60.0)
    assert (await versions(fresh))[-1] == NEWEST + 1


async def test_a_newer_schema_that_only_added_is_worked_with_during_a_rolling_upgrade(fresh):
    await (await fresh.reopen()).check()
    await fresh.sql(f"INSERT INTO fresh.schema_versions VALUES ({NEWEST + 1}, {NEWEST}, 'later');")
    assert await (await fresh.reopen()).ledger("l").reserve("h", [Draw("a", 0, 5, 10)], 60.0) is None


async def test_a_schema_of_which_a_part_is_missing_is_damage_and_is_not_made_anew(fresh):
    await (await fresh.reopen()).check()
    await fresh.sql("DELETE FROM fresh.schema_versions WHERE version = 2;")
    with pytest.raises(StoreDamaged, match="not in order"):
        await (await fresh.reopen()).check()
    await fresh.sql("INSERT INTO fresh.schema_versions VALUES (2, 2, 'again'); DROP TABLE fresh.balances;")
    with pytest.raises(StoreDamaged, match="balances"):
        await (await fresh.reopen()).ledger("l").reserve("h", [Draw("a", 0, 5, 10)], 60.0)
    assert (
        await fresh.sql("SELECT 1 FROM pg_tables WHERE schemaname = 'fresh' AND tablename = 'balances'") == []
    )


async def test_a_file_that_fails_leaves_nothing_of_the_others(fresh, monkeypatch):
    broken = (
        *migrations(),
        Migration(NEWEST + 1, NEWEST + 1, "broken", "CREATE TABLE half (a int); SELECT * FROM nothing"),
    )
    with monkeypatch.context() as patched:
        patched.setattr(module, "migrations", lambda: broken)
        with pytest.raises(StoreDamaged, match="nothing"):
            await (await fresh.reopen()).check()
    assert await fresh.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'fresh'") == []
    await (await fresh.reopen()).check()


async def test_a_missing_file_is_applied_to_what_is_there(fresh, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(module, "migrations", lambda: migrations()[:4])
        state = await fresh.reopen()
        await state.ledger("l").settle("h", [Draw("a", 0, 5)])
    assert await versions(fresh) == [1, 2, 3, 4]
    state = await fresh.reopen()
    assert (await state.ledger("l").balances([("a", 0)]))[0].spent == 5
    assert await versions(fresh) == list(range(1, NEWEST + 1))


async def test_a_role_without_the_right_to_make_schemas_works_in_one_that_is_there(fresh):
    await fresh.sql("CREATE ROLE modest LOGIN; CREATE SCHEMA fresh AUTHORIZATION modest;")
    try:
        state = open_postgres(fresh.url().replace("llmpipe@", "modest@"))
        await state.check()
        await state.aclose()
    finally:
        await fresh.sql("DROP SCHEMA fresh CASCADE; DROP ROLE modest;")


async def test_rows_that_people_write_with_sql_are_read_and_raise_the_revision(fresh):
    table = (await fresh.reopen()).providers("providers")
    before = await table.revision()
    await fresh.sql(
        "INSERT INTO fresh.llm_providers (name, provider, model, use_case, max_tokens, is_default) VALUES"
        " ('openai-gpt4o-mini', 'openai', 'gpt-4o-mini', '{draft,summary}', 16384, true);"
    )
    (row,) = await table.rows("acme")
    assert row == ProviderRow(
        name="openai-gpt4o-mini", provider="openai", model="gpt-4o-mini", use_cases=("draft", "summary"),
        max_tokens=16384, is_default=True, created_at=row.created_at, updated_at=row.updated_at,
    )  # fmt: skip
    assert await table.revision() > before
