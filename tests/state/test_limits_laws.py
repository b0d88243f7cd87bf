"""The laws of limits (RL1 to RL5, RL7), against a token bucket that is counted and not timed."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmpipe.state import Ask
from llmpipe.state.gcra import arrival, level, wait
from llmpipe.state.memory.limits import MemoryLimits
from llmpipe.testing.state import ManualClock
from tests.state.steps import now

SECONDS = {"minute": 8, "hour": 32, "small": 2}  # for a unit to flow in; powers of two are exact as floats
BURST = {"minute": 5, "hour": 10, "small": 1}
SLOTS = {"few": 2, "many": 5}
names = st.integers(0, 7).map("t{}".format)
asks = st.dictionaries(st.sampled_from([*SECONDS, *SLOTS]), st.integers(0, 4), min_size=1, max_size=4)


def ask(key: str, amount: float) -> Ask:
    if key in SLOTS:
        return Ask(key, float(amount), float(SLOTS[key]))
    return Ask(key, float(amount), float(BURST[key]), float(BURST[key] * SECONDS[key]), float(BURST[key]))


class Rates(RuleBasedStateMachine):
    """RL1 to RL4: a bucket is a number of units, which flows in; a slot is held by a ticket that lives."""

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock()
        self.limits = MemoryLimits(self.clock)
        self.units = {key: Fraction(burst) for key, burst in BURST.items()}
        self.tickets: dict[str, tuple[float, dict[str, int]]] = {}
        self.granted: list[tuple[float, str, int]] = []
        self.settled: set[str] = set()  # keys that were corrected: for those RL1 counts other amounts

    def held(self, key: str) -> int:
        return sum(taken.get(key, 0) for ends, taken in self.tickets.values() if ends > self.clock.now)

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

    @rule(name=names, asked=asks, lease=st.integers(1, 200))
    def take(self, name: str, asked: dict[str, int], lease: int) -> None:
        known = name in self.tickets and self.tickets[name][0] > self.clock.now
        before = dict(self.units)
        seconds = Fraction(0) if known else self.seconds_until(asked)
        found = now(self.limits.take(name, [ask(*each) for each in asked.items()], lease))
        assert (found.refused is None) == (seconds == 0)  # RL2
        if known:
            self.tickets[name] = (self.clock.now + lease, self.tickets[name][1])
        elif seconds == 0:
            self.tickets[name] = (self.clock.now + lease, asked)
            for key in asked.keys() & self.units:
                self.units[key] -= asked[key]
                self.granted.append((self.clock.now, key, asked[key]))
        else:  # RL3, RL4
            assert found.retry_after == (None if seconds is None else pytest.approx(float(seconds)))
            assert self.units == before

    @rule(name=names, used=st.dictionaries(st.sampled_from([*SECONDS, "unknown", "few"]), st.integers(0, 6)))
    def settle(self, name: str, used: dict[str, int]) -> None:
        ends, taken = self.tickets.pop(name, (0.0, {}))
        assert now(self.limits.settle(name, used)) == (ends > self.clock.now)
        if ends > self.clock.now:
            for key in used.keys() & taken.keys() & self.units.keys():
                self.units[key] = min(Fraction(BURST[key]), self.units[key] + taken[key] - used[key])
                self.settled.add(key)

    @rule(seconds=st.integers(1, 70))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds
        for key, unit in SECONDS.items():
            self.units[key] = min(Fraction(BURST[key]), self.units[key] + Fraction(seconds, unit))

    @rule(asked=asks)
    def wait_as_told(self, asked: dict[str, int]) -> None:
        """RL3: at the time that is told it is granted, a moment before it is not."""
        wanted = [ask(*each) for each in asked.items()]
        found = now(self.limits.take("waits", wanted, 0.001))
        if found.refused is not None and found.retry_after is not None:
            began = self.clock.now
            self.clock.now = began + found.retry_after - 0.001
            assert now(self.limits.take("waits", wanted, 0.001)).refused is not None
            self.clock.now = began
            self.pass_time(int(found.retry_after))
            assert self.clock.now == began + found.retry_after
            assert now(self.limits.take("waits", wanted, 0.001)).refused is None
        elif found.refused is not None:
            return
        for key in asked.keys() & self.units:
            self.units[key] -= asked[key]
            self.granted.append((self.clock.now, key, asked[key]))
        self.tickets["waits"] = (self.clock.now + 0.001, asked)
        self.clock.now += 1
        for key, unit in SECONDS.items():
            self.units[key] = min(Fraction(BURST[key]), self.units[key] + Fraction(1, unit))

    @rule(keys=st.lists(st.sampled_from([*SECONDS, *SLOTS]), max_size=2))
    def reset(self, keys: list[str]) -> None:
        now(self.limits.reset(keys))
        for key in keys:
            if key in BURST:
                self.units[key] = Fraction(BURST[key])
                self.settled.add(key)
            for _, taken in self.tickets.values():
                taken.pop(key, None)

    @invariant()
    def levels_are_those_of_the_model(self) -> None:
        every = [*SECONDS, *SLOTS]
        for key, found in zip(every, now(self.limits.levels([ask(key, 9) for key in every])), strict=True):
            left = self.units[key] if key in BURST else SLOTS[key] - self.held(key)
            assert found.remaining == pytest.approx(float(left))
            assert found.remaining <= (BURST | SLOTS)[key]  # RL4: never fuller than full
            lacking = (BURST[key] - left) * SECONDS[key] if key in BURST else 0
            assert found.reset == pytest.approx(float(lacking))

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
                    assert total - above <= BURST[key] + (at - began) / SECONDS[key] + 1e-6 or above


TestRates = Rates.TestCase


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
