"""Any server that speaks OpenAI's chat format: vLLM, llama.cpp, Ollama. Here a simulator is one."""

import asyncio

from llmpipe import Chain, Retry, Timeout, provider
from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.testing.simulator import Simulator


async def main() -> None:
    async with Simulator() as server:  # stands in for yours
        local = provider(
            "openai-compatible",
            base_url=f"{server.url}/v1",  # yours: "http://localhost:11434/v1"
            model="gpt-4o-mini",  # yours: what the server calls its model
            name="local",  # in errors, metrics and prices; by default "openai-compatible"
            dialect=OpenAIChat(stream_usage=False),  # only for a server with quirks
        )
        async with Chain(local, Retry(), Timeout(first=120)) as chain:
            print([model.id for model in await local.get_models()])
            done = await chain.complete("Say hello", extra={"top_k": 40})  # extra: sent as it is
            print(f"{done.provider}: {done.text}")


asyncio.run(main())
