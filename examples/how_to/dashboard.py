"""What a dashboard shows, in one call."""

# region use
import asyncio
import json

from llmpipe import Chain, Cost, Metrics, MockProvider, Overloaded, Retry


async def main() -> None:
    metrics = Metrics()
    model = MockProvider([Overloaded("no capacity")], default="Hello!", name="openai", model="gpt-4o-mini")
    chain = Chain(model, metrics, Cost(), Retry(base=0.01))
    for _ in range(3):
        await chain.complete("Say hello", tenant="acme")

    dashboard = metrics.dashboard(chain.runtime)
    print(sorted(dashboard))
    print(json.dumps(dashboard["totals"] | {"cost_usd": 0.0}, indent=1))
    window = dashboard["windows"]["1m"]
    print({name: window[name] for name in ("requests", "error_rate", "input_tokens")})


asyncio.run(main())
# endregion use
