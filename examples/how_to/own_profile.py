"""A provider whose server speaks a known format is data: a profile. Here a simulator is that server."""

# region use
import asyncio
from typing import Any

from llmpipe import Capabilities, Chain, Provider
from llmpipe.providers.http import HTTPProvider
from llmpipe.providers.profiles import Profile
from llmpipe.testing.simulator import Simulator

ACME = Profile(
    "acme",
    dialect="openai.chat",
    base_url="https://llm.acme.example/v1",
    key_env="ACME_API_KEY",
    key_header="X-Acme-Key",
    key_prefix="",
    capabilities=Capabilities(vision=False, context_tokens=32_000),
    quirks={"stream_usage": False},  # its server refuses stream_options
)


def acme(**options: Any) -> Provider:
    """What `provider("acme", ...)` calls, once it is registered."""
    return HTTPProvider(ACME, **options)


# endregion use


async def main() -> None:
    async with Simulator() as server:
        core = acme(api_key="key-1", base_url=f"{server.url}/v1", model="gpt-4o-mini")
        async with Chain(core) as chain:
            print((await chain.complete("Say hello")).text)


asyncio.run(main())
