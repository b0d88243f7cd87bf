"""Traces with OpenTelemetry. Needs `pip install "llmpipe[otel]"`."""

# region use
import asyncio

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmpipe import Chain, Cost, MockProvider, Overloaded, Retry, Trace


async def main() -> None:
    exporter = InMemorySpanExporter()  # yours: OTLPSpanExporter() in a BatchSpanProcessor
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(exporter))

    model = MockProvider([Overloaded("no capacity")], default="Hello!", name="openai", model="gpt-4o-mini")
    async with Chain(model, Trace(tracer_provider=spans), Cost(), Retry(base=0.01)) as chain:
        await chain.complete("Say hello", tenant="acme")

    for span in exporter.get_finished_spans():
        print(span.name, span.status.status_code.name)
        for key, value in sorted((span.attributes or {}).items()):
            if key != "llmpipe.call.id":
                print(f"    {key} = {value!r}")
        for event in span.events:
            print(f"    event {event.name}")


asyncio.run(main())
# endregion use
