"""The state machine of a breaker, against a model small enough to be seen to be right."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmpipe.errors import CircuitOpen, ConfigError
from llmpipe.middleware.breaker.circuit import Circuit, Permit
from llmpipe.middleware.breaker.rules import CLOSED, HALF_OPEN, OPEN, Change, CircuitRules
from llmpipe.middleware.breaker.window import Window


class Middle(Random):
    """A random number that is always the middle one: ±10 % jitter becomes none."""

    def random(self) -> float:
        return 0.5


def circuit(**rules) -> Circuit:
    return Circuit("it", CircuitRules(**rules), Middle())


def admitted(it: Circuit, now: float) -> Permit:
    permit = it.admit(now)
    assert permit is not None
    return permit


def fail(it: Circuit, now: float = 0.0, times: int = 1, **how) -> None:
    for _ in range(times):
        admitted(it, now).failure(now, **how)


def succeed(it: Circuit, now: float = 0.0, times: int = 1) -> None:
    for _ in range(times):
        admitted(it, now).success(now)


def half_open(**rules) -> Circuit:
    """A circuit that has just reached the end of its open time, at second 5."""
    it = circuit(**{"consecutive": 1, "ratio": None, **rules})
    fail(it)
    return it


class Model:
    """What a circuit is meant to do, said as plainly as possible. The window is 10 s in buckets of 1 s."""

    def __init__(self, rules: CircuitRules) -> None:
        self.rules = rules
        self.reopens = 0
        self.epoch = 0
        self.usual = 0.0
        self.now = self.probed_at = 0.0
        self.enter("closed")

    def enter(self, state: str, seconds: float = 0.0) -> None:
        self.state, self.since, self.until = state, self.now, self.now + seconds
        self.learned = self.now
        self.epoch += 1
        self.samples: list[tuple[int, bool]] = []
        self.streak = self.out = self.passed = 0

    def open(self, hint: float) -> None:
        grown = self.rules.base * 2**self.reopens
        jitter = 1.05 if hint > grown else 1.0
        self.enter("open", min(self.rules.cap, max(hint, grown)) * jitter)

    def admits(self) -> bool:
        if self.state == "open" and self.now >= self.until:
            self.enter("half_open")
        if self.state == "half_open":
            if self.out < min(self.rules.probes, self.rules.close_after - self.passed):
                self.out += 1
                self.probed_at = self.now
                return True
            if self.now - self.probed_at >= self.rules.max_half_open:
                self.reopens += 1
                self.open(0.0)
            return False
        return self.state == "closed"

    def ended(self, epoch: int, how: str, had_begun: bool, hint: float) -> None:
        if epoch != self.epoch:
            return
        if self.state == "half_open":
            if not had_begun:
                self.out -= 1
            if how == "failure":
                self.reopens += 1
                self.open(hint)
            elif how == "success":
                self.passed += 1
                if self.passed == self.rules.close_after:
                    self.reopens = 0
                    self.enter("closed")
        elif how != "release":
            self.samples.append((int(self.now), how == "failure"))
            self.streak = self.streak + 1 if how == "failure" else 0
            window = [failed for bucket, failed in self.samples if bucket > int(self.now) - 10]
            enough = len(window) >= self.rules.min_calls
            ratio = self.rules.ratio
            if self.rules.adaptive:
                share = sum(window) / len(window)
                if enough and self.now - self.learned >= self.rules.window and (self.usual or share):
                    self.learned, self.usual = self.now, 0.9 * self.usual + 0.1 * share
                sigma = (self.usual * (1 - self.usual) / len(window)) ** 0.5
                ratio = min(0.95, self.usual + max((ratio or 0) / 2, 3 * sigma))
            if (self.rules.consecutive and self.streak >= self.rules.consecutive) or (
                enough and ratio is not None and sum(window) / len(window) >= ratio
            ):
                self.open(hint)


RULES = st.builds(
    CircuitRules,
    window=st.just(10.0),
    min_calls=st.integers(1, 6),
    ratio=st.none() | st.sampled_from([0.25, 0.5, 0.6, 1.0]),
    consecutive=st.integers(1, 6),
    base=st.sampled_from([1.0, 2.0]),
    cap=st.sampled_from([2.0, 16.0]),
    probes=st.integers(1, 3),
    close_after=st.integers(1, 4),
    max_half_open=st.sampled_from([3.0, 8.0]),
) | st.builds(
    CircuitRules,
    window=st.just(10.0),
    min_calls=st.integers(1, 8),
    ratio=st.sampled_from([0.25, 0.5, 0.6, 1.0]),
    consecutive=st.none(),
    base=st.just(1.0),
    cap=st.just(16.0),
    max_half_open=st.just(3.0),
    adaptive=st.booleans(),
)


class Machine(RuleBasedStateMachine):
    permits = Bundle("permits")

    @initialize(rules=RULES)
    def begin(self, rules: CircuitRules) -> None:
        self.changes: list[Change] = []
        self.forced = 0
        self.it = Circuit("it", rules, Middle(), lambda _, change: self.changes.append(change))
        self.model = Model(rules)
        self.offset = self.model.epoch - self.it.epoch
        self.stage: dict[int, str] = {}  # of each permit: held, begun, over
        self.kept: list[Permit] = []  # alive, so that no id comes twice
        self.said = {"success": 0, "failure": 0, "release": 0}

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds

    @rule(target=permits)
    def somebody_gets_in_or_not(self):
        return self.somebody_comes()

    def somebody_comes(self) -> Permit | None:
        peeked, epoch = self.it.peek(self.model.now), self.it.epoch
        permit, expected = self.it.admit(self.model.now), self.model.admits()
        assert (permit is not None) == expected
        lost = permit is None and self.it.epoch != epoch  # a probe, which this visit has found out
        assert (peeked == 0) == (expected or lost)  # who peeked knew
        if permit is None:
            refusal = self.it.refusal(self.model.now)
            assert isinstance(refusal, CircuitOpen)
            assert refusal.retry_after is None or refusal.retry_after > 0
        else:
            self.stage[id(permit)] = "held"
            self.kept.append(permit)
        return permit

    @rule(
        permit=permits,
        hint=st.sampled_from([None, 0.5, 3.0, 1000.0]),
        how=st.sampled_from(["success", "success", "failure", "release"]),
    )
    def somebody_says_how_it_went(self, permit: Permit | None, hint: float | None, how: str) -> None:
        self.somebody_reports(permit, hint, how)

    def somebody_reports(self, permit: Permit | None, hint: float | None, how: str) -> None:
        if permit is None:
            return
        epoch, state = self.it.epoch, self.it.state
        {
            "success": lambda: permit.success(self.model.now),
            "failure": lambda: permit.failure(self.model.now, "why", hint),
            "release": permit.release,
        }[how]()
        stage = self.stage[id(permit)]
        counts = stage == "held" or (stage == "begun" and how == "failure")
        if counts:
            self.said[how] += 1
            self.model.ended(
                permit.epoch + self.offset, how, stage == "begun", (hint or 0.0) * (how == "failure")
            )
            self.stage[id(permit)] = "begun" if how == "success" else "over"
        if not counts or permit.epoch != epoch or how == "release":
            assert (self.it.epoch, self.it.state) == (epoch, state)

    @precondition(lambda self: self.it.state == CLOSED)
    @rule()
    def everything_fails_until_it_may_be_probed(self) -> None:
        for _ in range(30):
            self.somebody_reports(self.somebody_comes(), None, "failure")
            if self.it.state:
                break
            self.model.now += 1.0  # what succeeded before leaves the window
        assert self.it.state == OPEN
        self.model.now = self.model.until

    @precondition(lambda self: self.forced < 3)
    @rule(close=st.booleans())
    def somebody_decides_by_hand(self, close: bool) -> None:
        self.forced += 1
        if close:
            self.it.reset(self.model.now)
            self.model.reopens = 0
            self.model.enter("closed")
        else:
            self.it.isolate(self.model.now)
            self.model.enter("open", inf)

    @rule()
    def callers_find_a_way_out(self) -> None:
        """No state is absorbing: callers who come and go on get in, within the times that the rules set."""
        if self.it.isolated:
            return
        patience = 1.1 * self.it.rules.cap + self.it.rules.max_half_open + 1
        if self.it.state == HALF_OPEN:
            patience += 1.1 * self.it.rules.cap
        waited = 0.0
        while not self.model_admits_together():
            waited += 0.5
            self.model.now += 0.5
            assert waited <= patience

    def model_admits_together(self) -> bool:
        permit, expected = self.it.admit(self.model.now), self.model.admits()
        assert (permit is not None) == expected
        if permit is not None:
            permit.release()
            self.said["release"] += 1
            self.model.ended(permit.epoch + self.offset, "release", False, 0.0)
        return permit is not None

    @invariant()
    def it_is_in_the_state_of_the_model(self) -> None:
        it, model = self.it, self.model
        assert it.state == {"closed": CLOSED, "half_open": HALF_OPEN, "open": OPEN}[model.state]
        assert it.epoch + self.offset == model.epoch
        assert it.streak == model.streak
        if model.state == "open":
            assert it.peek(model.now) == max(0.0, model.until - model.now)

    @invariant()
    def half_open_lets_through_its_probes_and_no_more(self) -> None:
        if self.it.state == HALF_OPEN:
            assert 0 <= self.it._out <= self.it.rules.probes
            assert self.it._out + self.it._passed <= max(self.it.rules.probes, self.it.rules.close_after)
            assert self.it._out == self.model.out

    @invariant()
    def every_permit_is_worth_one_answer(self) -> None:
        it = self.it
        assert (it.successful, it.failed, it.ignored) == tuple(self.said.values())
        held = sum(stage == "held" for stage in self.stage.values())
        begun = sum(stage == "begun" for stage in self.stage.values())
        assert it.total - it.rejected >= held + begun

    @invariant()
    def states_follow_one_another_as_drawn(self) -> None:
        before = "closed"
        for change in self.changes:
            if "by hand" not in change.reason:
                assert (before, change.kind) in {
                    ("closed", "opened"),
                    ("half_open", "opened"),
                    ("opened", "half_open"),
                    ("half_open", "closed"),
                }
            before = change.kind


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
test_a_circuit_does_what_its_model_does = Machine.TestCase


# -- bugs that others had


def test_an_ignored_probe_gives_its_permit_back():
    """resilience4j#544: the permit was lost, and the circuit half-open for ever."""
    it = half_open()
    for n in range(10):
        admitted(it, 5.0 + n).release()
    assert it.state == HALF_OPEN
    succeed(it, 20.0, times=2)
    assert it.state == CLOSED


