"""A caller's JSON in one dialect, answered by providers of others, and given back as the caller reads it."""

import asyncio

from llmpipe import Chain, InvalidRequest, Router, dialects, provider
from llmpipe.testing.simulator import Simulator

BODY = {  # as a client of OpenAI writes it
    "model": "any",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it raining?"}],
    "max_completion_tokens": 30,
    "seed": 7,
    "user": "customer-12",
}


async def main() -> None:
    theirs = dialects.get("openai.chat")
    async with Simulator() as simulator:  # in place of the three providers, whose keys you have
        key, at = "sk-test", simulator.url
        claude = provider("anthropic", api_key=key, base_url=f"{at}/v1", model="claude-haiku-4-5")
        gemini = provider("gemini", api_key=key, base_url=f"{at}/v1beta", model="gemini-2.5-flash")
        cohere = provider("cohere", api_key=key, base_url=at, model="command-a-03-2025")
        async with Chain(Router(claude, gemini, cohere)) as chain:
            request = theirs.decode_request(BODY)
            for _ in range(3):
                done = await chain.complete(request)
                told = theirs.encode_reply(done)
                print(f"{done.provider}: {told['choices'][0]['message']['content']}")
                for warning in done.warnings:
                    print("   ", warning)
            print("asked in", ", ".join(entry.dialect for entry in simulator.book.entries))

            # What would change the meaning of an answer, and cannot be said, is refused before it is sent.
            try:
                await Chain(claude).complete(theirs.decode_request({**BODY, "n": 3}))
            except InvalidRequest as error:
                print(error)
            print(len(simulator.book.entries), "requests were sent")


asyncio.run(main())
