"""E1: each key opens after any prefix of any rotation, and after its end by the new master secret alone.

Rotations of the master secret follow one another, each from one generation to the next. Every process has
both secrets of the moment, and seals by one of them. A rotation stops after any of its steps, as a process
does that is killed, or runs beside others and beside those who store. On every store that keeps a vault.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from llmpipe.errors import StoreDamaged
from llmpipe.keys import KeyVault, Rotation
from llmpipe.state import Backend
from tests.state.stores import OnStore, Store, kept_in

pytest.importorskip("cryptography")

Names = tuple[str, str, str]
Meanwhile = Callable[[Names], Awaitable[None]]
NAMES: list[Names] = [
    ("", "openai", "default"), ("acme", "openai", "default"), ("acme", "openai", "second"),
    ("a", "b", "c"), ("ab", "", "c"), ("é", "openai", "\0"),
]  # fmt: skip
some_names = st.sampled_from(NAMES)


def secret(generation: int) -> str:
    return base64.b64encode(bytes([generation % 256]) * 32).decode()


class Halt(Exception):
    """The process ends here."""


class Line(Backend):
    """A process's line to the vault: pages are short, and at the operation `stop` the process ends.

    Attributes:
        behind: whether it ends when the operation is done, or before.
        meanwhile: what others do before the first key is put, of which they are told the names.
    """

    scheme = "line"

    def __init__(
        self, rows: Any, stop: int = -1, *, behind: bool = False, meanwhile: Meanwhile | None = None
    ) -> None:
        self.rows, self.stop, self.behind, self.meanwhile = rows, stop, behind, meanwhile
        self.steps = 0

    def vault(self, name: str) -> Any:
        return self

    async def step(self, method: str, *args: Any, **options: Any) -> Any:
        self.steps += 1
        if self.steps == self.stop and not self.behind:
            raise Halt
        await asyncio.sleep(0)  # those who do something at once take turns, in memory too
        done = await getattr(self.rows, method)(*args, **options)
        if self.steps == self.stop:
            raise Halt
        return done

    async def get(self, *names: str) -> Any:
        return await self.step("get", *names)

    async def put(self, key: Any, expected: Any) -> Any:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile((key.tenant, key.provider, key.name))
        return await self.step("put", key, expected)

    async def delete(self, *names: str) -> Any:
        return await self.step("delete", *names)

    async def keys(self, *, after: Any = None, limit: int = 1000) -> Any:
        return await self.step("keys", after=after, limit=min(2, limit))


class Keys(OnStore):
    waits = True

    @initialize()
    def begin(self) -> None:
        self.rows = self.place.thing("vault")
        self.old = 0  # its generation; that of the new one is one more
        self.there: dict[Names, str] = {}
        self.numbers = count()
        self.appoint()

    def appoint(self) -> None:
        """Two processes that remember what they have opened: one that is behind, and one that is not."""
        self.behind = self.process(self.old, self.old + 1)
        self.ahead = self.process(self.old + 1, self.old)

    def process(self, *generations: int, **line: Any) -> KeyVault:
        masters = {f"m{generation}": secret(generation) for generation in generations}
        # Each process's clock goes with the others': a key that is stored later is younger.
        return KeyVault(Line(self.rows, **line), masters, wall=lambda: 1e9 + next(self.numbers))

    def one(self, ahead: bool) -> KeyVault:
        return self.ahead if ahead else self.behind

    async def store_key(self, vault: KeyVault, names: Names) -> None:
        tenant, provider, name = names
        key = f"sk-{next(self.numbers):020}"
        await vault.put(provider, key, tenant=tenant, name=name)
        self.there[names] = key

    @rule(ahead=st.booleans(), names=some_names)
    def put(self, ahead: bool, names: Names) -> None:
        self.do(self.store_key(self.one(ahead), names))

    @rule(ahead=st.booleans(), names=some_names)
    def delete(self, ahead: bool, names: Names) -> None:
        tenant, provider, name = names
        deleted = self.do(self.one(ahead).delete(provider, tenant=tenant, name=name))
        assert deleted is (self.there.pop(names, None) is not None)

    @rule(stop=st.integers(1, 30), behind=st.booleans())
    def a_rotation_stops(self, stop: int, behind: bool) -> None:
        vault = self.process(self.old + 1, self.old, stop=stop, behind=behind)
        try:
            done = self.do(vault.rotate())
        except Halt:
            return
        assert done.complete

    @rule(ahead=st.booleans(), names=some_names)
    def rotations_run_beside_one_another_and_beside_somebody_who_stores(
        self, ahead: bool, names: Names
    ) -> None:
        done = self.do(self.together(self.one(ahead), names))
        assert all(each.complete for each in done)

    async def together(self, vault: KeyVault, names: Names) -> list[Rotation]:
        rotations = [self.process(self.old + 1, self.old).rotate() for _ in range(2)]
        *done, _ = await asyncio.gather(*rotations, self.store_key(vault, names))
        return done  # type: ignore[return-value]  # but for the last, they are what rotations give

    @rule(ahead=st.booleans(), again=st.booleans())
    def a_key_is_deleted_when_a_rotation_has_read_it(self, ahead: bool, again: bool) -> None:
        """And stored `again`, perhaps: then it is version 1, as the one that was read may have been."""

        async def delete(names: Names) -> None:
            tenant, provider, name = names
            assert await self.one(ahead).delete(provider, tenant=tenant, name=name)
            del self.there[names]
            if again:
                await self.store_key(self.one(ahead), names)

        vault = self.process(self.old + 1, self.old, meanwhile=delete)
        assert self.do(vault.rotate()).complete

    @rule(throw_away=st.booleans())
    def a_rotation_ends(self, throw_away: bool) -> None:
        """And then the old secret may be thrown away, and the next generation begins."""
        sealed = [info.master for info in self.do(self.behind.keys())]
        done = self.do(self.ahead.rotate())
        assert done.complete
        assert done.rotated == sealed.count(f"m{self.old}")
        assert done.already == sealed.count(f"m{self.old + 1}")
        assert self.opened(self.process(self.old + 1)) == self.there
        for names in self.there:
            with pytest.raises(StoreDamaged):
                self.get(self.process(self.old), names)
        if throw_away:
            self.old += 1
            self.appoint()

    @precondition(lambda self: self.place.again)
    @rule(number=st.integers(0, 1))
    def one_client_goes_and_another_comes(self, number: int) -> None:
        self.place.replace(number)

    def get(self, vault: KeyVault, names: Names) -> str | None:
        tenant, provider, name = names
        found = self.do(vault.get(provider, tenant=tenant, name=name))
        return None if found is None else found.reveal()

    def opened(self, vault: KeyVault) -> dict[Names, str]:
        found = {names: self.get(vault, names) for names in NAMES}
        return {names: key for names, key in found.items() if key is not None}

    @invariant()
    def every_key_opens_for_everybody(self) -> None:
        assert self.opened(self.behind) == self.there
        assert self.opened(self.ahead) == self.there

    @invariant()
    def every_row_is_sealed_by_one_of_the_two(self) -> None:
        found = {(info.tenant, info.provider, info.name): info.master for info in self.do(self.ahead.keys())}
        assert found.keys() == self.there.keys()
        assert {*found.values()} <= {f"m{self.old}", f"m{self.old + 1}"}


@kept_in("memory", "sqlite", "postgresql")
def test_vaults_keep_their_law(store: Store) -> None:
    store.check(Keys, 0.6)
