"""The way of an alert to its sinks: in nobody's way, tried again, counted when it is lost. Virtual time."""

from __future__ import annotations

import asyncio
import logging
import tomllib
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from llmpipe.errors import AuthenticationFailed, ConfigError
from llmpipe.middleware.alerts import (
    DEFAULT_RULES,
    Alert,
    Alerts,
    CostRate,
    Email,
    ErrorRate,
    ErrorSeen,
    LogSink,
    NoteSeen,
    PagerDuty,
    ResourceUse,
    Slack,
    Undelivered,
    Webhook,
)
from llmpipe.middleware.alerts.post import Post
from llmpipe.middleware.metrics.resources import Resources, Sample
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime


@define
class Scripted:
    """A sink that does what its script says: an error to raise, seconds to take, or None."""

    script: list[Any]
    name: str = "scripted"
    at_least: str = "info"
    got: list[tuple[float, str]] = field(factory=list)
    tried: int = 0

    async def send(self, alert: Alert) -> None:
        self.tried += 1
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            await asyncio.sleep(step)
        self.got.append((asyncio.get_running_loop().time(), alert.key))


def alert(key: str = "k", severity: Any = "error") -> Alert:
    return Alert(rule="r", key=key, severity=severity, summary="s")


async def call(chain: Chain) -> None:
    with pytest.raises(AuthenticationFailed):
        await chain.complete("hi")


def failing(*sinks: Any, name: str = "p", runtime: Runtime | None = None) -> tuple[Chain, Alerts]:
    alerts = Alerts(sinks=sinks)
    provider = MockProvider(default=AuthenticationFailed("no"), name=name, model="m")
    return Chain(provider, alerts, runtime=runtime), alerts


async def test_a_sink_that_hangs_delays_no_call_and_no_other_sink():
    hanging, other = Scripted([1e9] * 10, name="hanging"), Scripted([], name="other")
    chain, alerts = failing(hanging, other)
    began = asyncio.get_running_loop().time()
    await call(chain)
    assert asyncio.get_running_loop().time() == began
    await asyncio.sleep(0.1)
    assert [key for _, key in other.got] == ["p"]
    await asyncio.sleep(200)
    first = next(one for one in alerts.status(chain.runtime).sinks if one.name == "hanging")
    assert (first.sent, first.failed, first.retries, hanging.tried) == (0, 1, 5, 6)


async def test_what_a_sink_refuses_for_a_moment_is_tried_again_with_growing_delays():
    sink = Scripted([Undelivered("busy"), OSError("x"), Undelivered("busy", retry_after=20.0), None])
    post = Post(sink, Runtime(seed=1), 10)
    post.put(alert())
    await asyncio.sleep(0.4)
    assert (sink.tried, post.status.queued) == (1, 1)
    await asyncio.sleep(3)
    assert sink.tried == 3
    await asyncio.sleep(19)
    assert (sink.tried, sink.got) == (3, [])
    await asyncio.sleep(3)
    assert (post.status.sent, post.status.failed, post.status.retries) == (1, 0, 3)


async def test_what_a_sink_refuses_for_good_is_not_tried_again(caplog: pytest.LogCaptureFixture):
    sink = Scripted([Undelivered("it was answered with status 404", retryable=False)])
    post = Post(sink, Runtime(), 10)
    post.put(alert("a"))
    post.put(alert("b"))
    await asyncio.sleep(1)
    assert [key for _, key in sink.got] == ["b"]
    assert (post.status.sent, post.status.failed) == (1, 1)
    assert "alert r:a was not delivered to scripted: it was answered with status 404" in caplog.text


async def test_what_a_sink_raises_is_logged_without_credentials(caplog: pytest.LogCaptureFixture):
    post = Post(Scripted([ValueError("token=abc api_key=sk-1234567890abcdef")] * 6), Runtime(), 10)
    post.put(alert())
    await asyncio.sleep(200)
    assert post.status.failed == 1
    assert "ValueError" in caplog.text
    assert "sk-1234567890" not in caplog.text


async def test_a_full_queue_drops_the_oldest_and_counts_them():
    sink = Scripted([5.0])
    post = Post(sink, Runtime(), 3)
    post.put(alert("first"))
    await asyncio.sleep(1)
    for number in range(5):
        post.put(alert(str(number)))
    assert (post.status.dropped, post.status.queued) == (2, 4)
    await asyncio.sleep(10)
    assert [key for _, key in sink.got] == ["first", "2", "3", "4"]
    assert (post.status.sent, post.status.queued) == (4, 0)


async def test_a_sink_gets_what_is_bad_enough_for_it():
    sink = Scripted([], at_least="error")
    post = Post(sink, Runtime(), 10)
    for severity in ("info", "warning", "error", "critical"):
        post.put(alert(severity, severity))
    await asyncio.sleep(1)
    assert [key for _, key in sink.got] == ["error", "critical"]


