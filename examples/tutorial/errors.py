"""Failures are typed and say of themselves what they mean; what can be tried again, is."""

import asyncio

from llmpipe import AuthenticationFailed, Chain, LLMError, MockProvider, Overloaded, Retry, StreamBroken


async def main() -> None:
    model = MockProvider(
        [
            Overloaded("no capacity right now"),  # the first call fails once
            "Here I am.",  # and is answered at its second attempt
            AuthenticationFailed("this key is not valid"),  # the second call cannot be saved
            ["Once upon ", "a ti", StreamBroken("the connection was reset")],  # the third breaks
        ]
    )
    async with Chain(model, Retry(base=0.1)) as chain:
        done = await chain.complete("Are you there?")
        print(f"{done.text!r} after {len(model.requests)} requests")

        try:
            await chain.complete("Are you there?")
        except LLMError as error:
            print(f"{error.type} {error.status}: {error}")
            print(f"retryable={error.retryable} rescue={error.rescue} billed={error.billed}")

        try:
            async with chain.stream("Tell me a story") as reply:
                async for text in reply.texts():
                    print(text, end="|")
        except StreamBroken as error:
            print(f" … {error}")
            print(f"had come: {error.partial.text!r}; requests in all: {len(model.requests)}")


asyncio.run(main())
