"""A stream that breaks: committed at its first word it is an error, held back it is replaced unseen."""

import asyncio

from llmpipe import Chain, Commit, MockProvider, Retry, StreamBroken, Wait


def unlucky() -> MockProvider:
    """Breaks in the middle of its first answer."""
    return MockProvider(
        [["The rain ", Wait(0.2), StreamBroken("the connection was lost")]],
        default=["The rain ", Wait(0.2), "falls on the hills."],
    )


async def main() -> None:
    retry = Retry(base=0.01)

    try:
        async with Chain(unlucky(), retry).stream("Tell me of the rain") as reply:
            async for text in reply.texts():
                print(repr(text))
    except StreamBroken as error:
        print(f"{error.message}, after {error.partial.text!r}")

    held = Chain(unlucky(), retry, Commit(policy="whole"))
    streaming = held.stream("Tell me of the rain")
    async with streaming as reply:
        async for text in reply.texts():
            print(repr(text))
    for note in streaming.call.ledger.notes:
        print(" ", note.kind, note.detail["error"])

    # For one call only, and only the first pieces:
    chain = Chain(unlucky(), retry, Commit())
    async with chain.stream("Tell me of the rain", options={Commit: {"events": 2}}) as reply:
        print([text async for text in reply.texts()])


asyncio.run(main())