async def test_closing_delivers_what_waits():
    sink = Scripted([2.0])
    chain, alerts = failing(sink)
    await call(chain)
    desk = chain.runtime.states("alerts")["alerts"]
    await asyncio.sleep(0.5)
    for number in range(3):
        desk.posts["scripted"].put(alert(str(number)))
    await chain.aclose()
    assert [key for _, key in sink.got] == ["p", "0", "1", "2"]
    assert sink.tried == 4  # the one under way was waited for, and not sent twice
    assert alerts.status(chain.runtime).sinks[0].sent == 4


async def test_closing_while_a_delivery_waits_to_be_tried_again_tries_it_once_more():
    sink = Scripted([Undelivered("busy")])
    chain, _ = failing(sink)
    await call(chain)
    await asyncio.sleep(0.1)
    await chain.aclose()
    assert [key for _, key in sink.got] == ["p"]


async def test_closing_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture):
    sink = Scripted([1e9] * 9)
    chain, alerts = failing(sink)
    await call(chain)
    await asyncio.sleep(0.1)
    await asyncio.wait_for(chain.aclose(), 6.0)
    status = alerts.status(chain.runtime).sinks[0]
    assert (status.queued, status.failed, sink.got) == (0, 1, [])
    assert "1 alerts were not delivered to scripted: out of time" in caplog.text
    await asyncio.sleep(100)
    assert len(asyncio.all_tasks()) == 1


async def test_after_closing_it_goes_on_when_it_is_needed():
    sink = Scripted([])
    runtime = Runtime()
    chain, _ = failing(sink, runtime=runtime)
    await call(chain)
    await chain.aclose()
    again, _ = failing(sink, name="other", runtime=runtime)
    await call(again)
    await asyncio.sleep(1)
    assert [key for _, key in sink.got] == ["p", "other"]


async def test_a_worker_that_is_idle_is_no_task():
    chain, _ = failing(Scripted([]))
    await call(chain)
    await asyncio.sleep(1)
    assert len(asyncio.all_tasks()) == 1


async def test_alerts_are_logged_at_the_level_of_their_severity(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "llmpipe.alert"):
        chain = Chain(
            MockProvider(default=AuthenticationFailed("no"), name="p", model="m"),
            Alerts(rules=(ErrorSeen(quiet=60.0, severity="critical"),)),
        )
        await call(chain)
        await asyncio.sleep(120)
    records: list[Any] = caplog.records
    first, second = records
    assert (first.levelno, second.levelno) == (logging.CRITICAL, logging.INFO)
    assert first.getMessage() == "firing error: p/m: AUTHENTICATION_ERROR: no"
    assert first.llmpipe["id"] == "error:p"
    assert first.llmpipe["state"] == "firing"
    assert second.llmpipe["state"] == "resolved"


# -- resources


async def test_a_resource_fires_when_it_was_over_for_long_enough_and_ends_when_it_is_not():
    readings = {"value": 0.5}
    got: list[Alert] = []
    alerts = Alerts(
        rules=(ResourceUse(resource="memory", above=0.85, lasting=60.0),),
        sinks=(got.append,),
        sampler=lambda: Sample(memory=readings["value"]),
    )
    chain = Chain(MockProvider(default="ok"), alerts)
    await chain.complete("hi")
    await asyncio.sleep(120)
    readings["value"] = 0.9
    await asyncio.sleep(50)
    readings["value"] = 0.5  # a peak that is too short
    await asyncio.sleep(100)
    assert got == []
    readings["value"] = 0.9
    await asyncio.sleep(100)
    assert [(one.rule, one.key, one.state, one.value) for one in got] == [("memory", "all", "firing", 0.9)]
    readings["value"] = 0.5
    await asyncio.sleep(50)
    assert [one.state for one in got] == ["firing", "resolved"]
    await chain.aclose()
    await asyncio.sleep(100)
    assert len(asyncio.all_tasks()) == 1


async def test_a_sampler_that_fails_is_told_once_and_asked_again(caplog: pytest.LogCaptureFixture):
    def broken() -> Sample:
        raise OSError("no /proc")

    runtime = Runtime()
    resources = Resources.start(runtime, interval=1.0, sampler=broken)
    await asyncio.sleep(10.5)
    assert (resources.failed, resources.latest) == (11, None)
    assert len([one for one in caplog.records if "measuring resources" in one.getMessage()]) == 1
    await runtime.aclose()


# -- configuration


def test_alerts_are_made_from_plain_settings():
    made: Any = build(
        "alerts",
        {
            "repeat": 60,
            "rules": [
                {"when": "error_rate", "above": 0.05, "window": 300},
                {"when": "error", "name": "keys", "types": ["AUTHENTICATION_ERROR", "QUOTA_EXCEEDED"]},
                {"when": "cost", "above": 10, "severity": "critical"},
                {"when": "note", "kind": "budget.alert", "key": ["scope"]},
                {"when": "circuit_open"},
                {"when": "latency", "statistic": "p99", "per": "target"},
                {"when": "resource", "resource": "loop_lag", "above": 0.5},
            ],
            "sinks": [
                "log",
                {"kind": "slack", "url": "https://hooks.example.org/services/T0/B0/xyz"},
                {"kind": "pagerduty", "routing_key": "R0UTING"},
                {"kind": "webhook", "url": "https://example.org/hook?key=xyz", "headers": {"X-Key": "xyz"}},
                {"kind": "email", "host": "mail", "sender": "a@example.org", "to": "b@example.org"},
            ],
        },
    )
    assert made.rules[0] == ErrorRate(above=0.05)
    assert made.rules[2] == CostRate(above=10.0, severity="critical")
    assert made.rules[3] == NoteSeen(key=("scope",))
    assert [type(sink) for sink in made.sinks] == [LogSink, Slack, PagerDuty, Webhook, Email]
    assert "xyz" not in repr(made)
    assert "R0UTING" not in repr(made)


