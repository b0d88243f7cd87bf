# ruff: noqa: D102, D103  a test's name is its sentence, and a helper's its meaning
"""What becomes of holds whose lease ends: part of the ledger's suite."""

from __future__ import annotations

from math import isnan

import pytest

from llmpipe.state import Balance, Draw, Ledger, Shortage, Spend
from llmpipe.testing.state.harness import Harness, fill

__all__ = ("KEY", "LeaseTests", "MUCH", "balance", "draw", "spend")

KEY = ("day", 0)
MUCH = 2**52  # nano-USD; 4.5 million USD


def draw(
    nano: int, limit: int | None = 10, *, account: str = "day", likely: int = 0, period: int = 0
) -> Draw:
    return Draw(account, period, nano, limit, likely)


async def balance(ledger: Ledger, account: str = "day", period: int = 0) -> tuple[int, int]:
    (found,) = await ledger.balances([(account, period)])
    return found.spent, found.held


def spend(name: str, at: float = 1.0, nano: int | None = 3) -> Spend:
    return Spend(id=name, at=at, nano=nano)


class LeaseTests:
    """Expiry, late settlement, and holds that open again."""

    async def test_a_lease_that_ends_charges_what_is_likely_and_frees_the_rest(
        self, harness: Harness
    ) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(8, likely=2), draw(4, account="b")], 60.0)
        await ledger.reserve("i", [draw(1)], 600.0)
        await harness.pass_time(50.0)
        assert await ledger.sweep() == 0
        await harness.pass_time(15.0)
        assert await ledger.holds() == ["i"]
        await ledger.sweep()
        assert await ledger.balances([KEY, ("b", 0)]) == [Balance(2, 1), Balance(0, 0)]
        assert await ledger.sweep() == 0

    async def test_a_sweep_says_how_many_leases_had_ended(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        for number in range(5):
            await ledger.reserve(f"h{number}", [draw(1)], 60.0 if number < 3 else 600.0)
        await harness.pass_time(100.0)
        assert await ledger.sweep() == 3
        assert await ledger.sweep() == 0

    async def test_reserving_expires_what_stands_in_its_way(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(10, likely=3)], 60.0)
        await harness.pass_time(100.0)
        assert await ledger.reserve("i", [draw(8)], 60.0) == Shortage(0, 3, 0)
        assert await ledger.reserve("i", [draw(7)], 60.0) is None
        assert await balance(ledger) == (3, 7)

    async def test_a_late_settlement_corrects_what_was_likely_by_the_difference(
        self, harness: Harness
    ) -> None:
        ledger = (await harness.open()).ledger("l")
        for name, actual in (("less", 1), ("more", 9), ("none", 0)):
            await ledger.reserve(name, [draw(10, likely=3, account=name)], 60.0)
            await harness.pass_time(100.0)
            await ledger.sweep()
            assert await balance(ledger, name) == (3, 0)
            assert await ledger.settle(name, [draw(actual, account=name)] if actual else []) is True
            assert await balance(ledger, name) == (actual, 0)
            assert await ledger.settle(name, [draw(5, account=name)]) is False
            assert await balance(ledger, name) == (actual, 0)

    async def test_a_late_settlement_is_right_though_nobody_had_swept(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(10, likely=3)], 60.0)
        await harness.pass_time(100.0)
        assert await ledger.settle("h", [draw(4)]) is True
        assert await ledger.sweep() == 0
        assert await balance(ledger) == (4, 0)

    async def test_an_expired_hold_opens_again_and_its_likely_charge_is_taken_back(
        self, harness: Harness
    ) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(6, likely=3)], 60.0)
        await harness.pass_time(100.0)
        await ledger.sweep()
        await ledger.settle("i", [draw(5)])
        assert await ledger.reserve("h", [draw(6, likely=3)], 60.0) == Shortage(0, 5, 0)
        assert await balance(ledger) == (8, 0)
        assert await ledger.reserve("h", [draw(6, 11, likely=3)], 60.0) is None
        assert await balance(ledger) == (5, 6)
        assert await ledger.holds() == ["h"]
        await harness.pass_time(100.0)
        assert await ledger.sweep() == 1
        assert await balance(ledger) == (8, 0)

    async def test_a_hold_that_opens_again_holds_what_is_asked_now_and_nothing_besides(
        self, harness: Harness
    ) -> None:
        ledger = (await harness.open()).ledger("l")
        await ledger.reserve("h", [draw(8, likely=2), draw(1, account="b")], 60.0)
        await harness.pass_time(100.0)
        assert await ledger.reserve("i", [draw(8)], 600.0) is None  # in the room that it has left
        assert await ledger.reserve("h", [draw(1, account="b")], 60.0) is None
        spent, held = await balance(ledger)
        assert spent + held <= 10
        assert (spent, held) == (0, 8)
        assert await ledger.settle("h", [draw(2), draw(1, account="b")]) is True
        assert await ledger.balances([KEY, ("b", 0)]) == [Balance(2, 8), Balance(1, 0)]

    async def test_hundreds_of_leases_that_end_at_once_make_room_at_once(self, harness: Harness) -> None:
        ledger = (await harness.open()).ledger("l")
        await fill(700, lambda number: ledger.reserve(f"h{number}", [draw(1, 700)], 60.0))
        assert await ledger.reserve("more", [draw(1, 700)], 60.0) == Shortage(0, 0, 700)
        await harness.pass_time(100.0)
        assert await ledger.reserve("more", [draw(700, 700)], 60.0) is None
        assert await ledger.holds() == ["more"]

    async def test_settling_beside_a_sweep_charges_each_hold_once(self, harness: Harness) -> None:
        sides = [(await harness.open()).ledger("l"), (await harness.reopen()).ledger("l")]
        await fill(60, lambda number: sides[0].reserve(f"h{number}", [draw(8, None, likely=5)], 60.0))
        await harness.pass_time(100.0)

        async def work(number: int) -> int:
            side = sides[number % 2]
            if number % 3 == 0:
                return await side.sweep()
            return int(await side.settle(f"h{number // 3}", [draw(3)], [spend(f"s{number // 3}")]))

        await fill(180, work)
        await sides[0].sweep()
        assert await balance(sides[1]) == (60 * 3, 0)
        assert len(await sides[0].spends()) == 60

    async def test_one_hold_that_two_grow_at_once_holds_the_larger(self, harness: Harness) -> None:
        sides = [(await harness.open()).ledger("l"), (await harness.reopen()).ledger("l")]
        await fill(
            40, lambda n: sides[n % 2].reserve("h", [draw(n % 10, 9), draw(1, account=f"b{n % 2}")], 60.0)
        )
        assert await balance(sides[0]) == (0, 9)
        assert await balance(sides[1], "b1") == (0, 1)
        await sides[0].settle("h", [])
        assert await balance(sides[1]) == await balance(sides[1], "b0") == (0, 0)

    async def test_forgetting_beside_settlements_loses_no_money(self, harness: Harness) -> None:
        sides = [(await harness.open()).ledger("l"), (await harness.reopen()).ledger("l")]

        async def work(number: int) -> None:
            side = sides[number % 2]
            if number % 5 == 0:
                await side.forget(50.0)
            await side.reserve(f"h{number}", [draw(4, None)], 60.0)
            await side.settle(f"h{number}", [draw(3)], [spend(f"s{number:03}", float(number))])

        await fill(100, work)
        await sides[0].forget(50.0)
        assert await balance(sides[1]) == (300, 0)
        assert [row.id for row in await sides[1].spends()] == [f"s{number:03}" for number in range(50, 100)]

    @pytest.mark.parametrize("lease", [float("nan"), 0.0, -5.0, 1e9, float("inf")])
    async def test_a_lease_is_any_time_but_no_nonsense(self, harness: Harness, lease: float) -> None:
        ledger = (await harness.open()).ledger("l")
        if isnan(lease):
            with pytest.raises(ValueError, match="lease"):
                await ledger.reserve("h", [draw(8)], lease)
        else:
            assert await ledger.reserve("h", [draw(8, likely=1)], lease) is None
        assert await ledger.holds() == (["h"] if lease > 0 else [])
        await ledger.sweep()
        assert await balance(ledger) == {0.0: (1, 0), -5.0: (1, 0)}.get(lease, (0, 8 if lease > 0 else 0))

    @pytest.mark.parametrize("nano", [-1, 2**63, 1.5, float("nan")])
    async def test_money_that_is_none_is_refused_and_nothing_is_held(
        self, harness: Harness, nano: int
    ) -> None:
        ledger = (await harness.open()).ledger("l")
        with pytest.raises(ValueError, match="nano"):
            await ledger.reserve("h", [draw(1), draw(nano, None, account="b")], 60.0)
        charge = -(2**63) if nano == -1 else nano  # a charge may be below 0, as far as a store keeps it
        with pytest.raises(ValueError, match="nano"):
            await ledger.settle("h", [draw(1), draw(charge, account="b")])
        with pytest.raises(ValueError, match="s1"):
            await ledger.settle("h", [draw(1)], [spend("s0"), spend("s1", float("nan"))])
        assert await balance(ledger) == (0, 0)
        assert await ledger.settle("h", [draw(1)], [spend("s0")]) is True
