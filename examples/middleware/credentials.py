"""Two keys: one is used up, the other answers; then both are exchanged while the chain is in use."""

import asyncio
import logging

from llmpipe import Chain, Keys, provider
from llmpipe.testing.simulator import Simulator

logging.basicConfig(format="%(levelname)s %(message)s")


async def main() -> None:
    async with Simulator(keys={"sk-second-key", "sk-third-key"}) as server:
        keys = Keys("sk-first-key", "sk-second-key")
        openai = provider("openai", api_key=keys, base_url=f"{server.url}/v1", model="gpt-4o-mini")
        async with Chain(openai) as chain:  # Credentials comes with a provider of several keys
            print([middleware.name for middleware in chain.middleware])
            print((await chain.complete("Say hello")).text)

            keys.replace("sk-third-key")  # calls under way finish on the key they have
            print((await chain.complete("Say hello")).text)
        print("requests:", [entry.status for entry in server.book.entries])


asyncio.run(main())
