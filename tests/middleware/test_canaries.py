"""A key in any slot of a call reaches no observer: not its records, spans, metrics, alerts or pictures."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from llmpipe.errors import AuthenticationFailed, InvalidRequest
from llmpipe.middleware.alerts import Alert, Alerts, Email, ErrorSeen, NoteSeen, PagerDuty, Slack
from llmpipe.middleware.log import JSONFormatter, Log
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.trace import Trace
from llmpipe.middleware.trace.otel_metrics import OTelMetrics
from llmpipe.middleware.waterfall import render_waterfall
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider
from llmpipe.types import Completion, Message, Request, Text

sdk = pytest.importorskip("opentelemetry.sdk.trace")
trace_export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
sdk_metrics = pytest.importorskip("opentelemetry.sdk.metrics")
metrics_export = pytest.importorskip("opentelemetry.sdk.metrics.export")

KEY = "sk-canary0123456789ABCDEFGHIJKLMN"


class Sinks:
    """Everything that watches a call, and all that it has said, as one text."""

    def __init__(self) -> None:
        self.spans = memory.InMemorySpanExporter()
        tracers = sdk.TracerProvider()
        tracers.add_span_processor(trace_export.SimpleSpanProcessor(self.spans))
        self.reader = metrics_export.InMemoryMetricReader()
        meters = sdk_metrics.MeterProvider(metric_readers=[self.reader])
        self.metrics = Metrics(users=True)
        self.alerts: list[Alert] = []
        self.observers: tuple[Any, ...] = (
            Log(requests=True, bodies=True),
            self.metrics,
            OTelMetrics(meter_provider=meters),
            Trace(tracer_provider=tracers, content=True),
            Alerts(
                rules=(
                    ErrorSeen(name="failed", types=("AUTHENTICATION_ERROR", "INVALID_REQUEST")),
                    NoteSeen(name="noted", kind="test.noted", key=("what",)),
                ),
                sinks=(self.alerts.append,),
            ),
        )
        self.log = io.StringIO()
        self.handler = logging.StreamHandler(self.log)
        self.handler.setFormatter(JSONFormatter())

    def told(self, chain: Chain, pictures: list[str]) -> str:
        sinks = (
            Slack(url="https://h/x"),
            PagerDuty(routing_key="r"),
            Email(host="h", to="a@b.example", sender="c@d.example"),
        )
        bodies = [
            *(json.dumps(alert.json("x")) for alert in self.alerts),
            *(json.dumps(sink.body(alert)) for sink in sinks[:2] for alert in self.alerts),
            *(sinks[2].message(alert).as_string() for alert in self.alerts),
        ]
        spans = [span.to_json() for span in self.spans.get_finished_spans()]
        data = self.reader.get_metrics_data()
        return "\n".join(
            [
                self.log.getvalue(),
                *spans,
                data.to_json() if data else "",
                self.metrics.prometheus(chain.runtime),
                orjson.dumps(self.metrics.snapshot(chain.runtime)).decode(),
                orjson.dumps(self.metrics.dashboard(chain.runtime)).decode(),
                *bodies,
                *pictures,
            ]
        )


@pytest.fixture
def sinks() -> Iterator[Sinks]:
    sinks = Sinks()
    logger = logging.getLogger("llmpipe")
    before = logger.level
    logger.addHandler(sinks.handler)
    logger.setLevel(logging.DEBUG)
    yield sinks
    logger.removeHandler(sinks.handler)
    logger.setLevel(before)


def leaks(told: str) -> list[str]:
    """The lines in which something of the key stands."""
    return [line for line in told.splitlines() if "canary" in line.lower()]


def user(text: str) -> Message:
    return Message("user", (Text(text),))


def noting(detail: Any) -> Any:
    @layer(name="noting", priority=400)
    async def note(call: Any, call_next: Any) -> Any:
        call.note("test.noted", what=detail)
        return await call_next(call)

    return note


async def watched(sinks: Sinks, chain: Chain, request: Request, **fields: Any) -> str:
    """What is told of a call that succeeds and one that fails, or of two that fail."""
    pictures = []
    for _ in range(2):
        call = chain.new_call(request, **fields)
        try:
            await (await chain(call)).full()
        except Exception:
            logging.getLogger("llmpipe.test").exception("it failed")
        pictures.append(render_waterfall(call))
    await asyncio.sleep(60)
    return sinks.told(chain, pictures)


PLAIN = Request(model="gpt-4o-mini", messages=(user("hi"),))


def failed() -> AuthenticationFailed:
    return AuthenticationFailed("wrong", status=401)  # one that was raised knows its model


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"model": f"gpt-{KEY}"}, {}),
        ({"messages": (user(f"my key is {KEY}"),)}, {}),
        ({"stop": (KEY,)}, {}),
        ({}, {"tags": {"k": KEY}}),
        ({}, {"tags": {KEY: "v"}}),
        ({}, {"tags": {"correlation_id": KEY}}),
        ({}, {"tenant": KEY}),
        ({}, {"user": KEY}),
    ],
    ids=["model", "message", "stop", "tag", "tag name", "correlation id", "tenant", "user"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_that_a_caller_gives_is_told_nowhere(
    sinks: Sinks, change: dict[str, Any], fields: dict[str, Any], stream: bool
):
    request = Request(**{"model": PLAIN.model, "messages": PLAIN.messages, "stream": stream, **change})
    chain = Chain(MockProvider(["hello", failed()]), *sinks.observers)
    told = await watched(sinks, chain, request, **fields)
    assert "hello" in told
    assert "AUTHENTICATION_ERROR" in told
    assert leaks(told) == []


@pytest.mark.parametrize(
    "said",
    [
        AuthenticationFailed(f"Incorrect API key provided: {KEY}", status=401),
        InvalidRequest("no", code=f"bad_{KEY}"),
        InvalidRequest("no", request_id=KEY),
        InvalidRequest("no", model=KEY),
        ValueError(f"could not send {KEY}"),
        ValueError("x" * 1990 + f" {KEY}"),
        ["a", AuthenticationFailed(f"Incorrect API key provided: {KEY}", status=401)],
        Completion(id=KEY, message=Message("assistant", (Text("x"),)), model=f"gpt-{KEY}", request_id=KEY),
    ],
    ids=["message", "code", "request id", "model", "other", "cut", "stream", "reply"],
)
async def test_a_key_that_a_provider_echoes_is_told_nowhere(sinks: Sinks, said: Any):
    chain = Chain(MockProvider([said, said]), *sinks.observers)
    told = await watched(sinks, chain, PLAIN)
    assert "gpt-4o-mini" in told
    assert leaks(told) == []


@pytest.mark.parametrize("detail", [KEY, [KEY], (KEY, "b"), {"deep": [KEY]}, {KEY: 1}])
async def test_a_key_in_a_note_is_told_nowhere(sinks: Sinks, detail: Any):
    chain = Chain(MockProvider(["hello", failed()]), *sinks.observers, noting(detail))
    told = await watched(sinks, chain, PLAIN)
    assert "test.noted" in told
    assert leaks(told) == []


async def test_a_key_in_the_name_of_a_provider_is_told_nowhere(sinks: Sinks):
    chain = Chain(MockProvider(["hello", failed()], name=f"mock-{KEY}"), *sinks.observers)
    assert leaks(await watched(sinks, chain, PLAIN)) == []
