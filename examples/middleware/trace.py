"""A call and its two attempts as OpenTelemetry spans."""

import asyncio

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmpipe import Chain, MockProvider, Overloaded, Retry, Trace


async def main() -> None:
    exporter = InMemorySpanExporter()  # in production: an OTLP exporter, and a BatchSpanProcessor
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))

    model = MockProvider([Overloaded("no capacity"), "Hello!"], name="openai", model="gpt-4o-mini")
    chain = Chain(model, Trace(tracer_provider=tracer_provider), Retry(base=0.01))
    await chain.complete("Say hello", max_tokens=20)

    *attempts, call = exporter.get_finished_spans()
    said = dict(call.attributes or {})
    print(call.name)
    for key in ("gen_ai.provider.name", "gen_ai.request.max_tokens", "gen_ai.response.finish_reasons"):
        print(f"  {key} = {said[key]!r}")
    print("  events:", [event.name for event in call.events])
    for attempt in attempts:
        why = dict(attempt.attributes or {}).get("error.type", "")
        print(f"  {attempt.name}: {attempt.status.status_code.name} {why!r}")


asyncio.run(main())
