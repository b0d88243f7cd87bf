"""The laws of limits (RL1 to RL5, RL7; C1 and C2 of slots), against a bucket that is counted and not timed.

Every store that keeps limits is held to them, through two clients of it, one of which may go at any time.
"""

from __future__ import annotations

import time
from fractions import Fraction
from math import floor
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from llmpipe.state import Ask
from llmpipe.state.gcra import arrival, level, wait
from llmpipe.state.memory.limits import MemoryLimits
from llmpipe.testing.state import ManualClock
from tests.state.stores import EPSILON, OnStore, Store, kept_in

SECONDS = {"minute": 8, "hour": 32, "small": 2}  # for a unit to flow in; powers of two are exact as floats
BURST = {"minute": 5, "hour": 10, "small": 1}
SLOTS = {"few": 2, "many": 5}
names = st.integers(0, 3).map("t{}".format)  # few, so that one is often met again
asks = st.dictionaries(st.sampled_from([*SECONDS, *SLOTS]), st.integers(0, 4), min_size=1, max_size=4)


def ask(key: str, amount: float, scale: float = 1.0) -> Ask:
    if key in SLOTS:
        return Ask(key, float(amount), float(SLOTS[key]))
    burst = float(BURST[key])
    return Ask(key, float(amount), burst, burst * SECONDS[key] * scale, burst)


class Rates(OnStore):
    """RL1 to RL4: a bucket is a number of units, which flows in; a slot is held by a ticket that lives."""

    @initialize()
    def begin(self) -> None:
        self.limits = self.place.thing("limits")
        self.units = {key: Fraction(burst) for key, burst in BURST.items()}
        self.tickets: dict[str, tuple[float, dict[str, int]]] = {}
        self.granted: list[tuple[float, str, int]] = []
        self.crowd = 0
        self.settled: set[str] = set()  # keys that were corrected: for those RL1 counts other amounts

    def take(self, name: str, asked: dict[str, int], lease: float) -> Any:
        asks = [ask(*each, self.place.scale) for each in asked.items()]
        return self.do(self.limits.take(name, asks, self.scaled(lease)))

    def held(self, key: str) -> int:
        return sum(taken.get(key, 0) for ends, taken in self.tickets.values() if ends > self.now)

    def seconds_until(self, asked: dict[str, int]) -> Fraction | None:
        """How long until all is there; None where nobody knows."""
        longest = Fraction(0)
        for key, amount in asked.items():
            if key in SLOTS:
                if self.held(key) + amount > SLOTS[key]:
                    return None
            else:
                longest = max(longest, (min(amount, BURST[key]) - self.units[key]) * SECONDS[key])
        return longest

    def taken(self, name: str, asked: dict[str, int], lease: float) -> None:
        self.tickets[name] = (self.now + lease, asked)
        for key in asked.keys() & self.units:
            self.units[key] -= asked[key]
            self.granted.append((self.now, key, asked[key]))

    def check_the_hint(self, told: float | None, seconds: Fraction | None) -> None:
        """RL3. The store's time may have gone on a little."""
        if seconds is None or told is None:
            assert told is None
            assert seconds is None
        else:
            wait = told / self.place.scale
            assert float(seconds) - self.place.late() <= wait <= float(seconds) + EPSILON

    @rule(name=names, asked=asks, lease=st.sampled_from([1, 8, 40, 200]))
    def somebody_asks(self, name: str, asked: dict[str, int], lease: int) -> None:
        known = name in self.tickets and self.tickets[name][0] > self.now
        seconds = Fraction(0) if known else self.seconds_until(asked)
        found = self.take(name, asked, lease)
        assert (found.refused is None) == (seconds == 0)  # RL2
        if known:
            self.tickets[name] = (self.now + lease, self.tickets[name][1])
        elif seconds == 0:
            self.taken(name, asked, lease)
        else:  # RL4: the model's units stay, and the store's are compared with them
            self.check_the_hint(found.retry_after, seconds)

    @precondition(lambda self: self.place.again)
    @rule(key=st.sampled_from([*SECONDS, *SLOTS]), count=st.integers(2, 8))
    def several_ask_at_once(self, key: str, count: int) -> None:
        """RL1, RL2, C1: as many are granted one unit as there are, whoever it is."""
        self.crowd += 1
        calls = [f"crowd{self.crowd}.{number}" for number in range(count)]
        asked = [ask(key, 1, self.place.scale)]
        found = self.at_once(self.limits.take(name, asked, self.scaled(15)) for name in calls)
        there = SLOTS[key] - self.held(key) if key in SLOTS else max(0, floor(self.units[key]))
        granted = [name for name, taken in zip(calls, found, strict=True) if taken.refused is None]
        assert len(granted) == min(count, there)
        for name in granted:
            self.taken(name, {key: 1}, 15)

    @rule(name=names, used=st.dictionaries(st.sampled_from([*SECONDS, "unknown", "few"]), st.integers(0, 6)))
    def settle(self, name: str, used: dict[str, int]) -> None:
        ends, taken = self.tickets.pop(name, (0.0, {}))
        assert self.do(self.limits.settle(name, used)) == (ends > self.now)
        if ends > self.now:
            for key in used.keys() & taken.keys() & self.units.keys():
                self.units[key] = min(Fraction(BURST[key]), self.units[key] + taken[key] - used[key])
                self.settled.add(key)

    @rule(seconds=st.sampled_from([1, 2, 7, 8, 32, 70]))
    def pass_time(self, seconds: int) -> None:
        self.let_pass(seconds)
        for key, unit in SECONDS.items():
            self.units[key] = min(Fraction(BURST[key]), self.units[key] + Fraction(seconds, unit))

    @rule(asked=asks)
    def wait_as_told(self, asked: dict[str, int]) -> None:
        """RL3: at the time that is told it is granted, a moment before it is not."""
        began, seconds = self.now, self.seconds_until(asked)
        moment = 0.001 + 2 * self.place.late()
        found = self.take("waits", asked, moment)
        assert (found.refused is None) == (seconds == 0)
        if seconds is None:
            return
        if seconds:
            self.check_the_hint(found.retry_after, seconds)
            self.place.move(began + float(seconds) - moment)
            assert self.take("waits", asked, moment).refused is not None
            self.place.move(began)
            self.pass_time(int(seconds))
            assert self.take("waits", asked, moment).refused is None
        self.taken("waits", asked, moment)
        self.pass_time(1)

    @rule(keys=st.lists(st.sampled_from([*SECONDS, *SLOTS]), max_size=2))
    def reset(self, keys: list[str]) -> None:
        self.do(self.limits.reset(keys))
        for key in keys:
            if key in BURST:
                self.units[key] = Fraction(BURST[key])
                self.settled.add(key)
            for _, taken in self.tickets.values():
                taken.pop(key, None)

    @precondition(lambda self: self.place.again)
    @rule(number=st.integers(0, 1))
    def one_client_goes_and_another_comes(self, number: int) -> None:
        self.place.replace(number)

    @invariant()
    def levels_are_those_of_the_model(self) -> None:
        """C2: what is held and what is free are all there is, at every step."""
        every = [*SECONDS, *SLOTS]
        asks = [ask(key, 9, self.place.scale) for key in every]
        for key, found in zip(every, self.do(self.limits.levels(asks)), strict=True):
            if key in SLOTS:
                assert found.remaining == SLOTS[key] - self.held(key) >= 0  # C1
                assert found.reset == 0.0
                continue
            left, late = float(self.units[key]), self.place.late()
            assert left - EPSILON <= found.remaining <= left + late / SECONDS[key]
            assert found.remaining <= BURST[key]  # RL4: never fuller than full
            lacking = (BURST[key] - left) * SECONDS[key]
            assert lacking - late <= found.reset / self.place.scale <= lacking + EPSILON

    @invariant()
    def in_any_window_no_more_was_granted_than_the_burst_and_what_flows_in(self) -> None:
        """RL1, from the log of what was granted alone."""
        for key in SECONDS.keys() - self.settled:
            log = [(at, amount) for at, of, amount in self.granted if of == key]
            for first, (began, _) in enumerate(log):
                total = 0
                for at, amount in log[first:]:
                    total += amount
                    # What one ask takes above the burst is a debt: it is granted once, at a full bucket.
                    above = max(0, amount - BURST[key])
                    assert total - above <= BURST[key] + (at - began) / SECONDS[key] + EPSILON


