"""A hundred callers ask the same at the same time. The first of them loses patience."""

import asyncio

from llmpipe import Chain, Coalesce, MockProvider, Wait


async def main() -> None:
    provider = MockProvider([[Wait(0.1), "Forty", Wait(0.1), "-two"]])
    chain = Chain(provider, Coalesce())

    async def whole() -> str:
        return (await chain.complete("What is the answer?", temperature=0)).text

    async def streamed() -> str:
        async with chain.stream("What is the answer?", temperature=0) as reply:
            return "".join([text async for text in reply.texts()])

    first = asyncio.create_task(streamed())
    others = [asyncio.create_task(whole() if number % 2 else streamed()) for number in range(99)]
    await asyncio.sleep(0.15)
    first.cancel()

    print(set(await asyncio.gather(*others)), "from", len(provider.requests), "request")
    print("the first was cancelled:", first.cancelled())


asyncio.run(main())
