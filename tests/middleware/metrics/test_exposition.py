"""The text for Prometheus, read by Prometheus's own client; and the names that were promised."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import llmpipe.errors as errors
from llmpipe.errors import AuthenticationFailed, ConfigError, LLMError, Overloaded
from llmpipe.middleware.alerts import Alerts
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.metrics.error_types import ERROR_TYPES, error_type_of
from llmpipe.middleware.metrics.resources import PsutilSampler, Resources
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.types import Usage

PROMISED = [
    "circuit.state",
    "circuit.requests.total", "circuit.requests.successful", "circuit.requests.failed",
    "circuit.requests.rejected",
    "cost.total", "cost.by_model", "cost.by_user", "cost.requests",
    "retry.attempts", "retry.successful", "retry.failed", "retry.delay",
    "requests.total", "requests.in_flight", "request.duration", "tokens.total", "finish_reasons.total",
    "errors.total", "rate_limit.wait", "rate_limit.queue.depth", "rate_limit.queue.oldest",
    "loop.lag", "alerts.firing", "alerts.dropped",
]  # fmt: skip


async def busy(metrics: Metrics) -> Chain:
    """A chain on which all sorts of things have happened."""
    provider = MockProvider(
        [Overloaded("x"), "ok", AuthenticationFailed("no")],
        default="ok",
        name='p"1\\\n',
        model="m",
        usage=Usage(10, 5, reasoning_tokens=2),
    )
    chain = Chain(
        provider,
        metrics,
        Alerts(sinks=(lambda alert: None,)),
        Cost(prices={"m": {"input": 1.0, "output": 2.0}}),
        Retry(),
        RateLimit(concurrency=5),
        Breaker(),
    )
    for _ in range(5):
        try:
            await chain.complete("hi", tenant="t", user="u")
        except LLMError:  # counted
            continue
    await asyncio.sleep(1)
    return chain


async def test_every_promised_name_is_there():
    metrics = Metrics(users=True, lag=True)
    chain = await busy(metrics)
    metrics.snapshot(chain.runtime)
    found = metrics.snapshot(chain.runtime)
    assert not set(PROMISED) - set(found)
    for name in PROMISED:
        assert found[name]["values"], name
    assert {one["labels"]["model"]: one["value"] for one in found["cost.by_model"]["values"]} == {
        "m": pytest.approx(4 * 20e-6)
    }
    await chain.aclose()


async def test_prometheus_reads_the_text():
    parser = pytest.importorskip("prometheus_client.parser")
    metrics = Metrics(users=True, lag=True, prefix="app", labels={"service": 'web "1"'})
    chain = await busy(metrics)
    text = metrics.prometheus(chain.runtime)
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    snapshot = metrics.snapshot(chain.runtime)
    lines = 0
    for family in families.values():
        assert family.type in ("counter", "gauge", "histogram"), family
        assert family.documentation
        for sample in family.samples:
            assert sample.name.startswith("app_")
            assert sample.labels["service"] == 'web "1"'
            lines += 1
    assert len(families) == len(snapshot)
    assert lines == len([line for line in text.splitlines() if not line.startswith("#")])
    [total] = [one for one in families["app_tokens"].samples if one.labels["kind"] == "input"]
    assert (total.name, total.value, total.labels["provider"]) == ("app_tokens_total", 40, 'p"1\\\ufffd')
    histogram = families["app_request_duration_seconds"].samples
    counts = [one.value for one in histogram if one.name.endswith("_bucket") and one.labels["status"] == "ok"]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    await chain.aclose()


async def test_the_process_and_the_machine_are_measured():
    pytest.importorskip("psutil")
    metrics = Metrics(resources=5.0)
    chain = Chain(MockProvider(default="ok"), metrics)
    metrics.snapshot(chain.runtime)
    await asyncio.sleep(5.5)
    found = metrics.snapshot(chain.runtime)

    def value(name: str) -> Any:
        [child] = found[f"resources.{name}"]["values"]
        return child["value"]

    assert 0 <= value("cpu") <= 1
    assert 0 < value("memory") < 1
    assert value("process_cpu") >= 0
    assert value("rss_bytes") > 1e6
    assert value("descriptors") >= 3
    assert value("threads") >= 1
    await chain.aclose()
    assert len(asyncio.all_tasks()) == 1


async def test_the_shortest_interval_that_was_asked_for_counts():
    runtime = Runtime()
    Resources.start(runtime, interval=60.0)
    assert Resources.start(runtime, interval=2.0).interval == 2.0
    assert Resources.start(runtime).interval == 2.0
    await runtime.aclose()


def test_without_psutil_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmpipe.middleware.metrics.resources.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "llmpipe\[resources\]"'):
        Metrics(resources=10.0)
    with pytest.raises(ConfigError, match="psutil"):
        PsutilSampler()


@pytest.mark.parametrize("resources", [0, -1.0])
def test_an_interval_is_above_0(resources: float):
    with pytest.raises(ConfigError, match="seconds above 0"):
        Metrics(resources=resources)


# -- the closed vocabulary


def test_every_error_has_a_word_of_the_closed_set():
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, LLMError):
            assert error_type_of(kind("x")) in ERROR_TYPES, name
    words = {
        name: error_type_of(getattr(errors, name)("x"))
        for name in errors.__all__
        if name not in ("ConfigError", "LLMError", "UnknownError")
    }
    assert "_OTHER" not in words.values()
    assert words["RateLimited"] == "provider_rate_limited"
    assert words["LimitReached"] == "policy_rate_limited"
    assert words["ContextTooLong"] == "caller_invalid_request"


def test_other_exceptions_have_a_word_too():
    class Own(Overloaded):
        pass

    assert error_type_of(Own("x")) == "provider_overloaded"
    assert error_type_of(KeyError("x")) == "llmpipe_internal"
    assert error_type_of(asyncio.CancelledError()) == "caller_cancelled"
    assert error_type_of(KeyboardInterrupt()) == "_OTHER"
