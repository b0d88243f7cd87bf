"""Limits in memory that are asked in their short form are the ones that keep the laws."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.runtime import at_once
from llmpipe.state import Ask
from llmpipe.state.memory.limits import MemoryLimits, Order
from llmpipe.testing.state import ManualClock

FIXED = [Ask("requests", 2.0, 60.0, 60.0, 6.0), Ask("slots", 1.0, 4.0)]
METERED = [Ask("tokens", 0.0, 1000.0, 60.0, 300.0), Ask("day", 0.0, 7.0, 3.0, 500.0)]
SLOT = Order([FIXED[1]])
ORDER = Order([FIXED[0], METERED[0], FIXED[1], METERED[1]], [1, 3])

steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 700)),
        st.tuples(st.just("settle"), st.integers(0, 700)),
        st.tuples(st.just("pass"), st.floats(0, 100)),
        st.tuples(st.just("reset"), st.sampled_from(["tokens", "slots", "requests", "day"])),
    ),
    max_size=40,
)


@given(steps)
def test_an_order_of_metered_units_is_the_asks_of_so_many(script: list[tuple[str, Any]]):
    clock = ManualClock()
    short, plain = MemoryLimits(clock), MemoryLimits(clock)
    taken: list[str] = []
    for number, (step, value) in enumerate(script):
        if step == "take":
            name = f"t{number}"
            asks = [Ask(ask.key, float(value), *_limit(ask)) if ask in METERED else ask for ask in ORDER.asks]
            assert ORDER.of(float(value)) == tuple(asks)
            wanted = at_once(plain.take(name, asks, 50.0))
            found = short.admit(name, ORDER, float(value), 50.0)
            assert found.refused == wanted.refused
            assert found.retry_after == pytest.approx(wanted.retry_after)
            _same_levels(found.levels, wanted.levels)
            taken += [name] if found.refused is None else []
        elif step == "settle" and taken:
            name, used = taken.pop(0), {"tokens": float(value), "day": float(value), "nobody": 1.0}
            assert short.release(name, used) == at_once(plain.settle(name, used))
        elif step == "pass":
            clock.now += value
        elif step == "reset":
            at_once(short.reset([value]))
            at_once(plain.reset([value]))
        _same_levels(at_once(short.levels(ORDER.asks)), at_once(plain.levels(ORDER.asks)))


def _limit(ask: Ask) -> tuple[float, float, float]:
    return ask.limit, ask.period, ask.burst


def _same_levels(found: Any, wanted: Any) -> None:
    """The same, but for the last bits of it."""
    for one, other in zip(found, wanted, strict=True):
        assert abs(one.remaining - other.remaining) <= 1e-6
        assert abs(one.reset - other.reset) <= 1e-6


def test_the_levels_of_an_answer_are_those_of_its_time():
    clock = ManualClock()
    limits = MemoryLimits(clock)
    answer = limits.admit("a", ORDER, 100.0, 50.0)
    before = answer.levels
    assert [level.remaining for level in before] == [4.0, 200.0, 3.0, 400.0]
    limits.admit("b", ORDER, 100.0, 50.0)
    clock.now += 10.0
    at_once(limits.reset(["tokens", "slots"]))
    assert answer.levels == before


def test_leases_that_were_begun_anew_or_settled_take_no_memory():
    clock = ManualClock()
    limits = MemoryLimits(clock)
    for _ in range(5000):
        clock.now += 0.1
        limits.admit("renewed", SLOT, 0.0, 30.0)
        name = object()
        limits.admit(name, SLOT, 0.0, 1e9)
        assert limits.release(name, {})
    assert len(limits._tickets) == 1
    assert len(limits._leases) <= 64 + 2 * 2
    clock.now += 29.9
    assert at_once(limits.levels([FIXED[1]]))[0].remaining == 3.0  # renewed, so it is held still
    clock.now += 0.1
    assert at_once(limits.levels([FIXED[1]]))[0].remaining == 4.0


def test_a_lease_that_is_begun_anew_may_end_earlier_than_before():
    clock = ManualClock()
    limits = MemoryLimits(clock)
    limits.admit("a", ORDER, 0.0, 100.0)
    limits.admit("a", ORDER, 0.0, 5.0)
    clock.now += 5.0
    assert at_once(limits.levels([FIXED[1]]))[0].remaining == 4.0
    limits.admit("a", ORDER, 0.0, 200.0)  # a new one, which the first one's end does not end
    clock.now += 100.0
    assert at_once(limits.levels([FIXED[1]]))[0].remaining == 3.0
