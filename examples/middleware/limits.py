"""An account has three requests at once and sixty a minute; each of its users one at a time."""

import asyncio

from llmpipe import Chain, LimitReached, MockProvider
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.providers.mock import Wait


async def main() -> None:
    limits = Limits(
        limits=[
            Limit(per="account", requests_per_minute=60, burst=3, tokens_per_day=100_000),
            Limit(per="user", concurrency=1),
        ]
    )
    chain = Chain(MockProvider(default=[Wait(0.01), "ok"]), limits)

    async def ask(user: str) -> str:
        try:
            done = await chain.complete("hello", tenant="acme", user=user)
        except LimitReached as error:  # the gateway answers 429, with error.retry_after
            return f"{user}: {error.message.partition(';')[0]}"
        return f"{user}: {done.text}, {done.headers['x-ratelimit-remaining-requests']} requests left"

    for line in await asyncio.gather(*(ask(user) for user in ("ada", "ada", "bob", "eve", "kim"))):
        print(line)

    for state in await limits.status(chain.runtime, account="acme", user="ada"):
        print(f"{state.key}: {state.remaining:.0f} of {state.burst:g} at once")
    await chain.aclose()


asyncio.run(main())
