"""A rule on where a call may go, asked before each attempt: wherever retries and fallbacks send it."""

# region middleware
import asyncio

from llmpipe import Call, Chain, Fallback, Handler, InvalidRequest, MockProvider, Overloaded, Reply, layer


async def stays_here(call: Call) -> Call:
    if call.tags.get("residency") == "eu" and call.target_key[0] != "eu-west":
        raise InvalidRequest("this data may not leave the EU", sent=False)
    return call


@layer(priority=310)
async def residency(call: Call, call_next: Handler) -> Reply:
    return await call_next(call.evolve(guards=(*call.guards, stays_here)))


# endregion middleware


# region use
async def main() -> None:
    here = MockProvider(default=Overloaded("busy"), name="eu-west")
    abroad = MockProvider(default="Fine.", name="us-east")
    chain = Chain(here, residency, Fallback(abroad))

    print((await chain.complete("How are you?")).provider)
    try:
        await chain.complete("How are you?", tags={"residency": "eu"})
    except Overloaded as error:
        print(f"{error}; asked abroad: {len(abroad.requests)} time")


asyncio.run(main())
# endregion use