def test_the_call_that_half_opens_is_itself_the_probe():
    """resilience4j#1432: between the change of state and the claim, others slipped in."""
    it = half_open(probes=1)
    permits = [it.admit(5.0) for _ in range(50)]
    assert sum(permit is not None for permit in permits) == 1


def test_a_probe_that_never_comes_back_cannot_hold_the_circuit_half_open():
    """resilience4j#935: without enough results it stayed half-open."""
    it = half_open(max_half_open=60.0)
    hung = admitted(it, 5.0)
    assert it.admit(64.9) is None
    assert it.state == HALF_OPEN
    assert it.admit(65.0) is None
    assert it.state == OPEN
    assert it.reason == "no probe came back in 60 s"
    succeed(it, 75.0, times=2)
    assert it.state == CLOSED
    assert hung.failure(76.0) is None  # and when it comes back after all, it changes nothing
    assert it.state == CLOSED


def test_a_probe_has_its_own_time_however_long_the_circuit_has_been_half_open():
    it = half_open(max_half_open=60.0)
    admitted(it, 5.0).success(5.0)
    second = admitted(it, 100.0)  # nobody came for a while
    assert it.admit(100.1) is None
    assert it.state == HALF_OPEN
    assert second.success(101.0) is not None
    assert it.state == CLOSED


