"""A middleware that knows how each call really ended: it tells of those that took long."""

# region middleware
from collections.abc import AsyncGenerator

from llmpipe import Call, Chain, Handler, MockProvider, Outcome, Reply, Wait, layer
from llmpipe.testing import run


@layer(priority=150)
async def slow_calls(call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
    outcome = yield await call_next(call)
    seconds = outcome.ended_at - call.started_at
    if seconds > 2:
        print(f"slow: {outcome.status} after {seconds:g} s, {outcome.usage.output_tokens} tokens")


# endregion middleware


# region use
async def main() -> None:
    model = MockProvider(["Fine."], default=[Wait(1), "Once upon ", Wait(4), "a time."])
    chain = Chain(model, slow_calls)

    await chain.complete("How are you?")  # quick: nothing is said
    await chain.complete("Tell me a story")
    async with chain.stream("Tell me a story") as reply:
        async for text in reply.texts():
            print(f"the reader has had enough after {text!r}")
            break


run(main())  # as asyncio.run, with a clock that jumps: the waits take no time
# endregion use
