"""What calls cost: of one call, of each attempt, and of everything so far by model, tenant and project."""

# region use
import asyncio
import json

from llmpipe import Chain, Cost, MockProvider, Overloaded, Retry
from llmpipe.pricing import prices


async def main() -> None:
    model = MockProvider([Overloaded("no capacity")], default="Hello!", name="openai", model="gpt-4o-mini")
    own = {"house-model": {"input": 0.10, "output": 0.40}}  # USD per million tokens, before the table's
    async with Chain(model, Cost(prices=own), Retry(base=0.01)) as chain:
        done = await chain.complete("Say hello", tenant="acme", user="ann", tags={"project": "website"})
        print(f"one call: ${done.cost:f}, {done.charge}")

        async with chain.stream("Say hello", tenant="acme", model="house-model") as reply:
            async for text in reply.texts():
                print(f"{text!r}: so far ${reply.completion.cost:f}")

        done = await chain.complete("Say hello", model="nobody-knows-this-one")
        print(f"no price, no guess: {done.cost}")

        print(json.dumps(Cost.snapshot(chain.runtime), indent=1)[:370], "…")


asyncio.run(main())
# endregion use

# region price
price = prices().find("anthropic", "claude-haiku-4-5")
print(price)
# endregion price
