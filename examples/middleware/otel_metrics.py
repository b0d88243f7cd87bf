"""Calls as OpenTelemetry metrics: its conventions for generative AI, and our own names."""

import asyncio

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from llmpipe import Chain, Metrics, MockProvider, Overloaded, Retry
from llmpipe.middleware.trace.otel_metrics import OTelMetrics
from llmpipe.types import Usage


async def main() -> None:
    reader = InMemoryMetricReader()  # in production: a PeriodicExportingMetricReader(OTLPMetricExporter())
    meters = MeterProvider(metric_readers=[reader])

    model = MockProvider([Overloaded("no capacity")], default="Hello!", name="openai", model="gpt-4o-mini",
                         usage=Usage(12, 3))  # fmt: skip
    chain = Chain(model, OTelMetrics(meter_provider=meters), Metrics(), Retry(base=0.01))
    for _ in range(3):
        await chain.complete("Say hello")

    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        if metric.name in ("gen_ai.client.token.usage", "llmpipe.requests.total"):
            for point in metric.data.data_points:
                said = dict(point.attributes or {})
                what = said.get("gen_ai.token.type") or said.get("status")
                print(metric.name, what, getattr(point, "sum", None) or getattr(point, "value", None))


asyncio.run(main())
