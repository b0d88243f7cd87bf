"""What repetitions at a target may cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.retry.quota import Quota, Quotas
from llmpipe.runtime import Runtime


def test_a_quota_pays_until_it_is_empty_and_then_refuses_and_takes_nothing():
    quota = Quota()
    assert [quota.take(14, 500) for _ in range(36)] == [True] * 35 + [False]
    assert quota.spent == 490
    assert quota.take(5, 500)  # a throttled retry is cheaper and still fits


def test_an_unlimited_quota_never_refuses_and_counts_nothing():
    quota = Quota()
    assert all(quota.take(14, 0) for _ in range(100))
    assert quota.spent == 0


def test_a_smaller_capacity_after_a_reload_refuses_until_enough_came_back():
    quota = Quota()
    assert quota.take(300, 500)
    assert not quota.take(14, 100)
    quota.give(250)
    assert quota.take(14, 100)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=100), st.integers(1, 300))
def test_what_is_spent_stays_between_nothing_and_the_capacity(steps, capacity: int):
    quotas = Quotas()
    for take, amount in steps:
        if take:
            quotas.take("key", amount, capacity)
        else:
            quotas.give("key", amount)
        spent = quotas["key"].spent
        assert 0 <= spent <= capacity
        # What says that there is something to give back is right, so the hot path may trust it.
        assert spent == 0 or "key" in quotas.owing


def test_recovery_moves_a_fifth_of_the_way_with_each_retry():
    quota = Quota()
    quota.learn("TIMEOUT", success=True, now=0.0)
    assert quota.recovery("TIMEOUT", 0.0) == 0.6
    quota.learn("TIMEOUT", success=False, now=0.0)
    assert quota.recovery("TIMEOUT", 0.0) == 0.48
    assert (quota.successful, quota.failed) == (1, 1)


def test_recovery_is_learned_for_each_type_of_error():
    quota = Quota()
    quota.learn("TIMEOUT", success=True, now=0.0)
    assert quota.recovery("RATE_LIMIT", 0.0) == 0.5


def test_half_of_what_was_learned_is_forgotten_each_minute():
    quota = Quota()
    for _ in range(50):
        quota.learn("TIMEOUT", success=True, now=0.0)
    known = quota.recovery("TIMEOUT", 0.0) - 0.5
    assert quota.recovery("TIMEOUT", 60.0) - 0.5 == known / 2
    assert abs(quota.recovery("TIMEOUT", 3600.0) - 0.5) < 1e-9


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1000)), max_size=50))
def test_recovery_stays_a_share(steps):
    quota, now = Quota(), 0.0
    for success, seconds in steps:
        now += seconds
        quota.learn("X", success=success, now=now)
        assert 0 <= quota.recovery("X", now) <= 1


def test_the_quotas_of_a_runtime_are_shared_and_those_of_two_runtimes_are_not():
    runtime = Runtime()
    assert Quotas.of(runtime) is Quotas.of(runtime)
    assert Quotas.of(runtime) is not Quotas.of(Runtime())


def test_the_longest_untouched_full_quota_is_dropped_first():
    quotas = Quotas(max_keys=3)
    quotas.take("owes", 14, 500)
    for key in "abc":
        assert quotas[key].spent == 0  # looking makes it
    assert [key for key, _ in quotas.items()] == ["owes", "b", "c"]
    for n in range(3):
        quotas.take(n, 14, 500)
    assert quotas["new"].spent == 0
    assert len(dict(quotas.items())) == 3
    assert quotas.owing <= dict(quotas.items()).keys()
