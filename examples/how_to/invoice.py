"""A stream that was left early costs an estimate, until the provider's invoice is booked."""

import asyncio
import tempfile
from pathlib import Path

from llmpipe import Budget, Chain, Runtime
from llmpipe.middleware.budget import Rule
from llmpipe.middleware.budget.booking import book
from llmpipe.middleware.budget.invoice import read_invoice
from llmpipe.providers.mock import MockProvider

NOON = 1_790_856_000.0  # 1 October 2026, 12:00 UTC
FILE = """\
usage_date_utc,model,token_type,cost_usd
2026-10-01,GPT 4o mini,input,0.00000240
2026-10-01,GPT 4o mini,output,0.00000960
"""


async def main() -> None:
    story = ["Once ", "upon ", "a ", "time ", "there ", "was ", "a ", "tortoise."]
    core = MockProvider([story], name="openai", model="gpt-4o-mini")
    budget = Budget(rules=[Rule(usd=10, period="month", per="account")])
    async with Chain(core, budget, runtime=Runtime(wall=lambda: NOON)) as chain:
        async with chain.stream("Tell me a story.", max_tokens=50, tenant="acme") as reply:
            async for text in reply.texts():
                print(f"{text!r}, and away")
                break
        path = Path(tempfile.mkdtemp()) / "costs.csv"
        path.write_text(FILE)

        # region book
        ledger = budget.desk(chain.runtime).ledger
        lines = read_invoice(path)
        for _ in range(2):
            done = await book(ledger, budget.rules, lines, provider="openai", exported_at=NOON + 86_400)
            for one in done.corrections:
                print(f"{one.day} {one.model}: {one.journal} nano-USD, billed {one.invoice}")
            status = (await budget.status(chain.runtime, account="acme"))[0]
            print(f"{len(done.corrections)} booked; {status.account}: {status.spent} nano-USD spent")
        # endregion book


asyncio.run(main())
