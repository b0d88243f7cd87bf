"""A chain in front of one provider, with another one to fall back on.

Run it with OPENAI_API_KEY and ANTHROPIC_API_KEY set.
"""

import asyncio
import os

from llmpipe import Chain, Fallback, TextDelta, presets, provider


async def main() -> None:
    openai = provider("openai", api_key=os.environ["OPENAI_API_KEY"], model="gpt-4o-mini")
    claude = provider("anthropic", api_key=os.environ["ANTHROPIC_API_KEY"], model="claude-haiku-4-5")

    async with Chain(openai, *presets.production(), Fallback(claude)) as chain:
        done = await chain.complete("Say hello", max_tokens=20)
        print(done.text, done.usage, done.cost)

        async with chain.stream("Tell me a story") as reply:
            async for event in reply:
                if isinstance(event, TextDelta):
                    print(event.text, end="", flush=True)


asyncio.run(main())
