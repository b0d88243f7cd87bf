"""A provider that stumbles, one that asks us to wait, and one that stays down."""

import asyncio

from llmpipe import (
    Chain,
    Completion,
    LLMError,
    MockProvider,
    Overloaded,
    RateLimited,
    Request,
    Retry,
    Runtime,
)


async def main() -> None:
    provider = MockProvider(
        [Overloaded("no capacity"), "Better late.", RateLimited("slow down", retry_after=30), "On time."],
        default=Overloaded("still no capacity"),
    )
    retry = Retry(
        attempts=3, policy={"TIMEOUT": False, "RATE_LIMIT": {"attempts": 5, "strategy": "fibonacci"}}
    )
    chain = Chain(provider, retry, runtime=Runtime(seed=7))

    for prompt in ("Say something", "And again", "And again"):
        call = chain.new_call(Request(messages=prompt), timeout=60)
        try:
            reply = await chain(call)
            done = await reply.full()
            assert isinstance(done, Completion)
            print(done.text)
        except LLMError as error:
            print(f"gave up: {error}")
        for note in call.ledger.notes:
            print(
                f"  {note.kind}",
                {key: round(v, 2) if key == "seconds" else v for key, v in note.detail.items()},
            )

    stats = Retry.stats(chain.runtime)
    print(f"{stats.attempts} retries, {stats.successful} helped, {stats.delay:.1f} s waited")


asyncio.run(main())
