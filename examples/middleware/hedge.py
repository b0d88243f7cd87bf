"""One reply in a hundred takes a minute. Who asks again after a fraction of a second never sees it."""

import asyncio
from typing import Any

from llmpipe import Chain, MockProvider, Wait
from llmpipe.middleware.hedge import Hedge

USUAL: list[Any] = [Wait(0.01), "Forty-two"]


async def main() -> None:
    provider = MockProvider([USUAL] * 30 + [[Wait(60), "At last: forty-two"]], default=USUAL)
    hedge = Hedge(min_delay=0.2)
    chain = Chain(provider, hedge)
    for _ in range(30):  # the first twenty teach it how long an answer takes
        await chain.complete("What is the answer?")

    async with asyncio.timeout(10):
        done = await chain.complete("What is the answer?")
    print(done.text)

    stats = hedge.stats(chain.runtime)
    print(f"{stats.calls} calls, {len(provider.requests)} requests, {stats.won} won by the second one")


asyncio.run(main())