def test_who_only_goes_where_the_circuit_lets_in_finds_out_that_a_probe_is_lost():
    it = half_open(max_half_open=60.0)
    admitted(it, 5.0)
    assert it.peek(64.9) > 0
    assert it.peek(65.0) == 0
    assert it.admit(65.0) is None
    assert it.state == OPEN
    assert it.peek(65.0) > 0


def test_a_half_open_circuit_that_nobody_visits_still_admits_the_next_probe():
    it = half_open()
    admitted(it, 5.0).release()
    assert it.admit(1e6) is not None


def test_a_cancelled_probe_does_not_close_the_circuit():
    """Polly counts any outcome it does not handle, cancellation included, as a success."""
    it = half_open(close_after=1)
    admitted(it, 5.0).release()
    assert it.state == HALF_OPEN


def test_a_result_from_before_the_circuit_opened_neither_closes_nor_reopens_it():
    """Polly#217 and failsafe-go: a late result was taken for a probe's."""
    it = circuit(consecutive=1, close_after=1)
    late = [admitted(it, 0.0) for _ in range(6)]
    fail(it)
    probe = admitted(it, 5.0)
    late[0].success(5.0)
    late[1].failure(5.0)
    late[2].release()
    assert (it.state, it.admit(5.0)) == (HALF_OPEN, None)  # still one probe out, none decided
    probe.success(5.0)
    assert it.state == CLOSED
    late[3].failure(6.0)
    assert (it.state, it.streak, it.window.calls) == (CLOSED, 0, 0)
    assert (it.failed, it.successful, it.ignored) == (3, 2, 1)  # counted all the same


