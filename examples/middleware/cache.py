"""One question, asked in many ways: fresh, streamed, by another tenant, stale, and from the cache only."""

import asyncio

from llmpipe import Cache, Chain, MockProvider, NotCached, Request


async def main() -> None:
    cache = Cache(ttl=0.2, stale=60.0)
    provider = MockProvider(["Rhodes has 3 airports", "I never said that", "Rhodes has one airport"])
    chain = Chain(provider, cache)

    print("asked:   ", (await chain.complete("Airports of Rhodes?", tenant="acme")).text)
    async with chain.stream("Airports of Rhodes?", tenant="acme") as reply:
        print("streamed:", "".join([text async for text in reply.texts()]))
    print("others:  ", (await chain.complete("Airports of Rhodes?", tenant="other")).text)

    await asyncio.sleep(0.3)
    print("stale:   ", (await chain.complete("Airports of Rhodes?", tenant="acme")).text)
    await asyncio.sleep(0.1)  # meanwhile it was asked again in the background
    print("fresh:   ", (await chain.complete("Airports of Rhodes?", tenant="acme")).text)

    try:
        await chain.complete("Ferries?", tenant="acme", options={Cache: {"mode": "only"}})
    except NotCached as error:
        print(error.message)

    await cache.delete(chain.new_call(Request("", "Airports of Rhodes?"), tenant="acme"))
    stats = cache.stats(chain.runtime)
    print(f"{len(provider.requests)} requests, {stats.hits} hits, {stats.entries} stored")


asyncio.run(main())
