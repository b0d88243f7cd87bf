"""An outage: the circuit opens, refuses, lets probes through and closes."""

import asyncio

from llmpipe import Breaker, Chain, CircuitOpen, LLMError, MockProvider, Overloaded, Runtime


async def main() -> None:
    breaker = Breaker(consecutive=3, base=10.0)
    provider = MockProvider([Overloaded("down")] * 3, default="back again")
    chain = Chain(provider, breaker, runtime=Runtime(seed=7))

    for _ in range(4):
        try:
            await chain.complete("hello?")
        except CircuitOpen as refused:
            print(f"refused for {refused.retry_after:.1f} s: {len(provider.requests)} requests were sent")
            await asyncio.sleep(refused.retry_after or 0)
        except LLMError as error:
            print(f"failed: {error}")

    for _ in range(2):
        print((await chain.complete("hello?")).text)

    board = breaker.board(chain.runtime)
    for change in board.history:
        print(f"{change.at:5.1f} s  {change.kind}: {change.reason}")
    (stats,) = board.stats(chain.runtime.now())
    print(stats.state, stats.total, "came,", stats.failed, "failed,", stats.rejected, "refused")


asyncio.run(main())
