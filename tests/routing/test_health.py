"""How the health of a target is judged, without clock or loop."""

from __future__ import annotations

from itertools import pairwise
from math import e
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.routing.failover import Budget
from llmpipe.routing.health import Health, Sliding, Troubled
from llmpipe.routing.rules import HealthRules


def health(**rules) -> Health:
    return Health("t", HealthRules(**rules), Random(1))


def ok(one: Health, now: float, took: float = 0.1):
    one.streak = 0
    return one.answered(now, now - took)


def bad(one: Health, now: float, took: float = 0.1):
    return one.failed(now, now - took, "NETWORK_ERROR")


def put_down(one: Health, now: float = 0.0):
    for _ in range(one.rules.down_after):
        change = bad(one, now)
    return change


# -- degraded


def test_a_few_failures_of_many_calls_are_nothing():
    one = health()
    for n in range(100):
        bad(one, n) if n % 20 == 0 else ok(one, n)
    assert one.state == "healthy"


def test_too_large_a_share_of_failures_is_degraded_and_keeps_a_share_of_the_calls():
    one = health()
    changes = [bad(one, n) if n % 5 == 0 else ok(one, n) for n in range(20)]
    assert [c.kind for c in changes if c] == ["degraded"]
    assert (one.state, one.share(20)) == ("degraded", 0.2)


def test_few_samples_say_nothing():
    one = health(min_samples=10)
    for n in range(8):
        bad(one, n) if n % 2 else ok(one, n)
    assert (one.state, one.error_rate(8)) == ("healthy", 0.0)


def test_a_degraded_target_recovers_by_success():
    one = health()
    for n in range(20):
        bad(one, n) if n % 5 == 0 else ok(one, n)
    changes = [ok(one, 20 + n) for n in range(40)]
    assert [c.kind for c in changes if c] == ["recovered"]


def test_a_degraded_target_recovers_when_its_failures_are_long_ago():
    one = health(window=60)
    for n in range(20):
        bad(one, n) if n % 5 == 0 else ok(one, n)
    assert one.look(30) is None
    assert one.look(100).kind == "recovered"


# -- down, and back


def test_failures_in_a_row_put_it_down():
    one = health(down_after=3)
    assert [bad(one, 0), bad(one, 1)] == [None, None]
    change = bad(one, 2)
    assert (change.kind, one.state, one.share(2), one.score(2)) == ("down", "down", 0.0, 0.0)
    assert 4.5 <= change.seconds <= 5.5
    assert one.wait(2) == change.seconds


def test_a_server_that_says_when_is_not_asked_sooner():
    one = health(down_after=1)
    assert one.failed(0, 0, "SERVICE_UNAVAILABLE", 40.0).seconds == 40
    assert health(down_after=1, max_rest=60).failed(0, 0, "SERVICE_UNAVAILABLE", 9e9).seconds == 60


def test_a_success_between_failures_keeps_it_up():
    one = health(min_samples=1000)
    for n in range(20):
        ok(one, n) if n % 3 == 2 else bad(one, n)
    assert one.state == "healthy"


def test_it_comes_back_in_steps_from_a_trickle_to_all():
    one = health(ramp=40, rest=10)
    put_down(one)
    assert one.look(8) is None
    assert one.look(11).kind == "returning"
    shares = [one.share(11 + seconds) for seconds in range(41)]
    assert [shares[0], shares[10], shares[20], shares[30], shares[40]] == [0.05, 0.1, 0.25, 0.5, 1.0]
    assert shares == sorted(shares)
    for n in range(40):
        ok(one, 11 + n)
    assert one.look(51).kind == "readmitted"
    assert one.share(51) == 1.0


def test_a_failure_on_the_way_back_starts_it_again_and_longer():
    one = health(ramp=30, rest=5)
    put_down(one)
    rests, ramps, now = [], [], 0.0
    for _ in range(4):
        now += one.wait(now)
        ramps.append(one.look(now).seconds)
        now += 1
        rests.append(bad(one, now).seconds)
    assert ramps == [30, 60, 120, 120]
    assert all(1.6 < later / sooner < 2.5 for sooner, later in pairwise(rests))


def test_rest_and_ramp_have_their_longest():
    one = health(ramp=30, max_ramp=50, rest=5, max_rest=20)
    put_down(one)
    now = 0.0
    for _ in range(2000):
        now += one.wait(now)
        assert one.look(now).seconds <= 50
        assert bad(one, now + 0.2).seconds <= 22
        now += 0.2


def test_a_usual_share_of_failures_does_not_stop_a_target_on_its_way_back():
    one = health(ramp=30, rest=5)
    put_down(one)
    one.look(6)
    kinds = {
        c.kind for n in range(200) if (c := bad(one, 6.2 + n / 10) if n % 20 == 19 else ok(one, 6.2 + n / 10))
    }
    assert kinds == set()
    assert one.look(40).kind == "readmitted"


def test_once_readmitted_the_next_rest_is_short_again():
    one = health(rest=5, ramp=10)
    put_down(one)
    one.look(6)
    bad(one, 7)
    one.look(30)
    one.look(60)
    assert one.state == "healthy"
    assert put_down(one, 61).seconds < 6


def test_what_was_sent_before_it_went_down_changes_nothing_after():
    one = health(rest=5)
    put_down(one, 10)
    assert one.failed(11, 9, "NETWORK_ERROR") is None
    assert one.answered(12, 9.5) is None
    assert one.share(12) == 0
    one.look(20)
    assert one.failed(21, 9, "NETWORK_ERROR") is None  # a straggler of the time before
    assert one.share(21) > 0


def test_an_answer_of_one_that_was_asked_although_down_brings_it_back():
    one = health(rest=100)
    put_down(one, 10)
    assert one.answered(13, 12).kind == "returning"


