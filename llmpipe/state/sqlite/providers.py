"""The provider table in a file."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from llmpipe.state.checks import check_row
from llmpipe.state.contracts.providers import ProviderRow
from llmpipe.state.sqlite.engine import Engine
from llmpipe.state.sqlite.jobs import Session
from llmpipe.state.sqlite.seals import real, seal, whole
from llmpipe.state.sqlite.text import from_json, to_json

__all__ = ("SqliteProviders",)


class SqliteProviders:
    """See `ProviderTable`."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._space = name

    async def rows(self, account: str | None = None) -> list[ProviderRow]:
        """See `ProviderTable.rows`."""
        return await self._engine.run(partial(self._rows, account=account), "read")

    def _rows(self, db: Session, account: str | None) -> list[ProviderRow]:
        found = db.execute(
            "SELECT * FROM providers WHERE space = ? AND (? IS NULL OR account IN ('', ?)) "
            "ORDER BY ? IS NOT NULL AND account <> ?, name",
            (self._space, account, account, account, account),
        )
        return [_read(db, row) for row in found]

    async def put(self, row: ProviderRow) -> None:
        """See `ProviderTable.put`."""
        check_row(row)
        await self._engine.run(partial(self._put, row=row, now=time.time()))

    def _put(self, db: Session, row: ProviderRow, now: float) -> None:
        before = db.execute(
            "SELECT created_at FROM providers WHERE space = ? AND name = ?", (self._space, row.name)
        ).fetchone()
        values = (
            self._space,
            row.name,
            row.provider,
            row.model,
            row.account,
            to_json(row.use_cases),
            row.max_tokens,
            int(row.is_default),
            int(row.is_active),
            row.key,
            row.base_url,
            real(now) if before is None else before[0],
            real(now),
        )
        db.execute(
            "REPLACE INTO providers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, seal(*values)),
        )
        self._changed(db)

    async def delete(self, name: str) -> bool:
        """See `ProviderTable.delete`."""
        return await self._engine.run(partial(self._delete, name=name))

    def _delete(self, db: Session, name: str) -> bool:
        gone = db.execute("DELETE FROM providers WHERE space = ? AND name = ?", (self._space, name)).rowcount
        if gone:
            self._changed(db)
        return gone > 0

    async def revision(self) -> int:
        """See `ProviderTable.revision`."""
        return await self._engine.run(self._revision, "read")

    def _revision(self, db: Session) -> int:
        row = db.execute("SELECT revision FROM revisions WHERE space = ?", (self._space,)).fetchone()
        return 0 if row is None else int(row[0])

    def _changed(self, db: Session) -> None:
        db.execute(
            "INSERT INTO revisions VALUES (?, 1) ON CONFLICT DO UPDATE SET revision = revision + 1",
            (self._space,),
        )


def _read(db: Session, row: tuple[Any, ...]) -> ProviderRow:
    if not whole(row):
        raise db.damaged(f"the row {row[1]!r} of the provider table was changed")
    (
        _,
        name,
        provider,
        model,
        account,
        use_cases,
        max_tokens,
        default,
        active,
        key,
        url,
        created,
        updated,
        _,
    ) = row
    return ProviderRow(
        name=name,
        provider=provider,
        model=model,
        account=account,
        use_cases=tuple(from_json(use_cases)),
        max_tokens=max_tokens,
        is_default=bool(default),
        is_active=bool(active),
        key=key,
        base_url=url,
        created_at=created,
        updated_at=updated,
    )
