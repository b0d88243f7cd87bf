"""How long to wait before a retry."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.middleware.retry.backoff import (
    STRATEGIES,
    Adaptive,
    Exponential,
    fibonacci,
    linear,
    spread,
    strategy_of,
)

RETRIES = st.integers(1, 10_000)
BASES = st.floats(1e-3, 10)
CAPS = st.floats(10, 1000)
SHARES = st.floats(0, 1)


def waits(
    strategy, count: int = 6, base: float = 0.5, cap: float = 8.0, recovery: float = 0.5
) -> list[float]:
    return [strategy(n, base, cap, recovery) for n in range(1, count + 1)]


def test_exponential_doubles_up_to_the_cap():
    assert waits(Exponential()) == [0.5, 1, 2, 4, 8, 8]


def test_exponential_grows_by_its_multiplier():
    assert waits(Exponential(3.0), 4, base=1, cap=100) == [1, 3, 9, 27]


def test_linear_grows_by_the_base():
    assert waits(linear) == [0.5, 1, 1.5, 2, 2.5, 3]


def test_fibonacci_grows_as_its_sequence():
    assert waits(fibonacci, 7, base=1, cap=100) == [1, 1, 2, 3, 5, 8, 13]


def test_adaptive_is_exponential_while_nothing_is_known():
    assert waits(Adaptive()) == waits(Exponential())


def test_adaptive_waits_a_quarter_where_retries_help_and_fourfold_where_they_do_not():
    assert waits(Adaptive(), 3, cap=100, recovery=1.0) == [0.125, 0.25, 0.5]
    assert waits(Adaptive(), 3, cap=100, recovery=0.0) == [2, 4, 8]


@pytest.mark.parametrize("name", STRATEGIES)
@given(retry=RETRIES, base=BASES, cap=CAPS, recovery=SHARES)
def test_every_strategy_stays_between_nothing_and_the_cap_and_never_shrinks(
    name: str, retry: int, base: float, cap: float, recovery: float
):
    strategy = strategy_of(name)
    here, after = strategy(retry, base, cap, recovery), strategy(retry + 1, base, cap, recovery)
    assert 0 < here <= after <= cap


@given(wait=st.floats(0, 1000), seed=st.integers())
def test_full_jitter_stays_between_nothing_and_the_wait(wait: float, seed: int):
    assert 0 <= spread(wait, None, Random(seed)) <= wait


@given(wait=st.floats(0, 1000), jitter=SHARES, seed=st.integers())
def test_partial_jitter_stays_within_its_share_on_both_sides(wait: float, jitter: float, seed: int):
    slack = 1e-9 * (1 + wait)
    assert (1 - jitter) * wait - slack <= spread(wait, jitter, Random(seed)) <= (1 + jitter) * wait + slack


def test_partial_jitter_reaches_both_sides():
    random = Random(1)
    drawn = [spread(1.0, 0.25, random) for _ in range(1000)]
    assert min(drawn) < 0.76
    assert max(drawn) > 1.24


def test_no_jitter_is_the_wait_itself():
    assert spread(3.0, 0, Random(1)) == 3.0


def test_a_strategy_may_be_any_callable():
    mine = strategy_of(lambda retry, base, cap, recovery: 7.0)
    assert mine(1, 0.5, 8, 0.5) == 7.0


@pytest.mark.parametrize("wrong", ["exponental", 5, None])
def test_what_is_no_strategy_is_refused(wrong):
    with pytest.raises(ConfigError, match="strategy"):
        strategy_of(wrong)


@pytest.mark.parametrize("multiplier", [0.5, 0, 1000])
def test_a_multiplier_that_shrinks_or_explodes_is_refused(multiplier: float):
    for make in (Exponential, Adaptive):
        with pytest.raises(ConfigError, match="multiplier"):
            make(multiplier)


def test_retries_count_from_one():
    for strategy in (Exponential(), Adaptive(), linear, fibonacci):
        with pytest.raises(ValueError, match="from 1"):
            strategy(0, 0.5, 8, 0.5)
