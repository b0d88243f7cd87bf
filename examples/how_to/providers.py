"""Providers that want more than a key: an account's own address, several keys, another dialect."""

import asyncio
from collections.abc import Iterator
from typing import Any

from llmpipe import Request, provider
from llmpipe.dialects.openai_chat import OpenAIChat


def some() -> Iterator[Any]:
    # region azure
    yield provider("azure", resource="contoso", api_key="az-key", model="my-gpt-deployment")
    yield provider("azure-deployments", resource="contoso", api_version="2024-10-21", api_key="az-key")
    yield provider("azure-anthropic", resource="contoso", api_key="az-key", model="claude-haiku-4-5")
    # endregion azure
    # region keys
    yield provider("groq", api_key=["first-key", "second-key"], model="openai/gpt-oss-20b")
    # endregion keys
    # region dialect
    yield provider("ollama", dialect="ollama.chat", model="llama3.2")
    yield provider("deepseek", dialect="anthropic.messages", api_key="ds-key", model="deepseek-flash")
    # endregion dialect


async def main() -> None:
    for one in some():
        print(one, "speaks", one.dialect.name)
        await one.aclose()

    # region openrouter
    request = Request(
        "anthropic/claude-sonnet-4.5",
        "Say hello.",
        extra={"provider": {"order": ["amazon-bedrock", "google-vertex"], "allow_fallbacks": False}},
    )
    # endregion openrouter
    print(OpenAIChat().encode_request(request)["provider"])


asyncio.run(main())
