"""Alerts: what fires, once, and when it is over. Under virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from llmpipe.errors import (
    AuthenticationFailed,
    CircuitOpen,
    InvalidRequest,
    LLMError,
    Overloaded,
    QuotaExceeded,
    RateLimited,
)
from llmpipe.middleware.alerts import (
    DEFAULT_RULES,
    Alert,
    Alerts,
    CircuitOpened,
    CostRate,
    ErrorRate,
    ErrorSeen,
    Latency,
    NoteSeen,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.types import Usage

WALL = 1_800_000_000.0


class Bench:
    """A chain under alerts, and what a sink was given."""

    def __init__(self, provider: Any, *middleware: Any, rules: Any = DEFAULT_RULES, **settings: Any) -> None:
        self.got: list[Alert] = []
        self.alerts = Alerts(rules=rules, sinks=(self.got.append,), **settings)
        loop = asyncio.get_running_loop()
        self.runtime = Runtime(wall=lambda: WALL + loop.time())
        self.chain = Chain(provider, self.alerts, *middleware, runtime=self.runtime)

    async def call(self, times: int = 1, **options: Any) -> None:
        for _ in range(times):
            with contextlib.suppress(LLMError):
                await self.chain.complete("hi", **options)
        await asyncio.sleep(0)  # the sink has a task of its own
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    @property
    def told(self) -> list[tuple[str, str, str]]:
        return [(alert.rule, alert.key, alert.state) for alert in self.got]


def mock(*script: Any, default: Any = "ok", name: str = "p", **settings: Any) -> MockProvider:
    return MockProvider(script, default=default, name=name, model="m", **settings)


# -- at once


@pytest.mark.parametrize(
    ("error", "rule"), [(AuthenticationFailed, "authentication"), (QuotaExceeded, "quota")]
)
async def test_a_wrong_key_and_a_used_up_quota_are_told_at_once(error: type[LLMError], rule: str):
    bench = Bench(mock(error("no", code="bad")))
    await bench.call()
    [alert] = bench.got
    assert (alert.rule, alert.key, alert.severity, alert.state) == (rule, "p", "critical", "firing")
    assert alert.summary == f"p/m: {error.type}: no"
    assert alert.details == {"model": "m", "status": error.default_status, "code": "bad"}
    assert alert.at == alert.since == WALL


async def test_a_failure_that_a_fallback_made_good_is_told_all_the_same():
    bench = Bench(mock(default=AuthenticationFailed("no")), Fallback(mock(name="spare")))
    await bench.call()
    assert bench.told == [("authentication", "p", "firing")]


async def test_a_failure_before_any_attempt_is_told_once():
    @layer(priority=300)
    async def refuse(call, call_next):
        raise QuotaExceeded("nothing left", provider="bank", sent=False)

    bench = Bench(mock(), refuse)
    await bench.call()
    assert bench.told == [("quota", "bank", "firing")]
    assert bench.got[0].count == 1


async def test_other_errors_fire_nothing_by_themselves():
    bench = Bench(mock(RateLimited("slow"), InvalidRequest("no"), Overloaded("full"), KeyError("x")))
    for _ in range(3):
        await bench.call()
    with pytest.raises(KeyError):
        await bench.call()
    assert bench.got == []


async def test_what_is_told_holds_no_credential_and_no_line_break():
    bench = Bench(mock(AuthenticationFailed("key sk-abcdefghijklmnop1234\nof jane.doe@example.com is wrong")))
    await bench.call()
    summary = bench.got[0].summary
    assert "sk-abc" not in summary
    assert "jane.doe" not in summary
    assert "\n" not in summary


# -- a circuit


async def test_an_open_circuit_is_told_once_and_that_it_closed():
    provider = mock(*[Overloaded("full")] * 5, default="ok")
    bench = Bench(provider, Breaker(consecutive=5, base=30.0), rules=(CircuitOpened(),))
    await bench.call(8)
    assert bench.told == [("circuit_open", "p/m", "firing")]
    assert bench.got[0].severity == "critical"
    assert bench.got[0].details == {"provider": "p", "endpoint": "mock", "model": "m"}
    await asyncio.sleep(60)
    await bench.call(3)
    assert bench.told[1:] == [("circuit_open", "p/m", "resolved")]
    assert bench.alerts.status(bench.runtime).firing == ()


async def test_a_circuit_that_is_closed_by_hand_is_over_though_nobody_calls():
    bench = Bench(mock(default=Overloaded("full")), Breaker(consecutive=3), rules=(CircuitOpened(),))
    await bench.call(3)
    assert bench.told == [("circuit_open", "p/m", "firing")]
    await asyncio.sleep(60)
    assert len(bench.got) == 1
    Breaker().board(bench.runtime).reset(asyncio.get_running_loop().time())
    await asyncio.sleep(16)
    assert bench.told[1:] == [("circuit_open", "p/m", "resolved")]


async def test_a_refusal_is_seen_once_though_a_note_and_an_error_tell_of_it():
    rules = (CircuitOpened(repeat=60.0),)
    bench = Bench(
        mock(default=Overloaded("busy")), Breaker(consecutive=2, base=600.0, cap=600.0), rules=rules
    )
    await bench.call(2)
    await bench.call(4)
    await asyncio.sleep(60)
    await bench.call()
    assert [alert.count for alert in bench.got] == [1, 5]


async def test_what_no_sink_could_write_is_replaced():
    @layer(name="noting", priority=450)
    async def noting(call: Any, call_next: Any) -> Any:
        call.note("test.noted", what="half \ud800\x1b[31m", big=2**70)
        return await call_next(call)

    bench = Bench(mock(), noting, rules=(NoteSeen(kind="test.noted", key=("what",)),))
    await bench.call()
    [alert] = bench.got
    for text in (alert.key, alert.summary, alert.details["what"]):
        assert text.isprintable()
        assert "half \ufffd" in text


async def test_a_refusal_that_nobody_noted_is_an_open_circuit_too():
    bench = Bench(mock(CircuitOpen("all targets are down", provider="router", model="m")))
    await bench.call()
    assert bench.told == [("circuit_open", "p/m", "firing")]


# -- over a window


async def test_an_error_rate_fires_beyond_its_share_and_not_at_it():
    bench = Bench(mock(*["ok"] * 18, Overloaded("a"), Overloaded("b"), Overloaded("c")), rules=(ErrorRate(),))
    await bench.call(20)  # 2 of 20 are 10 %
    assert bench.got == []
    assert bench.alerts.degraded(bench.runtime) == frozenset()
    await bench.call()
    [alert] = bench.got
    assert (alert.rule, alert.key, alert.severity) == ("error_rate", "p", "error")
    assert alert.value == pytest.approx(3 / 21)
    assert alert.limit == 0.1
    assert alert.details == {"attempts": 21, "failed": 3}
    assert bench.alerts.degraded(bench.runtime) == {"p"}


async def test_an_error_rate_is_not_judged_below_its_minimum():
    bench = Bench(mock(default=Overloaded("full")), rules=(ErrorRate(minimum=5),))
    await bench.call(4)
    assert bench.got == []
    await bench.call()
    assert bench.told == [("error_rate", "p", "firing")]


async def test_failures_are_judged_when_there_are_enough_calls_though_the_last_ones_went_well():
    bench = Bench(mock(*[Overloaded("full")] * 3), rules=(ErrorRate(minimum=10),))
    await bench.call(9)
    assert bench.got == []
    await bench.call()
    assert bench.told == [("error_rate", "p", "firing")]


async def test_what_the_caller_did_wrong_is_no_failure_of_the_provider():
    bench = Bench(mock(default=InvalidRequest("no")), rules=(ErrorRate(minimum=1),))
    await bench.call(10)
    assert bench.got == []


async def test_an_error_rate_is_over_when_the_window_has_passed_though_nobody_calls():
    bench = Bench(mock(default=Overloaded("full")), rules=(ErrorRate(minimum=5, window=100.0),))
    await bench.call(5)
    assert bench.told == [("error_rate", "p", "firing")]
    await asyncio.sleep(95)
    assert len(bench.got) == 1
    await asyncio.sleep(11)  # the window, and a step
    assert bench.told[1:] == [("error_rate", "p", "resolved")]
    assert bench.alerts.degraded(bench.runtime) == frozenset()


@pytest.mark.parametrize(
    ("per", "keys"),
    [
        ("all", ["all"]),
        ("provider", ["p"]),
        ("target", ["p/one", "p/two"]),
        ("tenant", ["x", "y"]),
    ],
)
async def test_a_window_counts_together_what_it_is_told_to(per: str, keys: list[str]):
    bench = Bench(mock(default=Overloaded("full")), rules=(ErrorRate(minimum=2, per=per),))
    for model, tenant in (("one", "x"), ("one", "x"), ("two", "y"), ("two", "y")):
        await bench.call(model=model, tenant=tenant)
    assert [alert.key for alert in bench.got] == keys


async def test_latency_is_the_exact_percentile():
    provider = mock(*["ok"] * 95, *[[Wait(6), "late"]] * 6)
    bench = Bench(provider, rules=(Latency(window=1e6),))
    await bench.call(100)  # 5 of 100 are slower than 5 s: the 95th percentile is not
    assert bench.got == []
    await bench.call()
    [alert] = bench.got
    assert (alert.rule, alert.key, alert.severity) == ("latency", "p", "warning")
    assert alert.value == pytest.approx(6 / 101)
    assert alert.details == {"attempts": 101, "slow": 6}


async def test_mean_latency_is_that_of_the_window():
    provider = mock(*[[Wait(1), "a"]] * 10, *[[Wait(10), "b"]] * 3)
    bench = Bench(provider, rules=(Latency(statistic="mean", above=2.0, minimum=10, window=1e6),))
    await bench.call(11)  # (10 + 10) / 11
    assert bench.got == []
    await bench.call()
    assert bench.got[0].value == pytest.approx(30 / 12)


async def test_latency_of_a_stream_is_that_to_its_first_content():
    bench = Bench(mock(default=["a", Wait(60), "b"]), rules=(Latency(minimum=1),))
    async with bench.chain.stream("hi") as reply:
        async for _ in reply:
            pass
    await bench.call()
    assert bench.told == [("latency", "p", "firing")]  # the full one, and not the stream
    assert bench.got[0].details == {"attempts": 2, "slow": 1}


async def test_cost_fires_when_a_window_costs_more_and_is_over_when_it_has_passed():
    prices = {"m": {"input": 1e6, "output": 0.0}}  # a USD for each token of input
    provider = mock(usage=Usage(30, 0))
    bench = Bench(provider, Cost(prices=prices), rules=(CostRate(),))
    await bench.call(3)
    assert bench.got == []
    await asyncio.sleep(1800)
    await bench.call()  # 120 USD in half an hour
    [alert] = bench.got
    assert (alert.rule, alert.key, alert.value, alert.limit) == ("cost", "all", 120.0, 100.0)
    await asyncio.sleep(1990)
    assert bench.told[-1] == ("cost", "all", "resolved")
    assert {state for _, _, state in bench.told[:-1]} == {"firing"}


async def test_cost_of_attempts_that_failed_counts_too():
    prices = {"m": {"input": 1e6, "output": 0.0}}
    broken = Overloaded("full", billed="yes")
    bench = Bench(mock(default=broken), Cost(prices=prices), rules=(CostRate(above=0.5),))
    await bench.call()
    assert bench.told == [("cost", "all", "firing")]


# -- notes


async def test_a_budget_alert_is_told_for_each_scope_and_share():
    @layer(priority=500)
    async def budget(call, call_next):
        scope, share = call.tags["scope"], float(call.tags["share"])
        call.note("budget.alert", account=scope, share=share, spent_usd="8.1", limit_usd="10", resets_at=None)
        return await call_next(call)

    bench = Bench(mock(), budget)
    for scope, share in (("tenant a", "0.8"), ("tenant a", "0.8"), ("tenant a", "0.9"), ("tenant b", "0.8")):
        await bench.call(tags={"scope": scope, "share": share})
    assert bench.told == [
        ("budget", f"{key}", "firing") for key in ("tenant a/0.8", "tenant a/0.9", "tenant b/0.8")
    ]
    assert bench.got[0].summary == "budget.alert: account tenant a, share 0.8, spent_usd 8.1, limit_usd 10"
    assert bench.got[0].details["spent_usd"] == "8.1"
    await asyncio.sleep(400)
    assert len(bench.got) == 3  # an event has no end
    assert bench.alerts.status(bench.runtime).firing == ()


async def test_a_note_may_be_ended_by_another():
    @layer(priority=500)
    async def noting(call, call_next):
        call.note(call.tags["kind"], name=call.tags["name"])
        return await call_next(call)

    rule = NoteSeen(name="fire", kind="fire.begun", key=("name",), resolved_by="fire.out")
    bench = Bench(mock(), noting, rules=(rule,))
    for kind, name in (("fire.begun", "a"), ("fire.out", "b"), ("other", "a"), ("fire.out", "a")):
        await bench.call(tags={"kind": kind, "name": name})
    assert bench.told == [("fire", "a", "firing"), ("fire", "a", "resolved")]


# -- once, and over


async def test_the_same_trouble_is_not_told_again_before_its_time():
    bench = Bench(mock(default=AuthenticationFailed("no")), rules=(ErrorSeen(),), repeat=300.0)
    for _ in range(29):
        await bench.call()
        await asyncio.sleep(10)
    assert len(bench.got) == 1
    await asyncio.sleep(10)
    await bench.call()
    assert [alert.count for alert in bench.got] == [1, 29]
    assert bench.got[1].since == WALL


async def test_an_error_is_over_after_some_quiet():
    rule = ErrorSeen(name="authentication", quiet=100.0)
    bench = Bench(mock(AuthenticationFailed("no"), AuthenticationFailed("no")), rules=(rule,))
    await bench.call()
    await asyncio.sleep(90)
    await bench.call()
    await asyncio.sleep(90)
    assert bench.told == [("authentication", "p", "firing")]
    await asyncio.sleep(30)
    assert bench.told[1:] == [("authentication", "p", "resolved")]


async def test_one_that_comes_and_goes_is_told_once_in_its_time():
    rule = NoteSeen(name="door", kind="door.open", resolved_by="door.shut")

    @layer(priority=500)
    async def noting(call, call_next):
        call.note(call.tags["kind"])
        return await call_next(call)

    bench = Bench(mock(), noting, rules=(rule,), repeat=300.0)
    for _ in range(5):
        for kind in ("door.open", "door.shut"):
            await bench.call(tags={"kind": kind})
            await asyncio.sleep(10)
    assert bench.told == [("door", "all", "firing"), ("door", "all", "resolved")]
    await asyncio.sleep(250)
    await bench.call(tags={"kind": "door.open"})
    assert bench.told[2:] == [("door", "all", "firing")]


async def test_what_is_forgotten_takes_no_memory_and_no_timer():
    bench = Bench(mock(AuthenticationFailed("no"), *[Overloaded("x")] * 3), repeat=100.0)
    await bench.call(10)
    await asyncio.sleep(3600)
    desk = bench.runtime.states("alerts")["alerts"]
    assert desk.cases.by_id == {}
    assert desk._timer is None
    await asyncio.sleep(5000)
    await bench.call()  # and the windows of an hour are gone with the next call
    assert {key for _, key in desk._meters} <= {"p", "all"}


async def test_models_that_callers_make_up_are_bounded():
    bench = Bench(mock(default=Overloaded("full")), rules=(ErrorRate(minimum=1, per="target"),))
    for number in range(1100):
        await bench.call(model=f"made-up-{number}")
    desk = bench.runtime.states("alerts")["alerts"]
    assert len(desk._lanes) <= 1001
    assert len(desk._meters) <= 1001
    assert len(desk.cases.by_id) <= 1002


async def test_a_chain_in_a_chain_is_watched_once():
    bench = Bench(mock(default=Overloaded("full")), rules=(ErrorRate(minimum=4),))
    outer = Chain(bench.chain, bench.alerts, runtime=bench.runtime)
    for _ in range(3):
        with pytest.raises(Overloaded):
            await outer.complete("hi")
    await bench.call(0)
    assert bench.got == []


async def test_a_chain_that_is_built_anew_knows_what_is_wrong():
    bench = Bench(mock(default=AuthenticationFailed("no")))
    await bench.call()
    other: list[Alert] = []
    rules = (*DEFAULT_RULES, ErrorSeen(name="busy", types=("RATE_LIMIT",)))
    alerts = Alerts(sinks=(other.append,), rules=rules)
    again = Chain(mock(default=AuthenticationFailed("no")), alerts, runtime=bench.runtime)
    with pytest.raises(AuthenticationFailed):
        await again.complete("hi")
    await asyncio.sleep(1)
    assert other == []
    assert [alert.key for alert in alerts.status(bench.runtime).firing] == ["p"]
    less = Chain(mock(), Alerts(sinks=(other.append,), rules=(ErrorRate(),)), runtime=bench.runtime)
    await less.complete("hi")
    await asyncio.sleep(1)
    assert [(alert.rule, alert.state) for alert in other] == [("authentication", "resolved")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (ErrorRate(minimum=4), ErrorRate(minimum=5, above=0.2, severity="critical")),
        (ErrorRate(minimum=4), ErrorRate(minimum=4, window=600.0, repeat=60.0)),
        (
            ErrorSeen(types=("RATE_LIMIT",)),
            ErrorSeen(types=("RATE_LIMIT",), quiet=900.0, severity="critical"),
        ),
    ],
)
async def test_a_rule_that_is_set_otherwise_does_not_call_what_is_wrong_over(before: Any, after: Any):
    bench = Bench(mock(default=RateLimited("slow down")), rules=(before,))
    await bench.call(6)
    assert [alert.state for alert in bench.got] == ["firing"]
    other: list[Alert] = []
    alerts = Alerts(rules=(after,), sinks=(other.append,))
    again = Chain(mock(default=RateLimited("slow down")), alerts, runtime=bench.runtime)
    for _ in range(2):
        with pytest.raises(RateLimited):
            await again.complete("hi")
        await asyncio.sleep(60)
    assert "resolved" not in [alert.state for alert in other]
    [firing] = alerts.status(bench.runtime).firing
    assert firing.severity == after.severity
    await asyncio.sleep(1200)
    assert [alert.state for alert in other][-1] == "resolved"


async def test_a_rule_that_counts_something_else_now_begins_anew():
    bench = Bench(mock(default=Wait(6.0)), rules=(Latency(minimum=2, statistic="mean"),))
    await bench.call(3)
    assert [alert.state for alert in bench.got] == ["firing"]
    other: list[Alert] = []
    again = Alerts(rules=(Latency(minimum=2, above=10.0, statistic="p50"),), sinks=(other.append,))
    await Chain(mock(default=Wait(6.0)), again, runtime=bench.runtime).complete("hi")
    await asyncio.sleep(60)
    assert [alert.state for alert in other] == ["resolved"]


async def test_a_rule_of_another_kind_under_the_same_name_ends_what_was_told_of_the_first():
    bench = Bench(mock(default=RateLimited("no")), rules=(ErrorRate(name="r", minimum=1),))
    await bench.call()
    other: list[Alert] = []
    alerts = Alerts(rules=(CircuitOpened(name="r"),), sinks=(other.append,))
    await Chain(mock(), alerts, runtime=bench.runtime).complete("hi")
    await asyncio.sleep(1)
    assert [(alert.rule, alert.state) for alert in other] == [("r", "resolved")]
    assert alerts.degraded(bench.runtime) == frozenset()


async def test_each_account_is_told_of_by_itself_when_a_real_budget_is_nearly_used_up():
    """The rule reads what Budget notes, whatever that is called there."""
    prices: dict[str, Any] = {"*": {"input": 1, "output": 0}}
    rule = Rule(usd="0.0002", period="day", per="account", alert_at=0.5)
    told: list[Alert] = []
    provider = MockProvider(default="hi", usage=Usage(60, 1))
    chain = Chain(provider, Alerts(sinks=(told.append,)), Budget(rules=rule, prices=prices))
    for tenant in ("a", "b", "a", "b"):
        await chain.complete("hi", tenant=tenant, max_tokens=1)
    await asyncio.sleep(1)
    assert [(alert.rule, alert.key) for alert in told] == [
        ("budget", f"day:account/account={tenant}/0.5") for tenant in ("a", "b")
    ]
    await chain.aclose()
