"""A chain round a provider that needs no key: a whole reply, then a streamed one."""

import asyncio

from llmpipe import Chain, MockProvider, Retry, TextDelta, Timeout


async def main() -> None:
    model = MockProvider(["Hello there!", "Once upon a time, a test passed."])

    async with Chain(model, Retry(), Timeout(total=30)) as chain:
        done = await chain.complete("Say hello", max_tokens=20)
        print(done.text)
        print(done.finish_reason, done.usage)

        async with chain.stream("Tell me a story") as reply:
            async for event in reply:
                if isinstance(event, TextDelta):
                    print(event.text, end="|")
        print()
        print(reply.completion.finish_reason, reply.completion.usage)


asyncio.run(main())