# -- closed


def test_five_failures_in_a_row_open_it():
    it = circuit()
    fail(it, times=4)
    succeed(it)
    fail(it, times=4)
    assert it.state == CLOSED
    fail(it)
    assert (it.state, it.reason) == (OPEN, "5 failures in a row")


def test_a_target_that_fails_often_but_never_in_a_row_is_opened_by_the_share():
    it = circuit()
    for n in range(5):
        succeed(it)
        assert it.state == CLOSED, n
        fail(it)
    assert (it.state, it.reason) == (OPEN, "5 of 10 calls failed")


def test_the_share_says_nothing_before_there_are_enough_calls():
    it = circuit(consecutive=None)
    fail(it, times=9)
    assert it.state == CLOSED
    succeed(it)  # the tenth call, good or bad, makes it enough
    assert it.state == OPEN


def test_failures_that_are_out_of_the_window_do_not_count():
    it = circuit(consecutive=None, window=30.0)
    fail(it, 0.0, times=9)
    fail(it, 30.0, times=9)
    assert (it.state, it.window.calls) == (CLOSED, 9)


def test_either_of_the_two_triggers_can_be_off():
    by_ratio = circuit(consecutive=0)
    fail(by_ratio, times=9)
    assert by_ratio.state == CLOSED
    in_a_row = circuit(ratio=None)
    for _ in range(20):
        fail(in_a_row, times=4)
        succeed(in_a_row)
    assert in_a_row.state == CLOSED


def test_a_released_permit_counts_as_nothing():
    it = circuit()
    for _ in range(50):
        admitted(it, 0.0).release()
    assert (it.state, it.window.calls, it.ignored) == (CLOSED, 0, 50)
    fail(it, times=4)
    admitted(it, 0.0).release()
    fail(it)  # in between is nothing, so this is the fifth in a row
    assert it.state == OPEN


def test_a_reply_that_breaks_after_it_began_is_both_a_success_and_a_failure():
    it = circuit(consecutive=None, min_calls=4)
    for _ in range(2):
        permit = admitted(it, 0.0)
        permit.success(0.0)
        permit.failure(1.0)
    assert (it.state, it.reason) == (OPEN, "2 of 4 calls failed")
    assert (it.successful, it.failed) == (2, 2)


def test_an_adaptive_circuit_opens_sooner_where_failures_are_rare_and_later_where_they_are_usual():
    steady = circuit(consecutive=None, adaptive=True)
    succeed(steady, times=30)
    fail(steady, times=9)
    assert steady.state == CLOSED
    fail(steady)
    assert (steady.state, steady.reason) == (OPEN, "10 of 40 calls failed")

    flaky = circuit(consecutive=None, adaptive=True)
    for second in range(3000):
        succeed(flaky, float(second), times=4)
        fail(flaky, float(second), times=1 if second < 300 else 2)
    assert flaky.state == CLOSED  # a third fails, as usual
    assert flaky.baseline == pytest.approx(1 / 3, abs=0.02)
    succeed(flaky, 4000.0, times=30)
    fail(flaky, 4000.0, times=30)
    assert flaky.state == CLOSED  # half of them is not much more than usual
    for _ in range(7):
        fail(flaky, 4000.0)
    assert flaky.reason == "37 of 67 calls failed"  # 25 % above the 30 % that it is by now


