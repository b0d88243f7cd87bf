"""What a call costs when it was tried twice, and the books that are kept of all calls."""

import asyncio

from llmpipe import Chain, Cost, MockProvider, Retry, ServiceUnavailable


async def main() -> None:
    # The first answer is an error after which nobody knows whether it is billed.
    provider = MockProvider(
        [ServiceUnavailable("HTTP 500"), "Good morning!", "Good night!"], name="openai", model="house-model"
    )
    chain = Chain(provider, Cost(prices={"house-model": {"input": 2.50, "output": 10}}), Retry(base=0.01))

    done = await chain.complete("Say good morning", tenant="acme", user="ann", tags={"project": "website"})
    print(f"{done.text} ${done.cost}: {done.charge}")

    async with chain.stream("Say good night", tenant="acme", user="bob") as reply:
        text = "".join([text async for text in reply.texts()])
        print(f"{text} ${reply.completion.cost}: {reply.completion.charge}")

    totals = Cost.totals(chain.runtime)
    print(f"all: {totals.all.calls} calls, {totals.all.attempts} attempts, ${totals.all.usd}")
    for (tenant, user), total in totals.by_user.items():
        print(f"{user} of {tenant}: ${total.usd}")


asyncio.run(main())
