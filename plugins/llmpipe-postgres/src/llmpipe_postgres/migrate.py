"""The tables and functions, brought up to date: numbered SQL files, applied forward only.

Expand, then contract. Each file says on its second line which code can still work with what it leaves:
``Works with schema N and newer code`` means code whose own newest file has at least the number N. A
file that only adds says the number that was newest some releases before, so that during an upgrade of a
fleet the processes of both releases read and write; what the old one needs is dropped by a later file,
when it runs nowhere. A function that changes its arguments gets a new name until then.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from attrs import frozen

from llmpipe.errors import StoreDamaged
from llmpipe_postgres.settings import Settings

__all__ = ("Migration", "migrate", "migrations")

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_OLDEST = re.compile(r"^-- Works with schema (\d+) and newer code\.$", re.MULTILINE)


@frozen
class Migration:
    """One file: its number, which code works with what it leaves, and its statements."""

    version: int
    oldest: int
    name: str
    sql: str


@cache
def migrations() -> tuple[Migration, ...]:
    """All there are, in order."""
    found = []
    for file in files(__package__).joinpath("migrations").iterdir():
        name = _FILE.fullmatch(file.name)
        if name is not None:
            sql = file.read_text(encoding="utf-8")
            oldest = _OLDEST.search(sql)
            assert oldest is not None, f"{file.name} does not say what it works with"
            found.append(Migration(int(name[1]), int(oldest[1]), file.name, sql))
    return tuple(sorted(found, key=lambda one: one.version))


async def is_current(connection: Any, settings: Settings) -> bool:
    """Whether there is nothing to apply.

    Raises: StoreDamaged for a schema that this code cannot work with.
    """
    table = f"{settings.schema}.schema_versions"
    if await connection.fetchval(f"SELECT to_regclass('{table}') IS NULL"):
        return False
    rows = await connection.fetch(f"SELECT version, oldest FROM {table} ORDER BY version")  # noqa: S608  a name that was checked
    ours = [one.version for one in migrations()]
    for version, oldest in rows:
        if oldest > ours[-1]:
            raise StoreDamaged(
                f"{settings.place}, schema {settings.schema}: its version {version} needs a newer "
                f"llmpipe-postgres; this one knows up to {ours[-1]}"
            )
    applied = [version for version, _ in rows]
    if ours[: len(applied)] != applied[: len(ours)]:
        raise StoreDamaged(
            f"{settings.place}, schema {settings.schema}: versions {applied} were applied, and not in order"
        )
    return len(applied) >= len(ours)


async def migrate(connection: Any, settings: Settings) -> None:
    """Apply what is missing: all or nothing, and one process at a time.

    Raises: StoreDamaged for a schema that this code cannot work with; what the driver raises.
    """
    # Plain statements, without the driver's help for transactions: that would wait for a rollback when it
    # is cancelled. Whoever calls ends the connection after any failure.
    # Whoever has waited for the lock has to see what another has applied meanwhile.
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    await connection.execute("SET LOCAL statement_timeout = 0")
    await connection.execute(
        f"SELECT pg_advisory_xact_lock(hashtext('llmpipe migrations {settings.schema}'))"
    )
    if not await is_current(connection, settings):
        # Asked first: making one needs a right that whoever has the schema need not have.
        if await connection.fetchval(f"SELECT to_regnamespace('{settings.schema}') IS NULL"):
            await connection.execute(f"CREATE SCHEMA {settings.schema}")
        # The functions keep this path (SET search_path FROM CURRENT), so that nobody's can lead them astray.
        await connection.execute(f"SET LOCAL search_path TO {settings.schema}, pg_temp")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_versions ("
            "version integer PRIMARY KEY, oldest integer NOT NULL, name text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
        )
        applied = {row[0] for row in await connection.fetch("SELECT version FROM schema_versions")}
        for one in migrations():
            if one.version not in applied:
                await connection.execute(one.sql)
                await connection.execute(
                    "INSERT INTO schema_versions (version, oldest, name) "  # noqa: S608  numbers and a file's name
                    f"VALUES ({one.version}, {one.oldest}, '{one.name}')"
                )
    await connection.execute("COMMIT")
