"""When the first provider fails, the second one answers, and both attempts are in the cost."""

import asyncio

from llmpipe import Chain, Cost, Fallback, MockProvider, Overloaded


async def main() -> None:
    openai = MockProvider([Overloaded("no capacity")], default="Hello!", name="openai", model="gpt-4o-mini")
    claude = MockProvider(default="Hello from me.", name="anthropic", model="claude-haiku-4-5")

    async with Chain(openai, Cost(), Fallback(claude)) as chain:
        for _ in range(2):
            done = await chain.complete("Say hello")
            print(f"{done.provider}/{done.model}: {done.text!r}, ${done.cost:f}")

        totals = Cost.totals(chain.runtime)
        print(f"{totals.all.attempts} attempts for ${totals.all.usd:f}")
        for provider, total in totals.by_provider.items():
            print(f"  {provider}: {total.attempts} attempts, ${total.usd:f}")


asyncio.run(main())
