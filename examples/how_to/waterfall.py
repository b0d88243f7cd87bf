"""What happened on the way of one call: its attempts, its notes, and both as a picture."""

# region use
from llmpipe import Chain, Fallback, MockProvider, Overloaded, RateLimited, Retry, Runtime, Wait
from llmpipe.middleware.waterfall import render_waterfall
from llmpipe.testing import run


async def main() -> None:
    first = MockProvider(
        [[Wait(0.4), Overloaded("no capacity")], [Wait(0.2), Overloaded("still none")]],
        name="openai",
        model="gpt-4o-mini",
    )
    second = MockProvider(
        [RateLimited("slow down", retry_after=1.5), [Wait(0.6), "Once upon ", Wait(1.2), "a time."]],
        name="anthropic",
        model="claude-haiku-4-5",
    )
    chain = Chain(first, Retry(immediate=True), Fallback(second), runtime=Runtime(seed=7))

    streaming = chain.stream("Tell me a story")
    async with streaming as reply:
        print("".join([text async for text in reply.texts()]))

    call = streaming.call
    print(render_waterfall(call, width=130))
    print()
    for note in call.ledger.notes:
        print(f"{note.at - call.started_at:5.2f} s  {note.kind}  {dict(note.detail)}")
    for attempt in call.ledger.attempts:
        print(f"{attempt.number} {attempt.provider}: {attempt.status}, {attempt.error!r}")


run(main())  # asyncio.run does as well; this clock jumps
# endregion use
