"""Who answers stands in a store, and is changed while calls run."""

import asyncio
from typing import Any

from llmpipe import Chain, MockProvider
from llmpipe.keys import KeyVault
from llmpipe.routing.repository import StoredUseCases
from llmpipe.state import ProviderRow


def row(name: str, model: str, *use_cases: str, **more: Any) -> ProviderRow:
    return ProviderRow(name=name, provider="mock", model=model, use_cases=use_cases, **more)


def make(row: ProviderRow, vault: KeyVault | None) -> MockProvider:
    """Without this, the provider of the row's kind."""
    return MockProvider(default=f"{row.name} answers", name=row.name, model=row.model)


async def main() -> None:
    table = StoredUseCases(store="memory://", make=make)  # or sqlite:///llmpipe.db, postgresql://…
    async with Chain(MockProvider(default="the chain's own answers"), table) as chain:
        print((await chain.complete("hello")).text)

        rows = table.repository(chain.runtime)
        await rows.put(row("mini", "gpt-4o-mini", "draft", "general", is_default=True))
        await rows.put(row("haiku", "claude-haiku-4-5", "draft"))
        await rows.put(row("acme-gpt", "gpt-4o", "draft", account="acme"))

        draft = {"use_case": "draft"}
        print("draft:", (await chain.complete("hello", tags=draft)).text)
        print("draft of acme:", (await chain.complete("hello", tags=draft, tenant="acme")).text)
        print("nothing said:", (await chain.complete("hello")).text)

        await rows.delete("haiku")
        print("without haiku:", (await chain.complete("hello", tags=draft)).text)
    await chain.runtime.aclose()


asyncio.run(main())
