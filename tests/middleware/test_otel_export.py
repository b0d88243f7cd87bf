"""Traces and metrics through the real exporters to a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmpipe.errors import ConfigError, Overloaded
from llmpipe.middleware.alerts import Alerts
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.trace import Trace
from llmpipe.middleware.trace.otel_metrics import OTelMetrics
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider
from llmpipe.types import Usage

sdk_metrics = pytest.importorskip("opentelemetry.sdk.metrics")
sdk_export = pytest.importorskip("opentelemetry.sdk.metrics.export")
sdk_trace = pytest.importorskip("opentelemetry.sdk.trace")
trace_export = pytest.importorskip("opentelemetry.sdk.trace.export")

MODEL = "gpt-4o"
USAGE = Usage(100, 20)


def chain_of(*middleware: Any, script: Any = ()) -> Chain:
    provider = MockProvider(script, default="Hello!", name="azure", model=MODEL, usage=USAGE)
    provider.endpoint = "https://acme.example.org/v1"
    return Chain(provider, *middleware)


async def read(chain: Chain) -> None:
    async with chain.stream("hi") as reply:
        async for _ in reply:
            pass


class Local:
    """Metrics read in the process, as plain values."""

    def __init__(self) -> None:
        self.reader = sdk_export.InMemoryMetricReader()
        self.provider = sdk_metrics.MeterProvider(metric_readers=[self.reader])

    def read(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        data = self.reader.get_metrics_data()
        return {
            metric.name: [(dict(point.attributes), point) for point in metric.data.data_points]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


async def test_a_call_is_recorded_by_the_conventions():
    local = Local()
    chain = chain_of(OTelMetrics(meter_provider=local.provider))
    await chain.complete("hi")
    found = local.read()
    assert set(found) == {"gen_ai.client.token.usage", "gen_ai.client.operation.duration"}
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "azure.ai.openai",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.model": MODEL,
    }
    [(attributes, point)] = found["gen_ai.client.operation.duration"]
    assert attributes == {**said, "server.address": "acme.example.org", "server.port": 443}
    assert (point.count, point.explicit_bounds[:2], len(point.explicit_bounds)) == (1, (0.01, 0.02), 14)
    tokens = {attributes.pop("gen_ai.token.type"): (attributes, point) for attributes, point in
              found["gen_ai.client.token.usage"]}  # fmt: skip
    assert {kind: point.sum for kind, (_, point) in tokens.items()} == {"input": 100, "output": 20}
    assert tokens["input"][0] == said
    assert tokens["input"][1].explicit_bounds[-1] == 67108864


async def test_the_first_chunk_is_that_of_streams():
    local = Local()
    chain = chain_of(OTelMetrics(meter_provider=local.provider))
    await chain.complete("hi")
    assert "gen_ai.client.operation.time_to_first_chunk" not in local.read()
    await read(chain)
    [(_, point)] = local.read()["gen_ai.client.operation.time_to_first_chunk"]
    assert point.count == 1


async def test_a_failure_has_its_type_and_each_attempt_its_tokens():
    local = Local()
    chain = chain_of(
        OTelMetrics(meter_provider=local.provider), Retry(attempts=2), script=[Overloaded("x")] * 3
    )
    with pytest.raises(Overloaded):
        await chain.complete("hi")
    await chain.complete("hi")
    found = local.read()
    kinds = {attributes.get("error.type"): point.count for attributes, point in
             found["gen_ai.client.operation.duration"]}  # fmt: skip
    assert kinds == {"SERVICE_UNAVAILABLE": 1, None: 1}
    assert [point.count for _, point in found["gen_ai.client.token.usage"]] == [1, 1]


async def test_what_a_provider_did_not_tell_is_not_reported():
    local = Local()
    provider = MockProvider(default="ok", name="p", model="m")
    assert Chain(provider).provider is provider
    chain = Chain(provider, OTelMetrics(meter_provider=local.provider))
    async with chain.stream("hi") as reply:
        await anext(reply)
    assert "gen_ai.client.token.usage" not in local.read()  # it was left before it told


async def test_the_switch_leaves_the_conventions_out():
    local = Local()
    chain = chain_of(OTelMetrics(meter_provider=local.provider, conventions=None), Metrics())
    await chain.complete("hi")
    await chain.complete("hi")
    found = local.read()
    assert found
    assert not [name for name in found if not name.startswith("llmpipe.")]


async def test_our_own_counters_and_gauges_are_exported():
    local = Local()
    chain = chain_of(
        OTelMetrics(meter_provider=local.provider),
        Metrics(),
        Alerts(sinks=(lambda alert: None,)),
        Cost(prices={MODEL: {"input": 1.0, "output": 1.0}}),
        Retry(),
        script=[Overloaded("x")],
    )
    for _ in range(3):
        await chain.complete("hi")
    found = local.read()
    values = {
        tuple(attributes.values()): point.value for attributes, point in found["llmpipe.requests.total"]
    }
    assert values["azure", MODEL, "ok"] == 3
    assert sum(point.value for _, point in found["llmpipe.cost.total"]) == pytest.approx(360e-6)
    assert sum(point.value for _, point in found["llmpipe.retry.attempts"]) == 1
    assert "llmpipe.request.duration" not in found
    await chain.complete("hi")
    values = {
        tuple(attributes.values()): point.value
        for attributes, point in local.read()["llmpipe.requests.total"]
    }
    assert values["azure", MODEL, "ok"] == 4


async def test_models_that_callers_make_up_are_bounded():
    local = Local()
    chain = chain_of(OTelMetrics(meter_provider=local.provider, max_models=3))
    for number in range(20):
        await chain.complete("hi", model=f"made-up-{number}")
    models = {attributes["gen_ai.request.model"] for attributes, _ in
              local.read()["gen_ai.client.operation.duration"]}  # fmt: skip
    assert models == {"made-up-0", "made-up-1", "made-up-2", "_other"}


async def test_a_chain_in_a_chain_is_recorded_once():
    local = Local()
    ring = OTelMetrics(meter_provider=local.provider)
    inner = chain_of(ring)
    await Chain(inner, ring, runtime=inner.runtime).complete("hi")
    [(_, point)] = local.read()["gen_ai.client.operation.duration"]
    assert point.count == 1


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="2026-11"):
        OTelMetrics(conventions="2024-01")
    with pytest.raises(ConfigError, match="max_models"):
        build("otel_metrics", {"max_models": 0})
    import llmpipe.middleware.trace.otel_metrics as module

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(ConfigError, match=r'pip install "llmpipe\[otel\]"'):
        OTelMetrics()


# -- over the wire


class Collector:
    """An OTLP collector on this machine: keeps the protobuf messages it is posted, decoded."""

    def __init__(self) -> None:
        self.got: dict[str, list[Any]] = {"/v1/traces": [], "/v1/metrics": []}
        service = "opentelemetry.proto.collector"
        trace = pytest.importorskip(f"{service}.trace.v1.trace_service_pb2")
        metrics = pytest.importorskip(f"{service}.metrics.v1.metrics_service_pb2")
        kinds = {
            "/v1/traces": trace.ExportTraceServiceRequest,
            "/v1/metrics": metrics.ExportMetricsServiceRequest,
        }
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.headers["Content-Type"] == "application/x-protobuf"
                message = kinds[self.path]()
                message.ParseFromString(body)
                got[self.path].append(message)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes of a protobuf message as plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@pytest.mark.real_time
async def test_a_collector_gets_the_spans_and_the_metrics(collector: Collector):
    spans_to = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    metrics_to = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.metric_exporter")
    tracing = sdk_trace.TracerProvider()
    tracing.add_span_processor(
        trace_export.BatchSpanProcessor(spans_to.OTLPSpanExporter(f"{collector.url}/v1/traces"))
    )
    reader = sdk_export.PeriodicExportingMetricReader(
        metrics_to.OTLPMetricExporter(f"{collector.url}/v1/metrics"), export_interval_millis=1e7
    )
    meters = sdk_metrics.MeterProvider(metric_readers=[reader])
    chain = chain_of(
        Trace(tracer_provider=tracing),
        OTelMetrics(meter_provider=meters),
        Metrics(),
        Retry(base=0.001),
        script=[Overloaded("full")],
    )
    await chain.complete("hi")
    tracing.shutdown()
    meters.shutdown()

    spans = {
        span.name: span
        for message in collector.got["/v1/traces"]
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }
    assert set(spans) == {f"chat {MODEL}", "attempt 1", "attempt 2"}
    whole, failed = spans[f"chat {MODEL}"], spans["attempt 1"]
    assert failed.parent_span_id == whole.span_id
    assert failed.trace_id == whole.trace_id
    said = plain(whole.attributes)
    assert said["gen_ai.provider.name"] == "azure.ai.openai"
    assert said["gen_ai.usage.input_tokens"] == 100
    assert plain(failed.attributes)["llmpipe.error_type"] == "provider_overloaded"
    assert whole.start_time_unix_nano <= failed.start_time_unix_nano <= whole.end_time_unix_nano
    assert [event.name for event in whole.events][:1] == ["retry.wait"]

    metrics = {
        metric.name: metric
        for message in collector.got["/v1/metrics"]
        for resource in message.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert metrics["gen_ai.client.operation.duration"].unit == "s"
    [point] = metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert (point.count, len(point.explicit_bounds)) == (1, 14)
    kinds = {
        plain(point.attributes)["gen_ai.token.type"]: point.sum
        for point in metrics["gen_ai.client.token.usage"].histogram.data_points
    }
    assert kinds == {"input": 100, "output": 20}
    own = metrics["llmpipe.requests.total"].sum
    assert own.is_monotonic
    found = {plain(point.attributes)["status"]: point.as_int for point in own.data_points}
    assert found["ok"] == 1