@kept_in("memory", "sqlite", "redis", "postgresql")
def test_limits_keep_their_laws(store: Store) -> None:
    store.check(Rates)


@given(
    st.floats(0.001, 1e6), st.floats(0.001, 1e6), st.floats(0.01, 1e4), st.floats(0, 2e9),
    st.lists(st.tuples(st.floats(0, 2e4), st.floats(0, 1e5)), max_size=20),
)  # fmt: skip
def test_whoever_waits_as_long_as_told_is_granted_whatever_the_numbers(limit, period, burst, began, script):
    tat = at = began
    for amount, pause in script:
        at += pause
        one = Ask("k", amount, limit, period, burst)
        at += wait(one, tat, at)
        assert wait(one, tat, at) == 0.0
        assert (
            level(one, tat, at).remaining >= min(amount, burst) - 1e-6 * burst - at * 1e-14 * limit / period
        )
        tat = arrival(one, tat, at)
        assert level(one, tat, at).remaining <= burst
        assert tat >= at


async def test_a_clock_on_the_wall_that_jumps_changes_nothing(monkeypatch):
    def jumping() -> float:
        raise AssertionError("limits asked the clock on the wall")

    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, jumping)
    limits = MemoryLimits(ManualClock())
    assert (await limits.take("a", [ask("minute", 5), ask("few", 2)], 60.0)).refused is None
    assert (await limits.take("b", [ask("minute", 1)], 60.0)).refused == 0


async def test_memory_is_that_of_the_keys_that_are_in_use():
    clock = ManualClock()
    limits = MemoryLimits(clock)
    for number in range(20_000):
        clock.now += 1.0
        key = f"user{number}"
        asked: list[Any] = [Ask(key, 1.0, 10.0, 600.0, 10.0), Ask("s" + key, 1.0, 1.0)]
        assert (await limits.take(f"t{number}", asked, 30.0)).refused is None
        if number % 3:
            await limits.settle(f"t{number}", {key: 0.0})
    assert len(limits._arrivals) <= 1100
    assert len(limits._held) <= 31
    assert len(limits._tickets) <= 31
    assert len(limits._leases) <= 64 + 2 * 31