def test_the_chain_file_of_the_page_is_right():
    text = (Path(__file__).parents[2] / "examples" / "middleware" / "alerts.toml").read_text()
    text = text.replace("${SLACK_WEBHOOK}", "https://hooks.example.org/x").replace("${PAGERDUTY_KEY}", "key")
    [settings] = tomllib.loads(text)["middleware"]
    made: Any = build(settings.pop("use"), settings)
    assert [rule.name for rule in made.rules] == [
        "keys", "circuit_open", "error_rate", "latency", "cost", "budget", "memory"
    ]  # fmt: skip
    assert [sink.name for sink in made.sinks] == ["slack", "pagerduty", "email"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"rules": [{"when": "eror_rate"}]}, "rules[0].when is one of"),
        ({"rules": [{"when": "eror_rate"}]}, "did you mean 'error_rate'?"),
        ({"rules": [{"above": 1}]}, "rules[0].when"),
        ({"rules": [{"when": "cost", "abov": 1}]}, "abov"),
        ({"rules": [{"when": "cost", "above": "much"}]}, "expected a number"),
        ({"rules": [{"when": "cost", "above": 0}]}, "above is above 0"),
        ({"rules": [{"when": "error_rate", "above": 1.5}]}, "a share below 1"),
        ({"rules": [{"when": "latency", "statistic": "p100"}]}, "mean, or p1 to p99"),
        ({"rules": [{"when": "cost", "severity": "bad"}]}, "bad not in literal"),
        ({"rules": [{"when": "cost", "per": "planet"}]}, "planet not in literal"),
        ({"rules": [{"when": "cost"}, {"when": "cost"}]}, "two rules are called cost"),
        ({"rules": [{"when": "resource", "resource": "luck"}]}, "resource is one of"),
        ({"sinks": ["log", "log"]}, "two sinks are called log"),
        ({"sinks": ["slak"]}, "did you mean 'slack'?"),
        ({"sinks": [{"kind": "slack", "url": "http://hooks.example.org/x"}]}, "http is not encrypted"),
        ({"sinks": [{"kind": "slack", "url": "ftp://hooks.example.org/x"}]}, "begins with https://"),
        ({"sinks": [{"kind": "slack", "url": "https://u:p@example.org/x"}]}, "no user"),
        (
            {"sinks": [{"kind": "email", "host": "h", "sender": "a@b\nBcc: c@d", "to": ["e@f"]}]},
            "single lines",
        ),
        ({"sinks": [7]}, "sinks[0] is a int"),
        ({"repeat": 0}, "repeat is seconds above 0"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], problem: str):
    with pytest.raises(ConfigError) as caught:
        build("alerts", settings)
    assert problem in str(caught.value)


def test_a_wrong_word_is_named_in_code_too():
    with pytest.raises(ConfigError, match="severity is info, warning, error or critical, not 'bad'"):
        CostRate(severity="bad")
    with pytest.raises(ConfigError, match="per is one of all, provider, target, tenant, not 'planet'"):
        CostRate(per="planet")
    with pytest.raises(ConfigError, match="at_least is"):
        LogSink(at_least="loud")


def test_an_address_is_not_shown_in_an_error():
    for url in ("http://hooks.example.org/services/s3cret", "https://[s3cret", "s3cret\n", 17):
        with pytest.raises(ConfigError) as caught:
            Slack(url=url)
        assert "s3cret" not in str(caught.value)


def test_a_password_is_not_sent_in_the_clear():
    with pytest.raises(ConfigError, match="without encryption"):
        Email(host="h", sender="a@b", to=("c@d",), security="none", username="u", password="p")
    with pytest.raises(ConfigError, match="belong together"):
        Email(host="h", sender="a@b", to=("c@d",), username="u")


def test_a_rule_of_a_resource_needs_psutil_or_a_sampler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmpipe.middleware.metrics.resources.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "llmpipe\[resources\]"'):
        Alerts(rules=(ResourceUse(),))
    Alerts(rules=(ResourceUse(),), sampler=Sample)
    Alerts(rules=(ResourceUse(resource="loop_lag"),))


def test_the_defaults_watch_what_they_say():
    assert [rule.name for rule in DEFAULT_RULES] == [
        "authentication", "quota", "circuit_open", "error_rate", "latency", "cost", "budget", "key_due"
    ]  # fmt: skip