@pytest.mark.parametrize(("successes", "failures"), [(3, 9), (42, 59), (416, 583)])
def test_the_fewer_calls_there_are_the_further_from_usual_must_they_be(successes: int, failures: int):
    """Where a third fails anyway: at 75 % of a dozen calls, 58 % of a hundred or a thousand."""
    it = circuit(consecutive=None, adaptive=True)
    it.baseline = 1 / 3
    succeed(it, times=successes)
    fail(it, times=failures - 1)
    assert it.state == CLOSED
    fail(it)
    assert it.state == OPEN


@given(st.floats(0.0, 1.0), st.integers(10, 200))
def test_a_target_where_all_calls_fail_is_opened_whatever_is_usual(usual: float, calls: int):
    it = circuit(consecutive=None, adaptive=True)
    it.baseline = usual
    for _ in range(calls):
        if it.state == CLOSED:
            fail(it)
    assert it.state == OPEN


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("calls", [12, 60])
def test_an_adaptive_circuit_that_knows_what_is_usual_is_not_opened_by_chance(share: float, calls: int):
    """Ten hours of steady failures in windows of a minute, looked at with every call."""
    opened = {True: 0, False: 0}
    for adaptive in opened:
        chance = Random(7)
        it = circuit(consecutive=None, adaptive=adaptive, window=60.0)
        it.baseline = share
        for step in range(600 * calls):
            now = step * 60.0 / calls
            permit = it.admit(now)
            if permit is None:
                continue
            state = it.state
            permit.failure(now) if chance.random() < share else permit.success(now)
            opened[adaptive] += (state, it.state) == (CLOSED, OPEN)
    assert opened[True] <= 12
    if (share, calls) == (0.4, 12):
        assert opened[False] > 20


def test_an_outage_of_a_busy_target_opens_an_adaptive_circuit_before_it_passes_for_usual():
    it = circuit(consecutive=None, adaptive=True)
    succeed(it, times=100_000)
    for n in range(100_000):
        if it.state:
            break
        fail(it, n * 1e-4)
    assert it.state == OPEN


# -- open and half-open


def test_each_failed_recovery_doubles_the_open_time_up_to_the_cap():
    it = circuit(consecutive=1, base=5.0, cap=60.0)
    now, times = 0.0, []
    fail(it, now)
    for _ in range(6):
        times.append(it.peek(now))
        now += times[-1]
        fail(it, now)
    assert times == [5, 10, 20, 40, 60, 60]


def test_a_recovery_begins_the_doubling_anew():
    it = half_open()
    fail(it, 5.0)
    assert it.peek(5.0) == 10.0
    succeed(it, 15.0, times=2)
    fail(it, 16.0)
    assert it.peek(16.0) == 5.0


def test_the_jitter_of_the_open_time_is_a_tenth_up_and_down():
    times = []
    for seed in range(500):
        it = Circuit("it", CircuitRules(consecutive=1, base=10.0), Random(seed))
        fail(it)
        times.append(it.peek(0.0))
    assert 9 <= min(times) < 9.1
    assert 10.9 < max(times) <= 11


def test_a_server_that_said_when_is_never_asked_sooner():
    for seed in range(200):
        it = Circuit("it", CircuitRules(consecutive=1), Random(seed))
        fail(it, hint=30.0)
        assert 30.0 <= it.peek(0.0) <= 33.0


@pytest.mark.parametrize(
    ("hint", "seconds"), [(3.0, 5.0), (1e9, 120 * 1.05), (float("nan"), 5.0), (-1.0, 5.0)]
)
def test_a_hint_extends_never_shortens_and_is_capped(hint: float, seconds: float):
    it = circuit(consecutive=1)
    fail(it, hint=hint)
    assert it.peek(0.0) == pytest.approx(seconds)


def test_a_single_lucky_probe_does_not_close_it():
    it = half_open(close_after=2)
    succeed(it, 5.0)
    assert it.state == HALF_OPEN
    fail(it, 5.0)
    assert (it.state, it.peek(5.0)) == (OPEN, 10.0)


def test_no_more_probes_go_out_than_are_needed_to_close():
    it = half_open(probes=3, close_after=4)
    out = [it.admit(5.0) for _ in range(10)]
    assert sum(permit is not None for permit in out) == 3
    for permit in out[:2]:
        assert permit is not None
        permit.success(6.0)
    assert it.admit(6.0) is not None  # two have succeeded, one is out, four are needed
    assert it.admit(6.0) is None


