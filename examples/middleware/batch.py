"""Fifty callers want a vector each. The provider sees one request, and each pays its part of it."""

import asyncio

from llmpipe import Chain, EmbeddingRequest, MockProvider
from llmpipe.middleware.batch import Batch
from llmpipe.middleware.cost import Cost


async def main() -> None:
    provider = MockProvider(default="ok", model="embed-1")
    prices = {"embed-1": {"input": 0.02, "output": 0}}  # USD per million tokens
    chain = Chain(provider, Cost(prices=prices), Batch(window=0.02))

    texts = [f"chapter {number}: " + "it was raining. " * number for number in range(50)]
    found = await asyncio.gather(*(chain.embed([text]) for text in texts))

    sent = provider.requests[0]
    assert isinstance(sent, EmbeddingRequest)
    print(
        len(found),
        "calls,",
        len(provider.requests),
        "request with",
        len(sent.inputs),
        "inputs",
    )
    print(f"the first pays {found[0].cost:f} USD, the last {found[-1].cost:f}")
    print("all together", sum(one.cost or 0 for one in found), "USD")


asyncio.run(main())
