"""What the tests of keys share."""

from __future__ import annotations

import base64
from typing import Any

from llmpipe.state import SealedKey
from llmpipe.state.memory.vault import MemoryVault

CANARY = "sk-canary-7Hq2mWx9Zr4TfLp0KdVs"
OLD = base64.b64encode(bytes(range(32))).decode()
NEW = base64.b64encode(bytes(range(32, 64))).decode()
MASTERS = {"old": OLD, "new": NEW}
NEW_FIRST = {"new": NEW, "old": OLD}
NAMES = [
    ("", "openai", "default"),
    ("acme", "openai", "default"),
    ("acme", "openai", "second"),
    ("acme", "anthropic", "default"),
    ("a", "b", "c"),
    ("ab", "", "c"),
]


class Halt(Exception):
    """The process ends here."""


class Rows(MemoryVault):
    """A vault that can be looked into, and that ends the process before or behind an operation."""

    offers = frozenset({"vault"})

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.halt_before: int | None = None
        self.halt_behind: int | None = None
        self.between: Any = None

    def vault(self, name: str) -> Rows:
        return self

    async def aclose(self) -> None:
        pass

    @property
    def rows(self) -> dict[tuple[str, str, str], SealedKey]:
        return self._keys

    async def _step(self, work):
        self.operations += 1
        if self.operations == self.halt_before:
            work.close()
            raise Halt
        done = await work
        if self.operations == self.halt_behind:
            raise Halt
        if self.between is not None:
            between, self.between = self.between, None
            await between()
            self.between = between
        return done

    async def get(self, *names):
        return await self._step(super().get(*names))

    async def put(self, key, expected):
        return await self._step(super().put(key, expected))

    async def delete(self, *names):
        return await self._step(super().delete(*names))

    async def keys(self, *, after=None, limit=1000):
        return await self._step(super().keys(after=after, limit=min(limit, 2)))  # so that there are pages
