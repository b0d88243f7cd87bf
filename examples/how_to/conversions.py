"""A body in OpenAI's words goes to Anthropic: what is said, what is lost, and how to be told before."""

import asyncio
import json

from llmpipe import Chain, Retry, dialects, provider
from llmpipe.errors import Unsupported
from llmpipe.testing.simulator import Simulator
from llmpipe.types import Completion, Message, Request


def hello(request: Request) -> Completion:
    """What the simulator answers."""
    return Completion(message=Message("assistant", "Hello!"), finish_reason="stop")


# region use
BODY = {  # as any client of OpenAI's chat format sends it
    "model": "claude-sonnet-4-5",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello"}],
    "max_completion_tokens": 100,
    "seed": 7,  # Anthropic has none
}


async def main() -> None:
    openai = dialects.get("openai.chat")
    async with Simulator(answer=hello) as server:  # stands in for Anthropic
        claude = provider("anthropic", base_url=f"{server.url}/v1", api_key="sk-test", model="")
        async with Chain(claude, Retry()) as chain:
            done = await chain.complete(openai.decode_request(BODY))
            print(done.warnings)
            reply = openai.encode_reply(done)  # for the same client, in its own words
            print(json.dumps(reply["choices"][0]["message"]["content"]))

            try:
                await chain.complete(openai.decode_request({**BODY, "n": 2}))
            except Unsupported as error:
                print(f"refused: {error.metadata['param']}")

        strict = provider(
            "anthropic", base_url=f"{server.url}/v1", api_key="sk-test", model="", on_loss="refuse"
        )
        async with Chain(strict) as chain:
            try:
                await chain.complete(openai.decode_request(BODY))
            except Unsupported as error:
                print(error.message)


# endregion use
asyncio.run(main())