# -- latency and score


def test_latency_jumps_to_a_peak_and_fades():
    one = health(latency_window=10)
    assert one.latency(0) is None
    ok(one, 1, took=1)
    ok(one, 2, took=8)
    assert one.latency(2) == 8
    assert one.latency(12) == pytest.approx(8 / e)
    ok(one, 12, took=1)
    assert one.latency(12) == pytest.approx(8 / e + 1 * (1 - 1 / e))


def test_the_score_sinks_with_failures_streak_and_latency():
    well, slow, failing = health(), health(), health()
    for n in range(20):
        ok(well, n)
        ok(slow, n, took=10)
        bad(failing, n) if n % 8 == 0 else ok(failing, n)
    assert 1 >= well.score(20) > failing.score(20) > 0
    assert well.score(20) > slow.score(20) > 0
    before = well.score(20)
    bad(well, 20)
    assert well.score(20) < before


@given(st.lists(st.tuples(st.sampled_from("ofrcp"), st.floats(0.01, 30)), max_size=120))
def test_whatever_happens_shares_and_scores_stay_between_0_and_1(steps):
    one, now = health(), 0.0
    for what, seconds in steps:
        now += seconds
        if what == "o":
            ok(one, now)
        elif what == "f":
            bad(one, now)
        elif what == "r":
            one.pause(now, seconds, "RATE_LIMIT")
        elif what == "c":
            one.check_failed(now, "TIMEOUT", 35)
        else:
            one.check_passed(now)
        one.look(now)
        assert 0 <= one.share(now) <= 1
        assert 0 <= one.score(now) <= 1
        assert 0 <= one.error_rate(now) <= 1
        assert one.wait(now) >= 0
    now += 1000  # left alone, everything passes
    for _ in range(6):
        one.look(now)
        now += 400
    assert (one.state, one.share(now), one.wait(now)) == ("healthy", 1.0, 0.0)


def test_a_target_is_troubled_until_somebody_finds_it_well():
    troubled = Troubled()
    one = Health("t", HealthRules(), Random(1), troubled)
    ok(one, 1)
    assert not troubled.names
    bad(one, 2)
    assert troubled.names == {"t"}
    ok(one, 3)
    one.look(3)
    assert not troubled.names
    one.pause(4, 10, "RATE_LIMIT")
    one.look(5)
    assert troubled.names == {"t"}
    one.look(15)
    assert not troubled.names


# -- circuits and checks


def test_an_open_circuit_is_down_as_long_as_it_is_open():
    one = health()
    assert one.circuit_open(0, 12).kind == "down"
    assert one.wait(0) == 12
    assert one.circuit_open(1, 11) is None
    one.circuit_open(12, 0)
    assert one.look(12).kind == "returning"


def test_a_circuit_that_lets_go_does_not_shorten_the_rest():
    one = health(rest=20)
    put_down(one)
    one.circuit_open(0, 5)
    one.circuit_open(6, 0)
    assert one.look(6) is None
    assert one.look(23).kind == "returning"


def test_a_circuit_that_is_closed_by_hand_lets_it_come_back_at_once():
    one = health()
    one.circuit_open(0, float("inf"))
    assert one.look(1e6) is None
    one.circuit_open(1e6, 0)
    assert one.look(1e6).kind == "returning"


def test_failed_checks_put_it_down_and_keep_it_down():
    one = health(rest=5)
    changes = [one.check_failed(30 * n, "TIMEOUT", 38) for n in range(1, 4)]
    assert [c and c.kind for c in changes] == [None, None, "down"]
    one.check_failed(96, "TIMEOUT", 38)
    assert one.look(120) is None
    one.check_passed(126)
    assert one.look(126).kind == "returning"


def test_checks_that_fail_now_and_then_are_nothing():
    one = health()
    for n in range(10):
        one.check_failed(60 * n, "TIMEOUT", 38)
        one.check_passed(60 * n + 30)
    assert one.state == "healthy"


def test_a_check_that_passes_does_not_shorten_the_rest():
    one = health(rest=20)
    put_down(one)
    one.check_passed(1)
    assert one.look(2) is None


# -- a window, a budget


def test_a_window_is_read_as_of_now():
    window = Sliding(60)
    for n in range(10):
        window.add(n, n % 2 == 0)
    assert window.at(10) == (10, 5)
    assert window.at(200) == (0, 0)
    window.spoil(200)
    assert window.at(200) == (0, 1)


def test_failovers_that_fail_use_up_a_budget_and_others_do_not():
    budget = Budget(0.1, 3)
    for n in range(100):
        assert budget.take(n)
        budget.settle()
    for _ in range(3):
        assert budget.take(100)
        budget.lose(100)
        budget.settle()
    assert not budget.take(101)
    for _ in range(20):
        budget.window.add(101, False)
    assert budget.take(101)


def test_failovers_under_way_count_too():
    budget = Budget(0, 2)
    assert [budget.take(0) for _ in range(3)] == [True, True, False]
    budget.settle()
    assert budget.take(0)


def test_a_budget_is_whole_again_a_minute_later():
    budget = Budget(0, 1)
    budget.take(0)
    budget.lose(0)
    budget.settle()
    assert not budget.take(30)
    assert budget.take(61)


@pytest.mark.parametrize(
    "wrong",
    [
        {"down_after": 0}, {"min_samples": 0}, {"rest": 0}, {"rest": 10, "max_rest": 5}, {"ramp": -1},
        {"degraded_above": 1.0}, {"degraded_share": 0}, {"window": 0}, {"slow": 0}, {"window": "long"},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="health"):
        HealthRules(**wrong)
