# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What every ledger keeps to: sentences of the contract, and holds under concurrency."""

from __future__ import annotations

import asyncio

import pytest
from attrs import evolve

from llmpipe.state import Balance, Shortage
from llmpipe.testing.state.harness import NAMES, Harness, fill
from llmpipe.testing.state.ledger_journal import JournalTests
from llmpipe.testing.state.ledger_leases import KEY, MUCH, LeaseTests, balance, draw, spend
from llmpipe.testing.state.ledger_script import LedgerScript

__all__ = ("LedgerSuite",)


class LedgerSuite(LeaseTests, JournalTests):
    """The ledger: holds, settlements, balances and the journal."""

    pytestmark = pytest.mark.asyncio

    # ------------------------------------------------------------ to hold

    async def test_what_nobody_has_drawn_on_is_zero(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        assert await ledger.balances([KEY, ("other", 5)]) == [Balance(0, 0), Balance(0, 0)]
        assert await ledger.balances([]) == []
        assert await ledger.holds() == []
        assert await ledger.spends() == []

    async def test_a_hold_takes_its_limit_to_the_last_nano_and_no_further(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        assert await ledger.reserve("a", [draw(4)], 60.0) is None
        assert await ledger.reserve("b", [draw(7)], 60.0) == Shortage(0, 0, 4)
        assert await ledger.reserve("b", [draw(6)], 60.0) is None
        assert await ledger.reserve("c", [draw(1)], 60.0) == Shortage(0, 0, 10)
        assert await ledger.reserve("c", [draw(0)], 60.0) is None
        assert await balance(ledger) == (0, 10)
        assert await ledger.holds() == ["a", "b", "c"]

    async def test_all_draws_are_held_or_none_and_the_first_that_lacks_is_named(
        self, harness: Harness
    ) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.settle("before", [draw(5, account="b"), draw(9, account="c")])
        asked = [draw(1, account="a"), draw(6, account="b"), draw(6, account="c"), draw(1, None, account="d")]
        assert await ledger.reserve("h", asked, 60.0) == Shortage(1, 5, 0)
        assert await ledger.balances([("a", 0), ("b", 0), ("c", 0), ("d", 0)]) == [
            Balance(),
            Balance(5),
            Balance(9),
            Balance(),
        ]
        assert await ledger.holds() == []

    async def test_a_draw_without_a_limit_only_counts(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        assert await ledger.reserve("h", [draw(MUCH, None)], 60.0) is None
        assert await balance(ledger) == (0, MUCH)

    async def test_a_limit_of_nothing_lets_nothing_through(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        assert await ledger.reserve("h", [draw(1, 0)], 60.0) == Shortage(0, 0, 0)
        assert await ledger.reserve("h", [draw(0, 0)], 60.0) is None

    async def test_the_limit_is_that_of_the_draw_as_it_comes(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        assert await ledger.reserve("a", [draw(10, 10)], 60.0) is None
        assert await ledger.reserve("b", [draw(5, 15)], 60.0) is None
        assert await ledger.reserve("c", [draw(1, 12)], 60.0) == Shortage(0, 0, 15)

    async def test_periods_and_accounts_are_budgets_of_their_own(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        for number, account in enumerate(NAMES):
            assert await ledger.reserve(f"h{number}", [draw(number + 1, account=account)], 60.0) is None
            assert await ledger.reserve(f"g{number}", [draw(9, account=account, period=86_400)], 60.0) is None
        keys = [(account, period) for account in NAMES for period in (0, 86_400)]
        wanted = [Balance(0, held) for number in range(len(NAMES)) for held in (number + 1, 9)]
        assert await ledger.balances(keys) == wanted

    async def test_holds_are_named_in_the_order_of_their_code_points(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        for name in NAMES:
            await ledger.reserve(name, [draw(1, None)], 60.0)
        assert await ledger.holds() == sorted(NAMES)

    # ------------------------------------------------------------ to hold more

    async def test_the_same_hold_twice_is_the_same_as_once(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        for _ in range(3):
            assert await ledger.reserve("h", [draw(8, likely=5)], 60.0) is None
            assert await balance(ledger) == (0, 8)

    async def test_the_same_hold_fits_again_though_another_has_spent_more_than_it_held(
        self, harness: Harness
    ) -> None:
        ledger = (await harness.open()).ledger("l")
        assert await ledger.reserve("h", [draw(6)], 60.0) is None
        await ledger.settle("dear", [draw(9)])
        assert await ledger.reserve("h", [draw(6)], 60.0) is None
        assert await ledger.reserve("h", [draw(7)], 60.0) == Shortage(0, 9, 0)
        assert await balance(ledger) == (9, 6)

    async def test_a_hold_grows_to_the_whole_that_is_asked_and_never_shrinks(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(3)], 60.0)
        assert await ledger.reserve("h", [draw(8), draw(2, account="new")], 60.0) is None
        assert await balance(ledger) == (0, 8)
        assert await ledger.reserve("h", [draw(1)], 60.0) is None
        assert await ledger.balances([KEY, ("new", 0)]) == [Balance(0, 8), Balance(0, 2)]
        assert await ledger.reserve("h", [draw(11)], 60.0) == Shortage(0, 0, 0)
        assert await balance(ledger) == (0, 8)

    async def test_a_hold_begins_its_lease_anew_when_it_is_asked_again(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(3)], 60.0)
        await harness.pass_time(40.0)
        await ledger.reserve("h", [draw(3)], 60.0)
        await harness.pass_time(40.0)
        assert await ledger.sweep() == 0
        assert await ledger.holds() == ["h"]
        await harness.pass_time(40.0)
        assert await ledger.holds() == []

    async def test_growth_that_is_refused_changes_nothing_and_not_the_lease(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(3), draw(1, account="b")], 60.0)
        await harness.pass_time(40.0)
        asked = [draw(4), draw(11, account="b"), draw(1, account="c")]
        assert await ledger.reserve("h", asked, 60.0) == Shortage(1, 0, 0)
        assert await ledger.balances([KEY, ("b", 0), ("c", 0)]) == [Balance(0, 3), Balance(0, 1), Balance()]
        await harness.pass_time(40.0)
        assert await ledger.sweep() == 1

    # ------------------------------------------------------------ to settle

    async def test_settling_charges_what_was_spent_and_frees_the_rest(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(8), draw(5, account="b")], 60.0)
        assert await ledger.settle("h", [draw(3)]) is True
        assert await ledger.balances([KEY, ("b", 0)]) == [Balance(3, 0), Balance(0, 0)]
        assert await ledger.holds() == []
        assert await ledger.reserve("i", [draw(7)], 60.0) is None

    async def test_settling_twice_is_settling_once(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(8)], 60.0)
        assert await ledger.settle("h", [draw(3)], [spend("s")]) is True
        await harness.pass_time(600.0)
        assert await ledger.settle("h", [draw(4)], [spend("t")]) is False
        assert await balance(ledger) == (3, 0)
        assert await ledger.spends() == [spend("s")]

    async def test_a_settled_hold_cannot_be_held_again(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(8)], 60.0)
        await ledger.settle("h", [])
        with pytest.raises(ValueError, match="settled"):
            await ledger.reserve("h", [draw(1)], 60.0)
        assert await balance(ledger) == (0, 0)

    async def test_money_is_charged_without_a_hold_or_beyond_it(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        assert await ledger.settle("unknown", [draw(25, limit=1)]) is True
        assert await ledger.settle("unknown", [draw(25)]) is False
        await ledger.reserve("h", [draw(1, account="b")], 60.0)
        assert await ledger.settle("h", [draw(70, account="b"), draw(7, account="c")]) is True
        wanted = [Balance(25), Balance(70), Balance(7)]
        assert await ledger.balances([KEY, ("b", 0), ("c", 0)]) == wanted
        assert await ledger.reserve("i", [draw(1)], 60.0) == Shortage(0, 25, 0)

    async def test_charges_of_one_budget_add_up(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.settle("h", [draw(2), draw(3), draw(0)])
        assert await balance(ledger) == (5, 0)

    async def test_a_refund_takes_back_what_was_charged_and_makes_room(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.settle("h", [draw(8), draw(3, account="b")])
        for done in (True, False):
            charges, line = [draw(-5), draw(2, account="b")], evolve(spend("s"), nano=-5)
            assert await ledger.settle("back", charges, [line]) is done
            assert await ledger.balances([KEY, ("b", 0)]) == [Balance(3), Balance(5)]
        assert [row.nano for row in await ledger.spends()] == [-5]
        assert await ledger.reserve("i", [draw(8)], 60.0) == Shortage(0, 3, 0)
        assert await ledger.reserve("i", [draw(7)], 60.0) is None

    async def test_millions_are_kept_to_the_nano(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(MUCH + 1, 2 * MUCH)], 60.0)
        assert await balance(ledger) == (0, MUCH + 1)
        await ledger.settle("h", [draw(MUCH - 1)])
        await ledger.settle("g", [draw(1)])
        assert await balance(ledger) == (MUCH, 0)

    # ------------------------------------------------------------ side by side, and beside a model

    async def test_another_process_sees_the_same(self, harness: Harness) -> None:
        one = (await harness.open()).ledger("l")
        other = (await harness.reopen()).ledger("l")
        await one.reserve("h", [draw(6)], 60.0)
        assert await other.reserve("i", [draw(6)], 60.0) == Shortage(0, 0, 6)
        assert await other.holds() == ["h"]
        assert await other.settle("h", [draw(1)]) is True
        assert await one.settle("h", [draw(1)]) is False
        assert await balance(one) == (1, 0)

    async def test_a_thousand_side_by_side_on_room_for_ten_are_ten(self, harness: Harness) -> None:
        sides = [(await harness.open()).ledger("l"), (await harness.reopen()).ledger("l")]
        over = asyncio.Event()
        seen: list[tuple[int, int]] = []

        async def watch() -> None:
            while not over.is_set():
                seen.append(await balance(sides[0]))
                await asyncio.sleep(0)

        async def ask(number: int) -> bool:
            asked = [draw(7, 70), draw(1, None, account=f"of{number % 3}")]
            return await sides[number % 2].reserve(f"h{number}", asked, 600.0) is None

        watcher = asyncio.ensure_future(watch())
        admitted = await fill(1000, ask)
        over.set()
        await watcher
        assert sum(admitted) == 10
        assert await balance(sides[0]) == (0, 70)
        assert all(spent + held <= 70 for spent, held in seen)
        assert await sides[0].holds() == sorted(f"h{n}" for n, held in enumerate(admitted) if held)
        counted = await sides[1].balances([(f"of{number}", 0) for number in range(3)])
        assert sum(each.held for each in counted) == 10

    async def test_a_hold_settled_by_many_at_once_is_charged_once(self, harness: Harness) -> None:
        sides = [(await harness.open()).ledger("l"), (await harness.reopen()).ledger("l")]
        await sides[0].reserve("h", [draw(5)], 600.0)
        done = await fill(50, lambda n: sides[n % 2].settle("h", [draw(4)], [spend(f"s{n}")]))
        assert sum(done) == 1
        assert await balance(sides[0]) == (4, 0)
        assert [row.id for row in await sides[0].spends()] == [f"s{done.index(True)}"]

    async def test_the_journal_adds_up_to_what_is_spent_whatever_runs_beside_it(
        self, harness: Harness
    ) -> None:
        sides = [(await harness.open()).ledger("l"), (await harness.reopen()).ledger("l")]

        async def call(number: int) -> bool:
            ledger, name = sides[number % 2], f"h{number}"
            if await ledger.reserve(name, [draw(9, 90), draw(9, None, account="all")], 600.0) is not None:
                return False
            await asyncio.sleep(0)
            cost = number % 10
            charges = [draw(cost), draw(cost, account="all")]
            return await ledger.settle(name, charges, [spend(name, float(number), cost)])

        done = await fill(200, call)
        rows = await sides[0].spends()
        total = sum(row.nano or 0 for row in rows)
        assert {row.id for row in rows} == {f"h{number}" for number, ran in enumerate(done) if ran}
        assert await sides[1].balances([KEY, ("all", 0)]) == [Balance(total), Balance(total)]
        assert total <= 90

    @pytest.mark.parametrize("seed", range(12))
    async def test_a_random_life_goes_as_in_the_model(self, harness: Harness, seed: int) -> None:
        await LedgerScript(harness, seed).run(120)
