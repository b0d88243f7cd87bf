# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What every vault keeps to: bytes as they were, and nobody undoes another's change."""

from __future__ import annotations

from itertools import product

import pytest
from attrs import evolve

from llmpipe.state import SealedKey
from llmpipe.testing.state.harness import NAMES, Harness, fill

__all__ = ("VaultSuite",)


def sealed(tenant: str = "t", provider: str = "p", name: str = "n", *, version: int = 1) -> SealedKey:
    return SealedKey(
        tenant=tenant,
        provider=provider,
        name=name,
        version=version,
        master="m1",
        data_key=bytes(range(256)),
        secret=b"\x00\xff secret '\"\\",
        created_at=1_700_000_000.25,
        hint="sk-…1234",
    )


class VaultSuite:
    """Sealed keys: what is put comes back, and who changes says what was there."""

    pytestmark = pytest.mark.asyncio

    async def test_a_key_comes_back_as_it_was(self, harness: Harness) -> None:
        vault = (await harness.open()).vault("v")
        assert await vault.get("t", "p", "n") is None
        assert await vault.put(sealed(), None) is True
        again = (await harness.reopen()).vault("v")
        assert await again.get("t", "p", "n") == sealed()

    async def test_a_key_is_stored_only_over_what_was_expected(self, harness: Harness) -> None:
        vault = (await harness.open()).vault("v")
        first, second = sealed(), sealed(version=2)
        assert await vault.put(first, first) is False
        assert await vault.get("t", "p", "n") is None
        assert await vault.put(first, None) is True
        others = (second, evolve(first, data_key=b"other"), evolve(first, secret=b"other"))
        for wrong in (None, *others, evolve(first, version=0, data_key=b"", secret=b"")):
            assert await vault.put(second, wrong) is False
        assert await vault.get("t", "p", "n") == first
        assert await vault.put(second, first) is True
        moved = evolve(second, master="m2", data_key=b"other")
        assert await vault.put(moved, second) is True
        assert await vault.get("t", "p", "n") == moved

    async def test_a_key_that_was_deleted_and_stored_anew_is_not_the_one_that_was_read(
        self, harness: Harness
    ) -> None:
        vault = (await harness.open()).vault("v")
        await vault.put(sealed(), None)
        read = await vault.get("t", "p", "n")
        assert read is not None
        assert await vault.delete("t", "p", "n") is True
        anew = evolve(sealed(), data_key=b"of another", secret=b"another")
        assert await vault.put(anew, None) is True
        # A rotation of the master key, which is late: what it read is gone, though the version is the same.
        assert await vault.put(evolve(read, master="m2", data_key=b"moved"), read) is False
        assert await vault.get("t", "p", "n") == anew
        moved = evolve(anew, master="m2", data_key=b"moved")
        assert await vault.put(moved, anew) is True
        assert await vault.get("t", "p", "n") == moved

    async def test_a_deleted_key_is_gone(self, harness: Harness) -> None:
        vault = (await harness.open()).vault("v")
        await vault.put(sealed(), None)
        assert await vault.delete("t", "p", "other") is False
        assert await vault.delete("t", "p", "n") is True
        assert await vault.delete("t", "p", "n") is False
        assert await vault.get("t", "p", "n") is None
        assert await vault.put(sealed(), sealed()) is False
        assert await vault.put(sealed(), None) is True

    async def test_keys_are_told_apart_by_each_of_their_names(self, harness: Harness) -> None:
        vault = (await harness.open()).vault("v")
        names = [
            ("a", "b", "c"),
            ("a", "b", ""),
            ("", "a", "b"),
            ("ab", "c", ""),
            ("a", "bc", ""),
            ("A", "b", "c"),
        ]
        for version, each in enumerate(names, 1):
            assert await vault.put(sealed(*each, version=version), None) is True
        for version, each in enumerate(names, 1):
            assert await vault.get(*each) == sealed(*each, version=version)

    async def test_keys_are_listed_in_order_and_in_pages(self, harness: Harness) -> None:
        vault = (await harness.open()).vault("v")
        names = list(product(NAMES[:5], ("P", "a"), ("", "é", "z")))
        await fill(len(names), lambda n: vault.put(sealed(*names[n * 7 % len(names)]), None))
        wanted = [sealed(*each) for each in sorted(names)]
        assert await vault.keys() == wanted
        assert await vault.keys(limit=4) == wanted[:4]
        found: list[SealedKey] = []
        after: tuple[str, str, str] | None = None
        while page := await vault.keys(after=after, limit=7):
            found += page
            after = (page[-1].tenant, page[-1].provider, page[-1].name)
        assert found == wanted
        assert await vault.keys(after=("a", "a", "0"), limit=1) == [
            next(key for key in wanted if (key.tenant, key.provider, key.name) > ("a", "a", "0"))
        ]

    async def test_vaults_are_told_apart_by_name(self, harness: Harness) -> None:
        state = await harness.open()
        await state.vault("v").put(sealed(), None)
        assert await state.vault("w").get("t", "p", "n") is None
        assert await state.vault("w").keys() == []

    async def test_of_many_who_change_one_key_at_once_one_does(self, harness: Harness) -> None:
        sides = [(await harness.open()).vault("v"), (await harness.reopen()).vault("v")]
        there: SealedKey | None = None
        for version in (1, 2):
            keys = [evolve(sealed(version=version), secret=b"of %d" % number) for number in range(40)]
            stored = await fill(40, lambda n: sides[n % 2].put(keys[n], there))  # noqa: B023  awaited here
            assert sum(stored) == 1
            there = await sides[0].get("t", "p", "n")
            assert there == keys[stored.index(True)]
