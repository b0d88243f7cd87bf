"""What a notice says that something is over: how it is now, how long it lasted, what it was."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmpipe.errors import AuthenticationFailed, Overloaded
from llmpipe.middleware.alerts import (
    Alert,
    Alerts,
    CircuitOpened,
    CostRate,
    Email,
    ErrorRate,
    ErrorSeen,
    Latency,
    NoteSeen,
    ResourceUse,
    Slack,
)
from llmpipe.middleware.alerts.alert import span
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.metrics.resources import Sample
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.types import Usage
from tests.middleware.test_alerts import Bench, mock


@layer(priority=500)
async def noting(call, call_next):
    call.note(call.tags["kind"], **{name: value for name, value in call.tags.items() if name != "kind"})
    return await call_next(call)


async def test_an_error_rate_that_has_sunk_says_how_high_it_is_now():
    bench = Bench(mock(*[Overloaded("full")] * 2), rules=(ErrorRate(minimum=4, window=1e6),))
    await bench.call(4)
    await asyncio.sleep(300)
    await bench.call(36)  # 2 of 40
    await asyncio.sleep(60_000)
    firing, over = bench.got[0], bench.got[-1]
    assert firing.summary == "p: 50.0% of 4 attempts failed in 1e+06 s, more than 10.0%"
    assert over.state == "resolved"
    assert over.summary.startswith("p: 5.0% of 40 attempts failed in 1e+06 s; over after ")
    assert over.was == firing.summary
    assert (over.value, over.limit) == (0.05, 0.1)
    assert over.details == {"attempts": 40, "failed": 2}


async def test_a_window_in_which_nothing_happened_says_so_and_how_long_it_lasted():
    bench = Bench(mock(default=Overloaded("full")), rules=(ErrorRate(minimum=5, window=100.0),))
    await bench.call(5)
    await asyncio.sleep(110)
    over = bench.got[-1]
    assert over.summary == "p: no attempts in 100 s; over after 1 min 45 s"
    assert (over.value, over.lasted, over.details) == (None, 105.0, {"attempts": 0})


async def test_a_window_with_too_few_calls_to_judge_by_says_what_there_was():
    bench = Bench(mock(*[Overloaded("full")] * 5), rules=(ErrorRate(minimum=5, window=100.0),))
    await bench.call(5)
    await asyncio.sleep(50)
    await bench.call(2)
    await asyncio.sleep(60)
    assert bench.got[-1].summary.startswith("p: 0.0% of 2 attempts failed in 100 s; over after ")


async def test_latency_says_how_many_are_slow_now_or_the_mean():
    for statistic, was, now in (
        ("p95", "p: 50.0% of 4 attempts in 1e+06 s took over 5 s, more than the 5% of p95",
         "p: 2.0% of 100 attempts in 1e+06 s took over 5 s"),
        ("mean", "p: 7.50 s on average of 4 attempts in 1e+06 s, more than 5 s",
         "p: 0.30 s on average of 100 attempts in 1e+06 s"),
    ):  # fmt: skip
        provider = mock("ok", "ok", [Wait(15), "late"], [Wait(15), "late"])
        bench = Bench(provider, rules=(Latency(minimum=4, window=1e6, statistic=statistic),))
        await bench.call(100)
        await asyncio.sleep(60_000)
        assert bench.got[0].summary == was
        assert bench.got[-1].summary.startswith(f"{now}; over after ")


async def test_cost_says_what_was_spent_since():
    prices = {"m": {"input": 1e6, "output": 0.0}}  # a USD for each token of input
    bench = Bench(mock(usage=Usage(60, 0)), Cost(prices=prices), rules=(CostRate(),))
    await bench.call(2)
    await asyncio.sleep(3000)
    await bench.call()
    await asyncio.sleep(900)
    over = bench.got[-1]
    assert over.summary.startswith("all: 60.00 USD in 3600 s; over after 1 h ")
    assert over.value == 60.0


async def test_a_circuit_says_that_it_is_closed():
    provider = mock(*[Overloaded("full")] * 3)
    bench = Bench(provider, Breaker(consecutive=3, base=30.0), rules=(CircuitOpened(),))
    await bench.call(3)
    await asyncio.sleep(60)
    await bench.call(3)
    over = bench.got[-1]
    assert over.summary == "p/m: the circuit is closed; over after 1 min"
    assert over.was.startswith("p/m: the circuit is open: ")


async def test_an_error_that_is_seen_no_more_says_since_when():
    rule = ErrorSeen(name="keys", types=("AUTHENTICATION_ERROR", "QUOTA_EXCEEDED"), quiet=100.0)
    bench = Bench(mock(AuthenticationFailed("no")), rules=(rule,))
    await bench.call()
    await asyncio.sleep(200)
    over = bench.got[-1]
    assert over.summary == "p: no AUTHENTICATION_ERROR or QUOTA_EXCEEDED for 105 s; over after 1 min 45 s"
    assert over.was == "p/m: AUTHENTICATION_ERROR: no"


async def test_a_note_that_ends_another_is_told_itself():
    rule = NoteSeen(name="fire", kind="fire.begun", key=("name",), resolved_by="fire.out")
    bench = Bench(mock(), noting, rules=(rule,))
    await bench.call(tags={"kind": "fire.begun", "name": "a", "floor": "3"})
    await asyncio.sleep(7200)
    await bench.call(tags={"kind": "fire.out", "name": "a", "by": "ada"})
    over = bench.got[-1]
    assert over.summary == "fire.out: name a, by ada; over after 2 h"
    assert over.was == "fire.begun: name a, floor 3"
    assert over.details == {"name": "a", "by": "ada"}


async def test_a_note_that_is_seen_no_more_says_since_when():
    bench = Bench(mock(), noting, rules=(NoteSeen(kind="x.y", quiet=100.0),))
    await bench.call(tags={"kind": "x.y"})
    await asyncio.sleep(200)
    assert bench.got[-1].summary == "all: no x.y for 105 s; over after 1 min 45 s"


async def test_a_resource_says_what_is_in_use_now():
    readings = {"value": 0.9}
    got: list[Alert] = []
    rule = ResourceUse(resource="memory", above=0.85, lasting=0.0)
    alerts = Alerts(rules=(rule,), sinks=(got.append,), sampler=lambda: Sample(memory=readings["value"]))
    async with Chain(MockProvider(default="ok"), alerts) as chain:
        await chain.complete("hi")
        await asyncio.sleep(60)
        readings["value"] = 0.5
        await asyncio.sleep(60)
    assert (got[0].state, got[-1].state, got[-1].value) == ("firing", "resolved", 0.5)
    assert got[-1].summary.startswith("memory is 0.5; over after ")


async def test_what_no_rule_looks_at_any_more_says_so():
    bench = Bench(mock(default=AuthenticationFailed("no")))
    await bench.call()
    got: list[Alert] = []
    other = Chain(mock(), Alerts(rules=(ErrorRate(),), sinks=(got.append,)), runtime=bench.runtime)
    await other.complete("hi")
    await asyncio.sleep(1)
    assert [alert.summary for alert in got] == ["p: nothing watches it any more; over after 0 s"]


async def test_what_a_note_holds_is_hidden_when_it_ends_something_too():
    rule = NoteSeen(name="key", kind="key.bad", resolved_by="key.good")
    bench = Bench(mock(), noting, rules=(rule,))
    await bench.call(tags={"kind": "key.bad"})
    await bench.call(tags={"kind": "key.good", "of": "sk-abcdefghijklmnop1234\nof jane.doe@example.com"})
    told = bench.got[-1].summary + str(bench.got[-1].details)
    assert bench.got[-1].state == "resolved"
    assert "sk-abc" not in told
    assert "jane.doe" not in told
    assert "\n" not in bench.got[-1].summary


async def test_a_key_that_is_overdue_is_told_once_a_day_by_default():
    @layer(priority=900)
    async def looked_up(call, call_next):
        call.note("credential.overdue", provider="p", key="1", days=3.5)
        return await call_next(call)

    bench = Bench(mock(), looked_up)
    for _ in range(2 * 24 * 2):  # two days
        await bench.call()
        await asyncio.sleep(1800)
    assert bench.told == [("key_due", "p/1", "firing")] * 2
    assert bench.got[0].severity == "warning"
    assert bench.got[0].summary == "credential.overdue: provider p, key 1, days 3.5"


# -- the words of sinks

OVER = Alert(
    rule="error_rate",
    key="openai",
    severity="critical",
    state="resolved",
    summary="openai: 2.0% of 50 attempts failed",
    was="openai: 50.0% <!channel>\nmore",
    at=1_800_000_000.0,
    since=1_799_999_697.5,
)


def test_sinks_say_how_long_it_lasted_and_what_it_was():
    [attachment] = Slack(url="https://hooks.example.org/x").body(OVER)["attachments"]
    facts = {field["title"]: field["value"] for field in attachment["fields"]}
    assert facts["Lasted"] == "5 min 2 s"
    assert facts["Was"] == "openai: 50.0% &lt;!channel&gt;\nmore"
    mail = Email(host="mail", sender="a@example.org", to=("b@example.org",)).message(OVER).get_content()
    assert "lasted: 5 min 2 s\nwas: openai: 50.0% <!channel> more\n" in mail
    told = OVER.json("shop")
    assert (told["lasted"], told["was"]) == (302.5, OVER.was)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"), (3601, "1 h"),
        (3661, "1 h 1 min"), (90_000, "1 d 1 h"), (86_400 * 400.0, "400 d"),
    ],
)  # fmt: skip
def test_a_span_is_told_to_its_two_largest_units(seconds: float, told: str):
    assert span(seconds) == told


def test_a_clock_that_was_set_back_lasts_nothing():
    told: Any = Alert(rule="r", key="k", severity="error", summary="s", at=5.0, since=9.0).json("")
    assert told["lasted"] == 0.0


async def test_what_is_over_has_not_lasted_less_than_nothing_where_the_clock_was_set_back():
    wall = [1_800_000_000.0]
    got: list[Alert] = []
    alerts = Alerts(rules=(ErrorSeen(quiet=60.0),), sinks=(got.append,))
    runtime = Runtime(wall=lambda: wall[0])
    chain = Chain(MockProvider([AuthenticationFailed("no")]), alerts, runtime=runtime)
    with pytest.raises(AuthenticationFailed):
        await chain.complete("hi")
    wall[0] -= 7200.0
    await asyncio.sleep(120)
    fired, over = got
    assert (fired.state, over.state) == ("firing", "resolved")
    assert over.summary.endswith("over after 0 s")
    assert over.lasted == 0
