"""Five calls under a limit: a burst goes at once, the rest wait their turn, and one cannot wait."""

import asyncio

from llmpipe import Chain, LimitReached, MockProvider, RateLimit, Usage


async def main() -> None:
    limit = RateLimit(requests_per_second=5, burst=2, tokens_per_minute=60_000, concurrency=10, per="tenant")
    chain = Chain(MockProvider(default="ok", usage=Usage(20, 10)), limit)
    began = asyncio.get_running_loop().time()

    async def ask(who: str, priority: int = 0) -> None:
        await chain.complete("hello", tenant="acme", priority=priority)
        print(f"{asyncio.get_running_loop().time() - began:.1f} s: {who}")

    async with asyncio.TaskGroup() as group:
        for number in range(1, 5):
            group.create_task(ask(f"call {number}"))
        group.create_task(ask("an urgent one", priority=1))
        await asyncio.sleep(0)
        try:
            await chain.complete("hello", tenant="acme", options={RateLimit: {"mode": "reject"}})
        except LimitReached as refused:
            print(f"refused; come back in {refused.retry_after:.1f} s")

    (acme,) = limit.status(chain.runtime)
    for counted in acme.limits:
        print(f"{counted.name}: {counted.remaining:.0f} left of a burst of {counted.burst:.0f}")


asyncio.run(main())
