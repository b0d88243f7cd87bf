"""The token bucket against a model that counts, and the windows it promises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.rate_limit.buckets import EPSILON, REQUESTS, TOKENS, Bucket, Limit


def bucket(amount: float = 60, period: float = 60.0, burst: float | None = None, now: float = 0.0) -> Bucket:
    return Bucket.of(Limit("limit", REQUESTS, period, amount, burst), now)


class Level:
    """The model: a number of units that grows with time up to the burst."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.level, self.at = rate, burst, burst, 0.0

    def pass_to(self, now: float) -> None:
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now

    def wait(self, amount: float) -> float:
        return max(0.0, (min(amount, self.burst) - self.level) / self.rate)


steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "give", "overspend"]),
        st.floats(0, 30),  # seconds that pass before
        st.floats(0.1, 30),  # units
    ),
    max_size=40,
)


@given(steps, st.floats(0.1, 20), st.floats(1, 20))
def test_a_timestamp_says_the_same_as_a_level(script, rate, burst):
    ours, model, now = bucket(rate * 60, 60.0, burst), Level(rate, burst), 0.0
    for what, pause, units in script:
        now += pause
        model.pass_to(now)
        if what == "ask":
            wait = max(0.0, ours.wait(units, now))
            assert wait == pytest.approx(model.wait(units), abs=1e-6)
            if wait <= EPSILON:
                ours.take(units, now)
                model.level -= units
        elif what == "overspend":
            ours.take(units, now)
            model.level -= units
        else:
            ours.give(units)
            model.level = min(model.burst, model.level + units)
        assert ours.available(now) == pytest.approx(model.level, abs=1e-6)
        assert ours.available(now) <= burst


@given(st.lists(st.floats(0, 20), max_size=80), st.integers(1, 60), st.integers(1, 10))
def test_no_window_holds_more_than_the_limit_and_one_burst(pauses, limit, burst):
    ours, now, admitted = bucket(limit, 10.0, float(burst)), 0.0, []
    for pause in pauses:
        now += pause
        if ours.wait(1, now) <= EPSILON:
            ours.take(1, now)
            admitted.append(now)
    for end in admitted:
        assert sum(end - 10.0 < t <= end for t in admitted) <= limit + burst


@given(st.floats(0.1, 1000), st.floats(0.01, 100), st.floats(0, 1e7))
def test_what_it_says_to_wait_is_enough_and_not_a_millisecond_too_much(taken, rate, now):
    ours = bucket(rate * 60, 60.0, 1.0, now)
    ours.take(taken, now)
    wait = ours.wait(1, now)
    assert ours.wait(1, now + wait) <= EPSILON
    if wait > 0.001:
        assert ours.wait(1, now + wait - 0.001) > EPSILON


def test_the_burst_is_a_tenth_and_at_least_one_unless_it_is_given():
    assert Limit("a", REQUESTS, 60.0, 600).capacity == 60
    assert Limit("a", REQUESTS, 60.0, 3).capacity == 1
    assert Limit("a", TOKENS, 60.0, 600, 5).capacity == 5


def test_more_than_the_burst_is_taken_from_a_full_bucket_and_leaves_a_debt():
    ours = bucket(60, 60.0, 5.0)
    assert ours.wait(20, 0.0) <= 0
    ours.take(20, 0.0)
    assert ours.available(0.0) == pytest.approx(-15)
    assert ours.wait(1, 0.0) == pytest.approx(16)
    assert ours.wait(20, 0.0) == pytest.approx(20)  # not before it is full again


def test_what_a_full_bucket_is_given_is_lost():
    ours = bucket(60, 60.0, 5.0)
    ours.give(100)
    assert ours.available(0.0) == 5
    ours.take(5, 0.0)
    assert ours.wait(1, 0.0) == pytest.approx(1)


def test_another_limit_keeps_what_was_taken():
    ours = bucket(60, 60.0, 10.0)
    ours.take(8, 0.0)
    ours.retune(Limit("limit", REQUESTS, 60.0, 30, 10.0), 0.0)
    assert ours.available(0.0) == pytest.approx(2)
    assert ours.wait(4, 0.0) == pytest.approx(4)


def test_a_lower_level_is_taken_over_and_a_higher_one_is_not():
    ours = bucket(60, 60.0, 10.0)
    ours.lower(4, 0.0)
    assert ours.available(0.0) == pytest.approx(4)
    ours.lower(9, 0.0)
    assert ours.available(0.0) == pytest.approx(4)
    ours.lower(-3, 0.0)
    assert ours.wait(1, 0.0) == pytest.approx(4)