def test_a_probe_that_breaks_after_it_began_reopens_the_circuit():
    it = half_open()
    probe = admitted(it, 5.0)
    probe.success(6.0)  # frees its place
    assert it.admit(6.0) is not None
    probe.failure(7.0)
    assert it.state == OPEN


def test_who_is_refused_is_told_how_long_and_why():
    it = Circuit(("openai", "api.example", "gpt-x"), CircuitRules(), Middle())
    fail(it, times=5)
    refusal = it.refusal(2.0)
    assert (refusal.provider, refusal.model, refusal.retry_after) == ("openai", "gpt-x", 3.0)
    assert (refusal.sent, refusal.retryable, refusal.rescue) == (False, False, "any")
    assert str(refusal) == "openai/gpt-x: the circuit is open (5 failures in a row); it is tried again in 3 s"
    admitted(it, 5.0)
    assert "half-open" in str(it.refusal(5.0))


def test_an_isolated_circuit_refuses_until_it_is_reset():
    it = circuit()
    it.isolate(0.0, "maintenance")
    assert it.admit(1e9) is None
    assert it.refusal(1e9).retry_after is None
    assert "maintenance" in str(it.refusal(1e9))
    it.reset(1e9)
    assert it.admit(1e9) is not None


def test_figures_are_those_of_the_moment():
    it = circuit()
    succeed(it, 1.0, times=3)
    fail(it, 2.0, times=5)
    it.admit(3.0)
    stats = it.stats(3.0)
    assert (stats.state, stats.gauge, stats.retry_after, stats.since) == ("open", 2, 4.0, 2.0)
    assert (stats.total, stats.successful, stats.failed, stats.ignored, stats.rejected) == (9, 3, 5, 0, 1)
    assert it.stats(7.0).retry_after == 0.0


# -- other rules, the window


def test_new_rules_keep_what_was_counted():
    it = circuit(consecutive=None, min_calls=20)
    fail(it, times=10)
    it.adopt(CircuitRules(consecutive=None, min_calls=11, window=60.0))
    assert it.window.failures == 10
    fail(it)
    assert it.state == OPEN


@given(
    st.lists(st.tuples(st.floats(0, 5), st.booleans()), min_size=1, max_size=60),
    st.floats(0.1, 1000),
)
def test_a_window_holds_what_happened_in_nine_tenths_of_it_and_nothing_older_than_all_of_it(
    steps, seconds: float
):
    window, now, seen = Window(seconds), 0.0, []
    for pause, failed in steps:
        now += pause * seconds / 10
        window.add(now, failed)
        seen.append((now, failed))
        surely = [f for at, f in seen if at > now - 0.9 * seconds + 1e-6 * seconds]
        perhaps = [f for at, f in seen if at > now - seconds - 1e-6 * seconds]
        assert len(surely) <= window.calls <= len(perhaps)
        assert sum(surely) <= window.failures <= sum(perhaps)


@pytest.mark.parametrize(("seconds", "now"), [(25.6, 293908.48), (96.4, 4901756.84)])
def test_a_bucket_that_ends_an_ulp_too_early_for_its_own_calls_keeps_them(seconds: float, now: float):
    window = Window(seconds)
    for _ in range(50):
        window.add(now, True)
    assert (window.calls, window.failures) == (50, 50)


def test_an_unused_window_can_be_resized():
    window = Window(10.0)
    window.resize(20.0)
    window.add(5.0, True)
    window.add(20.0, True)
    assert window.calls == 2


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0.1, 100), st.floats(0.1, 100))
def test_a_resized_window_goes_on_with_what_it_held(times, before: float, after: float):
    window = Window(before)
    for now in sorted(times):
        window.add(now, True)
    held, now = window.calls, max(times)
    window.resize(after)
    assert (window.calls, window.failures) == (held, held)
    window.add(now, False)
    assert 1 <= window.calls <= held + 1
    window.add(now + 1.2 * after, True)
    assert (window.calls, window.failures) == (1, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ratio": 0},
        {"ratio": 1.1},
        {"ratio": None, "consecutive": None},
        {"ratio": None, "adaptive": True},
        {"min_calls": 0},
        {"consecutive": -1},
        {"probes": 0},
        {"close_after": 0},
        {"window": 0},
        {"base": 0},
        {"base": 10, "cap": 5},
        {"cap": inf},
        {"max_half_open": 0},
    ],
)
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="breaker"):
        CircuitRules(**wrong)
