"""A trail in a file: what was asked, refused and failed; and what a crash has left open."""

import asyncio
import tempfile
from pathlib import Path

from llmpipe import Chain, MockProvider, Overloaded, RateLimited
from llmpipe.cli import main as command
from llmpipe.errors import LLMError
from llmpipe.middleware.audit import Audit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.validate import Validate
from llmpipe.state import AuditQuery, open_state


async def main(directory: str) -> None:
    url = f"file://{directory}/audit.jsonl"
    provider = MockProvider(["Good morning!", RateLimited("slow down"), Overloaded("busy")])
    chain = Chain(
        provider,
        Audit(store=url, writer="gateway-1", retention_days=90),
        Validate(blocked=("secret plan",)),
        Retry(attempts=2, base=0.01),
    )
    async with chain:
        await chain.complete("Say good morning!", tenant="acme", user="jane@example.org")
        for prompt in ("Tell me the secret plan.", "And once more."):
            try:
                await chain.complete(prompt, tenant="acme")
            except LLMError as error:
                print("the caller saw:", type(error).__name__)

    store = open_state(url)
    for record in await store.audit("audit").query(AuditQuery(tenant="acme", kind="end")):
        print(record.seq, record.outcome, record.body["attempts"], "attempts")
    await store.aclose()


with tempfile.TemporaryDirectory() as directory:
    asyncio.run(main(directory))
    file = Path(directory, "audit.jsonl")
    command(["audit", "verify", f"file://{file}"])

    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:4], *lines[5:]]))  # somebody takes out what was refused
    print("and when a line is taken out:")
    command(["audit", "verify", f"file://{file}"])
