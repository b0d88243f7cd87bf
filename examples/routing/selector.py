"""The model for a request: what it must be able to do, and what it may cost."""

import asyncio

from llmpipe import Chain, Image, Message, MockProvider, Request, Unsupported
from llmpipe.routing.catalogue import card_of
from llmpipe.routing.selector import ModelSelector, Needs


async def main() -> None:
    mini = MockProvider(default="mini answers", name="openai", model="gpt-4o-mini")
    haiku = MockProvider(default="haiku answers", name="anthropic", model="claude-haiku-4-5")
    # Price and context are in the price table; latency and quality are yours to say.
    cards = [
        card_of(mini, latency=0.4, quality=5, tags=["us"]),
        card_of(haiku, latency=0.6, quality=7, tags=["us", "eu"]),
    ]
    selector = ModelSelector(cards, rank="price")

    short, long = Request(messages="hello"), Request(messages="word " * 120_000)
    print("cheapest:", selector.select(short).label)
    print("best:", selector.select(short, rank="quality").label)
    print("for a long prompt:", selector.select(long).label)
    print("in the EU:", selector.select(Needs(tags=["eu"])).label)
    try:
        selector.select(Needs(context_tokens=150_000, max_latency=0.5))
    except Unsupported as error:
        print(error)

    # In a chain it answers for requests that name no model.
    chain = Chain(mini, selector)
    print(
        (await chain.complete([Message("user", ["What is this?", Image(url="https://x.test/y.png")])])).text
    )


asyncio.run(main())
