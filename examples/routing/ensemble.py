"""Three models answer together; one is too slow, and one answer is made of the others'."""

import asyncio

from llmpipe import Chain, Completion, Cost, MockProvider, Overloaded, Wait
from llmpipe.routing.ensemble import Ensemble


async def main() -> None:
    openai = MockProvider(["It is 42.", "Yes", "Yes"], name="openai", model="gpt-4o-mini")
    claude = MockProvider(
        ["Forty-two.", "yes.", Overloaded("busy")], name="anthropic", model="claude-haiku-4-5"
    )
    slow = MockProvider([[Wait(90), "Hm."], "No", "No"], name="local", model="llama")
    judge = MockProvider(["The answer is 42.", "2"], name="anthropic", model="claude-sonnet-4-5")

    synthesis = Chain(Ensemble(openai, claude, slow, judge=judge, deadline=20), Cost())
    async with synthesis.stream("What is the answer?") as reply:
        print("".join([text async for text in reply.texts()]))
    done = reply.completion
    assert isinstance(done, Completion)
    for member in done.extra["ensemble"]["members"]:
        print("  ", member["member"], member["status"])
    print(done.warnings[0])
    assert done.usage is not None
    print(done.usage.total_tokens, "tokens of all, at", done.cost, "USD")  # llama has no price: unknown

    vote = Chain(Ensemble(openai, claude, slow, combine="vote"))
    done = await vote.complete("Is it?")
    print(done.text, "said", done.extra["ensemble"]["winner"], "first")

    best = Chain(Ensemble(openai, claude, slow, combine="judge", judge=judge))
    done = await best.complete("Is it, really?")
    print(done.text, "is the best, of those that answered:", done.extra["ensemble"]["winner"])


asyncio.run(main())
