"""Sealed keys in a file."""

from __future__ import annotations

from functools import partial
from typing import Any

from llmpipe.state.checks import at_most, check_key
from llmpipe.state.contracts.vault import SealedKey
from llmpipe.state.sqlite.engine import Engine
from llmpipe.state.sqlite.jobs import Session
from llmpipe.state.sqlite.seals import real, seal, whole

__all__ = ("SqliteVault",)

_Names = tuple[str, str, str]


class SqliteVault:
    """See `Vault`."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._space = name

    async def get(self, tenant: str, provider: str, name: str) -> SealedKey | None:
        """See `Vault.get`."""
        return await self._engine.run(partial(self._get, names=(tenant, provider, name)), "read")

    def _get(self, db: Session, names: _Names) -> SealedKey | None:
        row = db.execute(
            "SELECT * FROM vault WHERE space = ? AND tenant = ? AND provider = ? AND name = ?",
            (self._space, *names),
        ).fetchone()
        return None if row is None else _key(db, row)

    async def put(self, key: SealedKey, expected: SealedKey | None) -> bool:
        """See `Vault.put`."""
        check_key(key, expected)
        return await self._engine.run(partial(self._put, key=key, expected=expected))

    def _put(self, db: Session, key: SealedKey, expected: SealedKey | None) -> bool:
        found = self._get(db, (key.tenant, key.provider, key.name))
        if (found and found.sealing) != (expected and expected.sealing):
            return False
        row = (
            self._space,
            key.tenant,
            key.provider,
            key.name,
            key.version,
            key.master,
            key.data_key,
            key.secret,
            real(key.created_at),
            key.hint,
        )
        db.execute("REPLACE INTO vault VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, seal(*row)))
        return True

    async def delete(self, tenant: str, provider: str, name: str) -> bool:
        """See `Vault.delete`."""
        return await self._engine.run(partial(self._delete, names=(tenant, provider, name)))

    def _delete(self, db: Session, names: _Names) -> bool:
        gone = db.execute(
            "DELETE FROM vault WHERE space = ? AND tenant = ? AND provider = ? AND name = ?",
            (self._space, *names),
        ).rowcount
        return gone > 0

    async def keys(self, *, after: tuple[str, str, str] | None = None, limit: int = 1000) -> list[SealedKey]:
        """See `Vault.keys`."""
        return await self._engine.run(partial(self._keys, after=after, limit=limit), "read")

    def _keys(self, db: Session, after: _Names | None, limit: int) -> list[SealedKey]:
        if after is None:
            rows = db.execute(
                "SELECT * FROM vault WHERE space = ? ORDER BY tenant, provider, name LIMIT ?",
                (self._space, at_most(limit)),
            )
        else:
            rows = db.execute(
                "SELECT * FROM vault WHERE space = ? AND (tenant, provider, name) > (?, ?, ?) "
                "ORDER BY tenant, provider, name LIMIT ?",
                (self._space, *after, at_most(limit)),
            )
        return [_key(db, row) for row in rows]


def _key(db: Session, row: tuple[Any, ...]) -> SealedKey:
    _, tenant, provider, name, version, master, data_key, secret, created_at, hint, _ = row
    if not whole(row):
        raise db.damaged(f"the key {name!r} of {tenant!r} was changed")
    return SealedKey(
        tenant=tenant,
        provider=provider,
        name=name,
        version=version,
        master=master,
        data_key=data_key,
        secret=secret,
        created_at=created_at,
        hint=hint,
    )
