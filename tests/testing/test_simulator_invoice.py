"""The simulator's bill as a provider's file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from llmpipe.errors import RateLimited
from llmpipe.middleware.budget.invoice import read_invoice
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.testing.simulator.book import Form

NOON = 1_790_856_000.0  # 1 October 2026, 12:00 UTC


@pytest.mark.parametrize("form", ["requests", "openai", "anthropic"])
async def test_its_bill_can_be_read_in_every_form_to_the_nano_dollar(form: Form, tmp_path: Path):
    days = iter([0.0, 86_400.0, 86_400.0, 0.0])
    ids = []
    async with Simulator([Rule(Fault(status=429), first=4)], wall=lambda: NOON + next(days)) as simulator:
        core = provider("openai", api_key="sk-test", base_url=f"{simulator.url}/v1", model="gpt-4o-mini")
        async with Chain(core) as chain:
            for model in ("gpt-4o-mini", "gpt-4o", "gpt-4o-mini"):
                ids.append((await chain.complete("Tell me something.", model=model)).request_id)
            with pytest.raises(RateLimited) as caught:  # which costs nothing, and is in no bill
                await chain.complete("Tell me something.")
    book = simulator.book
    assert [one.request_id for one in book.entries] == [*ids, caught.value.request_id]
    path = tmp_path / "bill.csv"
    path.write_text(book.invoice(form))
    lines, billed = read_invoice(path), book.entries[:3]
    assert sum(line.nano or 0 for line in lines) == book.billed_nano > 0
    sums: Counter[tuple[str, str]] = Counter()
    for line in lines:
        sums[line.day, line.model] += line.nano or 0
    assert sums == {(one.day, one.model): one.billed_nano for one in billed}
    if form == "requests":
        assert [line.request_id for line in lines] == ids
        tokens = [(line.input_tokens, line.output_tokens) for line in lines]
        assert tokens == [(one.usage.input_tokens, one.usage.output_tokens) for one in billed if one.usage]
