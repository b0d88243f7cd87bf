# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What is written of every attempt: part of the ledger's suite."""

from __future__ import annotations

from random import Random

from attrs import evolve

from llmpipe.state import Spend
from llmpipe.testing.state.harness import Harness
from llmpipe.testing.state.ledger_leases import MUCH, balance, draw, spend

__all__ = ("JournalTests",)


class JournalTests:
    """Lines as they were, once each, in order; and forgetting them."""

    async def test_a_line_of_the_journal_comes_back_as_it_was(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        full = Spend(
            id="a-1", at=1_700_000_000.123456, nano=MUCH + 1, estimated=True, call="c", tenant="t", user="ü",
            project="p", key="k", use_case="draft", provider="openai", model="gpt-4o", status="cancelled",
            input_tokens=10**9, output_tokens=2, cached_input_tokens=3, cache_write_tokens=4,
            reasoning_tokens=5, asked_tokens=0, seconds=0.25, prompt="d1", prefix="d2", request_id="req_1",
        )  # fmt: skip
        bare = Spend(id="a-2", at=1_700_000_000.5, nano=None)
        free = Spend(id="a-3", at=1_700_000_000.5, nano=0)
        assert await ledger.settle("h", [], [bare, full, free]) is True
        again = (await harness.reopen()).ledger("l")
        found = await again.spends()
        assert found == [full, bare, free]
        assert [row.nano for row in found] == [MUCH + 1, None, 0]
        assert all(type(row.nano) is not float for row in found)

    async def test_a_line_is_taken_once_by_its_id(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.settle("h", [], [spend("s"), spend("s")])
        await ledger.settle("i", [], [spend("s", nano=99), spend("t")])
        assert await ledger.spends() == [spend("s"), spend("t")]

    async def test_the_journal_is_read_in_order_by_time_by_tenant_and_in_pages(
        self, harness: Harness
    ) -> None:
        ledger = (await harness.open()).ledger("l")
        rows = [
            evolve(spend(f"{name}{at}", at=float(at)), tenant="even" if at % 2 == 0 else "odd")
            for at in range(10)
            for name in ("B", "a", "b", "é")
        ]
        shuffled = Random(5).sample(rows, len(rows))  # noqa: S311  an order, nothing secret
        for number in range(0, len(rows), 10):
            await ledger.settle(f"h{number}", [], shuffled[number : number + 10])
        assert await ledger.spends() == rows
        assert await ledger.spends(since=3.0, until=5.0) == [row for row in rows if 3.0 <= row.at < 5.0]
        assert await ledger.spends(tenant="odd") == [row for row in rows if row.tenant == "odd"]
        assert await ledger.spends(tenant="nobody") == []
        pages: list[Spend] = []
        while page := await ledger.spends(since=1.0, limit=7, after=pages[-1] if pages else None):
            assert len(page) <= 7
            pages += page
        assert pages == rows[4:]

    async def test_forgetting_leaves_what_is_held(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(6)], 600.0)
        assert await ledger.forget(1e12) == 0
        assert await ledger.holds() == ["h"]
        assert await ledger.settle("h", [draw(5)]) is True
        assert await balance(ledger) == (5, 0)

    async def test_forgetting_drops_old_lines_and_leaves_the_balances(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.settle("h", [draw(3)], [spend("old", 1.0), spend("new", 2.0)])
        assert await ledger.forget(2.0) == 1
        assert await ledger.forget(2.0) == 0
        assert await ledger.spends() == [spend("new", 2.0)]
        assert await balance(ledger) == (3, 0)
