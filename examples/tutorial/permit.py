"""A permit that is held until the reply is really over, and given back exactly once."""

# region middleware
import asyncio
from collections.abc import AsyncGenerator

from llmpipe import Call, Chain, Handler, MockProvider, Outcome, Reply, StreamBroken, bands, layer

permit = asyncio.Semaphore(1)


@layer(priority=bands.ADMIT)
async def one_at_a_time(call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
    async with permit:
        yield await call_next(call)
        # endregion middleware


# region use
async def main() -> None:
    model = MockProvider([["Once ", "upon ", StreamBroken("it was cut")]], default="Once upon a time.")
    chain = Chain(model, one_at_a_time)

    for end in ("it breaks", "the reader leaves", "it is read to its end"):
        try:
            async with chain.stream("Tell me a story") as reply:
                async for _ in reply.texts():
                    if end == "the reader leaves":
                        break
        except StreamBroken as error:
            print(error)
        print(f"{end}: the permit is {'held' if permit.locked() else 'free'}")


asyncio.run(main())
# endregion use
