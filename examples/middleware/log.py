"""Every call as a line of JSON, written in the background."""

import asyncio
import sys

from llmpipe import Chain, Log, MockProvider, Overloaded, RateLimited, Retry, Runtime
from llmpipe.middleware.log import json_logging


async def main() -> None:
    handler = json_logging(stream=sys.stdout)  # or path="calls.log", retention_days=30
    provider = MockProvider(
        [Overloaded("no capacity"), "Good morning!", RateLimited("slow down", retry_after=600)],
        name="openai",
        model="gpt-4o-mini",
    )
    runtime = Runtime(seed=1, wall=lambda: 1_800_000_000.0)  # only to have the same lines in each run
    chain = Chain(provider, Log(bodies=True, max_body_chars=40), Retry(base=0.01), runtime=runtime)

    await chain.complete("I am jane@example.org. Say good morning!", tags={"correlation_id": "req-1"})
    refused = ""
    try:
        await chain.complete("Once more", tags={"correlation_id": "req-2"})
    except RateLimited as error:
        refused = str(error)
    handler.close()  # writes what is queued
    print("the caller saw:", refused)


asyncio.run(main())
