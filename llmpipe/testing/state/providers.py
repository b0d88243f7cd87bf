# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What every provider table keeps to."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from llmpipe.state import ProviderRow
from llmpipe.testing.state.harness import Harness, fill, rises

__all__ = ("ProvidersSuite",)


def row(name: str, account: str = "", **rest: Any) -> ProviderRow:
    return ProviderRow(name=name, provider="openai", model="gpt-4o", account=account, **rest)


def bare(found: ProviderRow) -> ProviderRow:
    return evolve(found, created_at=0.0, updated_at=0.0)


class ProvidersSuite:
    """The provider table: rows by name, an account's own first."""

    pytestmark = pytest.mark.asyncio

    async def test_a_row_comes_back_as_it_was_with_its_times(self, harness: Harness) -> None:
        table = (await harness.open()).providers("p")
        full = row(
            "é", "acme", use_cases=("draft", "vision, and more", ""), max_tokens=10**7, is_default=True,
            is_active=False, key="k", base_url="https://example.org/v1",
        )  # fmt: skip
        await table.put(full)
        (found,) = await (await harness.reopen()).providers("p").rows()
        assert bare(found) == full
        assert isinstance(found.use_cases, tuple)
        assert found.created_at == found.updated_at > 1e9

    async def test_a_row_takes_the_place_of_its_name(self, harness: Harness) -> None:
        table = (await harness.open()).providers("p")
        await table.put(row("a"))
        (first,) = await table.rows()
        await table.put(row("a", "acme", max_tokens=7))
        (second,) = await table.rows()
        assert bare(second) == row("a", "acme", max_tokens=7)
        assert second.created_at == first.created_at
        assert second.updated_at >= first.updated_at

    async def test_an_account_sees_its_own_rows_first_and_then_those_of_all(self, harness: Harness) -> None:
        table = (await harness.open()).providers("p")
        for each in (
            row("b"),
            row("z", "acme"),
            row("B"),
            row("é", "acme"),
            row("a", "other"),
            row("A", "acme"),
        ):
            await table.put(each)
        names = [found.name for found in await table.rows("acme")]
        assert names == ["A", "z", "é", "B", "b"]
        assert [found.name for found in await table.rows("nobody")] == ["B", "b"]
        assert [found.name for found in await table.rows("")] == ["B", "b"]
        assert [found.name for found in await table.rows()] == ["A", "B", "a", "b", "z", "é"]

    async def test_a_deleted_row_is_gone(self, harness: Harness) -> None:
        table = (await harness.open()).providers("p")
        await table.put(row("a"))
        assert await table.delete("b") is False
        assert await table.delete("a") is True
        assert await table.delete("a") is False
        assert await table.rows() == []

    async def test_the_revision_rises_with_every_change(self, harness: Harness) -> None:
        table = (await harness.open()).providers("p")
        seen = [await table.revision()]
        await table.put(row("a"))
        seen.append(await table.revision())
        await table.put(row("a"))
        seen.append(await table.revision())
        await table.delete("a")
        seen.append(await (await harness.reopen()).providers("p").revision())
        assert rises(seen)
        assert await table.revision() == seen[-1]

    async def test_tables_are_told_apart_by_name(self, harness: Harness) -> None:
        state = await harness.open()
        before = await state.providers("q").revision()
        await state.providers("p").put(row("a"))
        assert await state.providers("q").rows() == []
        assert await state.providers("q").revision() == before

    async def test_changes_made_at_once_are_all_there(self, harness: Harness) -> None:
        sides = [(await harness.open()).providers("p"), (await harness.reopen()).providers("p")]
        before = await sides[0].revision()
        await fill(60, lambda n: sides[n % 2].put(row(f"r{n % 20:02}", max_tokens=n)))
        found = await sides[0].rows()
        assert [each.name for each in found] == [f"r{n:02}" for n in range(20)]
        assert all(each.max_tokens % 20 == n for n, each in enumerate(found))
        assert await sides[1].revision() > before
