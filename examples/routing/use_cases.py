"""Calls say what they are for; the table says who answers."""

import asyncio

from llmpipe import Chain, InvalidRequest, MockProvider
from llmpipe.routing.use_cases import Entry, UseCases


def model(provider: str, name: str) -> MockProvider:
    return MockProvider(default=f"{name} answers", name=provider, model=name)


async def main() -> None:
    mini, gpt = model("openai", "gpt-4o-mini"), model("openai", "gpt-4o")
    haiku, sonnet = model("anthropic", "claude-haiku-4-5"), model("anthropic", "claude-sonnet-4-5")
    table = [
        Entry(mini, ["draft", "summary", "general", "voice"], default=True, max_tokens=16384),
        Entry(gpt, ["vision", "complex"]),
        Entry(haiku, ["draft", "summary"]),
        Entry(sonnet, "complex"),
        Entry(model("openai", "gpt-4o-acme"), "draft", account="acme"),
    ]
    chain = Chain(mini, UseCases(table))

    for use_case in ("draft", "complex", "vision", "voice"):
        done = await chain.complete("hello", tags={"use_case": use_case})
        print(f"{use_case}: {done.text}")
    done = await chain.complete("hello", tags={"use_case": "draft"}, tenant="acme")
    print("draft of acme:", done.text)
    done = await chain.complete("hello", model="gpt-4o", tags={"use_case": "draft"})
    print("gpt-4o asked for:", done.text)
    print("nothing said:", (await chain.complete("hello")).text)
    try:
        await chain.complete("hello", tags={"use_case": "poetry"})
    except InvalidRequest as error:
        print(error)


asyncio.run(main())
