"""Nobody knows that this provider takes eight calls at a time; the limit finds out."""

import asyncio

from llmpipe import Call, Chain, Handler, LLMError, MockProvider, Overloaded, Reply, layer
from llmpipe.middleware.adaptive_limit import AdaptiveLimit


async def main() -> None:
    here = 0

    @layer(priority=2000)
    async def a_small_server(call: Call, call_next: Handler) -> Reply:
        nonlocal here
        if here >= 8:
            raise Overloaded("no capacity")
        here += 1
        await asyncio.sleep(0.01)
        here -= 1
        return await call_next(call)

    limit = AdaptiveLimit(start=20, window=0.015)
    chain = Chain(MockProvider(default="ok"), limit, a_small_server)
    refused = [0] * 60  # in each turn

    async def client(number: int) -> None:
        for turn in range(60):
            try:
                await chain.complete("hello", tenant=f"tenant {number % 3}")
            except LLMError:
                refused[turn] += 1
                await asyncio.sleep(0.01)

    await asyncio.gather(*(client(number) for number in range(30)))
    (found,) = limit.status(chain.runtime)
    print(f"in the first turn {refused[0]} of 30 calls were too many")
    print(f"in the last turn less than five were: {refused[-1] < 5}")
    print(f"the limit is eight, give or take one: {abs(found.limit - 8) <= 1}")


asyncio.run(main())
