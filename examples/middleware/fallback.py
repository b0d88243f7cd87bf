"""Three targets: one is overloaded, one refuses its key, one answers."""

import asyncio

from llmpipe import (
    AuthenticationFailed,
    Breaker,
    Chain,
    Completion,
    Fallback,
    LLMError,
    MockProvider,
    Overloaded,
    Request,
    Retry,
)


async def main() -> None:
    openai = MockProvider(
        [Overloaded("no capacity")], default="OpenAI answers.", name="openai", model="gpt-4o-mini"
    )
    claude = MockProvider(
        default=AuthenticationFailed("no such key"), name="anthropic", model="claude-haiku-4-5"
    )
    local = MockProvider(
        ["The local model answers."], default=Overloaded("busy"), name="local", model="llama"
    )
    # The local model is a chain: it brings its own policy and runs through nothing of ours.
    chain = Chain(openai, Retry(), Breaker(consecutive=1), Fallback(claude, Chain(local)))

    for _ in range(2):
        call = chain.new_call(Request(messages="Who is there?"))
        try:
            reply = await chain(call)
            done = await reply.full()
            assert isinstance(done, Completion)
            print(done.text)
        except LLMError as error:
            print(f"all failed: {error}")
            for entry in error.metadata["fallback"]:
                print("  -", entry["target"], entry["type"])
        for note in call.ledger.notes:
            if note.kind.startswith("fallback."):
                print(f"  {note.kind}", dict(note.detail))


asyncio.run(main())
