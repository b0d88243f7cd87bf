"""What happened, counted: in code, as plain JSON, and as text for Prometheus."""

import asyncio

from llmpipe import Chain, Cost, Metrics, MockProvider, Overloaded, Retry


async def main() -> None:
    provider = MockProvider([Overloaded("no capacity")], default="Hello!", name="openai", model="gpt-4o-mini")
    metrics = Metrics(labels={"service": "shop"})
    chain = Chain(provider, metrics, Cost(), Retry(base=0.01))

    for _ in range(3):
        await chain.complete("Say hello")

    snapshot = metrics.snapshot(chain.runtime)
    for name in ("requests.total", "attempts.total", "retry.attempts"):
        for child in snapshot[name]["values"]:
            if child["value"]:
                print(name, child["labels"], child["value"])

    text = metrics.prometheus(chain.runtime)
    print(*[line for line in text.splitlines() if line.startswith("llmpipe_tokens_total")], sep="\n")


asyncio.run(main())
