"""The laws of money (M1, M2, M3, M5, M6), over long random lives, against a model that only adds up.

Every store that keeps budgets lives them, through two clients of it, one of which may go at any time.

The model keeps no balance: what is spent and held is summed anew from charges and holds at every step.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from llmpipe.state import Balance, Draw, Spend
from llmpipe.state.memory import ledger as module
from llmpipe.state.memory.ledger import MemoryLedger
from llmpipe.testing.state import ManualClock
from tests.state.stores import OnStore, Store, kept_in

LIMITS = {"day": 50, "month": 120, "all": None}
KEYS = [("day", 0), ("day", 86_400), ("month", 0), ("all", 0)]
names = st.integers(0, 3).map("h{}".format)  # few, so that one is often met again
amounts = st.lists(
    st.tuples(st.sampled_from(KEYS), st.integers(0, 40), st.floats(0, 1)),
    max_size=4,
    unique_by=lambda each: each[0],
)


def draw(key: Any, nano: int, likely: int = 0) -> Draw:
    return Draw(key[0], key[1], nano, LIMITS[key[0]], likely)


class Money(OnStore):
    @initialize(honest=st.booleans())
    def begin(self, honest: bool) -> None:
        self.honest = honest  # whether no settlement is dearer than what is held for it
        self.ledger = self.place.thing("ledger")
        self.lives: Counter[str] = Counter()  # of each name: the settled one never holds again
        self.charged: Counter[Any] = Counter()
        self.dearer: Counter[Any] = Counter()  # by how much settlements were dearer than what was held
        self.holds: dict[str, tuple[float, dict[Any, tuple[int, int]]]] = {}  # end, and (nano, likely) by key
        self.settled: set[str] = set()
        self.rows = self.crowd = 0

    def open(self, name: str) -> bool:
        return name in self.holds and self.holds[name][0] > self.now

    def sums(self, key: Any, without: str = "") -> tuple[int, int]:
        spent, held = self.charged[key], 0
        for name, (_, parts) in self.holds.items():
            nano, likely = parts.get(key, (0, 0))
            if name != without:
                spent, held = (spent, held + nano) if self.open(name) else (spent + likely, held)
        return spent, held

    @rule(name=names, asked=amounts, lease=st.sampled_from([1, 5, 10, 20, 30]))
    def reserve(self, name: str, asked: list[Any], lease: int) -> None:
        name = self.living(name)
        draws = [draw(key, nano, int(nano * share)) for key, nano, share in asked]
        if name in self.settled:
            with pytest.raises(ValueError, match="settled"):
                self.do(self.ledger.reserve(name, draws, self.scaled(lease)))
            return
        had = self.holds.get(name, (0.0, {}))[1]
        whole = {
            key: (max(one.nano, had.get(key, (0, 0))[0]), max(one.likely, had.get(key, (0, 0))[1]))
            for one in draws
            for key in [(one.account, one.period)]
        }
        short = None
        for index, one in enumerate(draws):
            key = (one.account, one.period)
            spent, held = self.sums(key, without=name)
            grows = not self.open(name) or key not in had or one.nano > had[key][0]
            if grows and one.limit is not None and spent + held + whole[key][0] > one.limit:
                short = (index, spent, held)
                break
        found = self.do(self.ledger.reserve(name, draws, self.scaled(lease)))
        assert short == (None if found is None else (found.index, found.spent, found.held))
        if found is None:
            self.holds[name] = (self.now + lease, {**(had if self.open(name) else {}), **whole})

    @precondition(lambda self: self.place.again)
    @rule(key=st.sampled_from(KEYS), asked=st.lists(st.integers(1, 30), min_size=2, max_size=6))
    def several_reserve_at_once(self, key: Any, asked: list[int]) -> None:
        """M1 in any order: who is refused would not fit behind all who are not either."""
        self.crowd += 1
        calls = {f"crowd{self.crowd}.{number}": draw(key, nano) for number, nano in enumerate(asked)}
        work = [self.ledger.reserve(name, [one], self.scaled(10)) for name, one in calls.items()]
        found = dict(zip(calls, self.at_once(work), strict=True))
        for name, one in calls.items():
            if found[name] is None:
                self.holds[name] = (self.now + 10, {key: (one.nano, one.likely)})
        spent, held = self.sums(key)
        for name, one in calls.items():
            if found[name] is not None:
                assert one.limit is not None
                assert spent + held + one.nano > one.limit

    @rule(name=names, costs=amounts)
    def settle(self, name: str, costs: list[Any]) -> None:
        name = self.living(name)
        was_open, (_, parts) = self.open(name), self.holds.get(name, (0.0, {}))
        charges = []
        for key, cost, _ in costs:
            backing = parts.get(key, (0, 0))[0 if was_open else 1]
            charges.append(draw(key, min(cost, backing) if self.honest else cost))
            if name not in self.settled:
                self.dearer[key] += max(0, charges[-1].nano - backing)
        rows = [self.row(one.nano) for one in charges]
        assert self.do(self.ledger.settle(name, charges, rows)) == (name not in self.settled)
        if name not in self.settled:
            self.settled.add(name)
            self.holds.pop(name, None)
            self.charged.update({(one.account, one.period): one.nano for one in charges})

    def row(self, nano: int) -> Spend:
        self.rows += 1
        return Spend(id=f"s{self.rows}", at=float(self.rows), nano=nano)

    def living(self, name: str) -> str:
        return f"{name}.{self.lives[name]}"

    @rule(name=names)
    def begin_again(self, name: str) -> None:
        """Another call: those that are settled can only be settled once more."""
        self.lives[name] += self.living(name) in self.settled

    @precondition(lambda self: self.place.again)
    @rule(number=st.integers(0, 1))
    def one_client_goes_and_another_comes(self, number: int) -> None:
        self.place.replace(number)

    @rule(seconds=st.sampled_from([1, 4, 5, 10, 20]))
    def pass_time(self, seconds: int) -> None:
        before = {name for name in self.holds if self.open(name)}
        self.let_pass(seconds)
        assert self.do(self.ledger.sweep()) == len([name for name in before if not self.open(name)])

    @invariant()
    def balances_are_what_was_charged_and_held_and_whole_numbers(self) -> None:
        found = self.do(self.ledger.balances(KEYS))
        assert found == [Balance(*self.sums(key)) for key in KEYS]
        assert all(type(one.spent) is int and type(one.held) is int for one in found)  # M6
        assert self.do(self.ledger.holds()) == sorted(name for name in self.holds if self.open(name))

    @invariant()
    def no_limit_is_passed_but_by_what_settlements_were_dearer(self) -> None:
        """M1, and M3 where a settlement may be dearer than its hold."""
        for (account, period), found in zip(KEYS, self.do(self.ledger.balances(KEYS)), strict=True):
            limit = LIMITS[account]
            if limit is not None:
                over = self.dearer[account, period]
                assert over == 0 or not self.honest
                assert found.spent + found.held <= limit + over
                assert min(found.spent, found.held) >= 0

    @invariant()
    def the_journal_adds_up_to_what_was_charged(self) -> None:
        """M5."""
        total = sum(row.nano or 0 for row in self.do(self.ledger.spends(limit=10_000)))
        assert total == self.charged.total()


@kept_in("memory", "sqlite", "redis", "postgresql")
def test_money_keeps_its_laws(store: Store) -> None:
    store.check(Money)


# ------------------------------------------------------------ bounds of the memory ledger


async def reserve_and_settle(ledger: MemoryLedger, name: str, seconds: float = 600.0) -> None:
    await ledger.reserve(name, [Draw("a", 0, 5, likely=1)], seconds)
    await ledger.settle(name, [Draw("a", 0, 3)])


async def test_what_is_settled_leaves_no_timer_and_is_forgotten_after_a_day():
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    for number in range(5000):
        await reserve_and_settle(ledger, f"h{number}")
    assert len(ledger._leases) <= 65
    assert not ledger._holds
    assert len(ledger._settled) == 5000
    clock.now += 86_400.0 + 1
    await ledger.sweep()
    assert not ledger._settled


async def test_a_hold_that_nobody_settles_is_settled_a_day_after_it_expired():
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    await ledger.reserve("h", [Draw("a", 0, 5, likely=2)], 60.0)
    clock.now += 60.0
    assert await ledger.sweep() == 1
    clock.now += 86_399.0
    assert "h" in ledger._holds
    clock.now += 1.0
    assert await ledger.sweep() == 0
    assert not ledger._holds
    assert await ledger.settle("h", [Draw("a", 0, 4)]) is False
    assert await ledger.balances([("a", 0)]) == [Balance(2, 0)]


async def test_the_journal_keeps_its_last_lines(monkeypatch):
    monkeypatch.setattr(module, "_MAX_LINES", 50)
    ledger = MemoryLedger(ManualClock())
    for number in range(1200):
        await ledger.settle(f"h{number}", [], [Spend(id=f"s{number}", at=float(number), nano=1)])
    rows = await ledger.spends(limit=10_000)
    assert 50 <= len(rows) <= 1050
    assert rows[-1].id == "s1199"
    assert [row.at for row in rows] == [float(1200 - len(rows) + place) for place in range(len(rows))]


async def test_balances_go_a_week_after_their_period_and_those_that_hold_stay():
    clock = ManualClock()
    ledger = MemoryLedger(clock)
    day = 86_400
    await ledger.reserve("h", [Draw("held", 0, 5, ends=float(day))], 100.0 * day)
    for number in range(1000):
        await ledger.settle(f"s{number}", [Draw(f"a{number}", 0, 1, ends=float(day))])
    await ledger.settle("for ever", [Draw("total", 0, 7)])
    clock.now += 8 * day + 1
    for number in range(100):
        await ledger.settle(f"t{number}", [Draw(f"b{number}", 8 * day, 1, ends=9.0 * day)])
    assert len(ledger._sums) <= 200
    found = await ledger.balances([("held", 0), ("total", 0), ("a0", 0), ("b0", 8 * day)])
    assert found == [Balance(0, 5), Balance(7), Balance(), Balance(1)]


async def test_many_calls_under_way_cost_little_more_than_few():
    random, clock = Random(1), ManualClock()
    ledger = MemoryLedger(clock)
    for number in range(20_000):
        clock.now += 0.01
        await ledger.reserve(f"h{number}", [Draw("a", 0, 1)], random.choice([1.0, 600.0]))
        if number % 2:
            await ledger.settle(f"h{number}", [])
    assert len(ledger._leases) <= 64 + 2 * len(ledger._holds)
