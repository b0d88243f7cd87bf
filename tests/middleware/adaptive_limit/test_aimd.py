"""The limit that is found by trying stays in its bounds, and follows what a target takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.adaptive_limit.aimd import Aimd


def round_of(aimd: Aimd, now: float, capacity: int | None) -> float:
    """As many calls as may be, each of a second, of which those above `capacity` fail; None: all fail."""
    begun, allowed = now, aimd.limit
    good = 0 if capacity is None else min(allowed, capacity)
    for _ in range(good):
        aimd.success(begun, allowed)
    for _ in range(allowed - good):
        aimd.drop(begun, now + 1.0)
    return now + 1.001


def settled(capacity: int, rounds: int = 200, **settings: float) -> tuple[Aimd, float]:
    aimd, now = Aimd(20, 1, 1000, 0.9, 1.0), 0.0
    for _ in range(rounds):
        now = round_of(aimd, now, capacity)
    return aimd, now


@given(
    st.integers(1, 5),
    st.integers(5, 20),
    st.integers(20, 60),
    st.lists(
        st.tuples(
            st.sampled_from(["success", "drop"]), st.floats(0, 5), st.floats(0, 30), st.integers(0, 99)
        ),
        max_size=80,
    ),
)
def test_whatever_happens_it_stays_in_its_bounds_and_falls_once_in_a_window(minimum, start, maximum, script):
    aimd, now, lowered = Aimd(start, minimum, maximum, 0.5, 1.0), 0.0, -100.0
    for what, gap, age, in_flight in script:
        now += gap
        before = aimd.limit
        if what == "success":
            aimd.success(now - age, in_flight)
            assert before <= aimd.limit <= before + 1
            if in_flight * 2 < before:
                assert aimd.limit == before  # an unused limit does not grow
        else:
            aimd.drop(now - age, now)
            assert aimd.limit <= before
            if aimd.limit < before:
                assert now - lowered >= 1.0
                assert now - age >= lowered
                lowered = now
        assert minimum <= aimd.limit <= maximum


def test_it_doubles_with_every_round_until_something_goes_wrong():
    aimd, now, limits = Aimd(20, 1, 1000, 0.9, 1.0), 0.0, []
    for _ in range(4):
        now = round_of(aimd, now, 1000)
        limits.append(aimd.limit)
    assert limits == [40, 80, 160, 320]


@pytest.mark.parametrize("capacity", [2, 10, 37, 200])
def test_it_settles_at_what_the_target_takes(capacity):
    aimd, now = settled(capacity)
    seen = []
    for _ in range(100):
        now = round_of(aimd, now, capacity)
        seen.append(aimd.limit)
    assert 0.75 * capacity <= sum(seen) / len(seen) <= 1.05 * capacity + 1
    assert max(seen) <= 1.15 * capacity + 1
    assert min(seen) >= 0.8 * capacity - 1


@pytest.mark.parametrize("capacity", [10, 50, 200])
@pytest.mark.parametrize("outage", [3, 60, 600])
def test_after_an_outage_it_is_back_at_nine_tenths_in_a_dozen_rounds(capacity, outage):
    aimd, now = settled(capacity)
    before = aimd.limit
    for _ in range(outage):
        now = round_of(aimd, now, None)
    assert aimd.limit < before
    for _ in range(12):
        now = round_of(aimd, now, capacity)
    assert aimd.limit >= 0.9 * before - 1


@pytest.mark.parametrize("capacity", [10, 50, 200])
def test_after_failures_that_had_nothing_to_do_with_it_it_is_back_in_a_while(capacity):
    aimd, now = settled(capacity)
    before = aimd.limit
    for _ in range(100):  # half of the calls fail, however few there are
        now = round_of(aimd, now, None if aimd.limit == 1 else aimd.limit // 2)
    assert aimd.limit <= 2
    for _ in range(80):
        now = round_of(aimd, now, capacity)
    assert aimd.limit >= 0.9 * min(before, capacity) - 1


def test_less_room_is_found_by_a_tenth_each_window():
    aimd, now = settled(100)
    for _ in range(40):
        now = round_of(aimd, now, 20)
    assert 16 <= aimd.limit <= 22


def test_calls_from_before_a_decrease_are_an_echo():
    aimd = Aimd(100, 1, 1000, 0.9, 0.0)
    assert aimd.drop(begun_at=0.0, now=5.0)
    assert aimd.limit == 90
    assert not aimd.drop(begun_at=4.9, now=6.0)
    assert not aimd.success(begun_at=4.9, in_flight=90)
    assert aimd.limit == 90
    assert aimd.drop(begun_at=5.1, now=6.0)
    assert aimd.limit == 81


def test_a_limit_above_a_new_maximum_is_cut_and_one_below_a_new_minimum_is_raised():
    aimd = Aimd(50, 1, 100, 0.9, 1.0)
    aimd.adopt(1, 30, 0.9, 1.0)
    assert aimd.limit == 30
    aimd.adopt(40, 100, 0.9, 1.0)
    assert aimd.limit == 40


@given(st.integers(2, 60), st.integers(1, 20), st.floats(0.05, 3.0))
def test_it_never_stands_above_what_the_target_takes_however_long_a_window_and_a_call(
    capacity, excess, seconds
):
    """What is too much fails at once and is there again after each call, as from clients who never rest."""
    aimd, now = Aimd(capacity + excess, 1, 1000, 0.9, 1.0), 0.0
    for _ in range(int(60 / seconds)):
        for _ in range(aimd.limit - capacity):
            aimd.drop(now, now)
        allowed = aimd.limit
        for _ in range(min(capacity, allowed)):
            aimd.success(now, allowed)
        now += seconds
    assert aimd.limit <= capacity + 2
