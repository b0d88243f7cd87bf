"""What is held and what is charged come from one price, whatever provider and model are called."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cost import Cost
from llmpipe.pipeline.chain import Chain
from llmpipe.pricing import cost_of, prices, worst_case
from llmpipe.providers.mock import Wait
from llmpipe.types import Completion, Message, Request, Usage
from tests.middleware.budget.bank import balance, mock, runtime

ASK = Request(messages="Tell me something.", max_tokens=20)
OWN = {"gpt-4o": {"input": 1, "output": 4}}


async def test_a_provider_under_a_name_of_ones_own_is_held_and_charged_at_the_price_it_is_sold_for():
    """A reseller's, which may be five times the maker's."""
    listed = prices().find("openrouter", "deepseek/deepseek-r1")
    assert listed is not None
    provider: Any = mock(default=[Wait(1.0), "fine"], name="backup", model="deepseek/deepseek-r1")
    provider.sold_as = "openrouter"
    config = Budget(rules=Rule(usd=1))
    chain = Chain(provider, config, runtime=runtime())
    call = asyncio.create_task(chain.complete(ASK))
    await asyncio.sleep(0.5)
    most = worst_case(ASK, listed)
    assert most is not None
    assert await balance(chain, config) == (0, most.total_nano)
    done = await call
    assert done.usage is not None
    paid = cost_of(done.usage, listed)
    assert paid is not None
    assert await balance(chain, config) == (paid.total_nano, 0)


@pytest.mark.parametrize("layers", [(), (Cost(prices=OWN),)])
async def test_a_call_is_charged_at_ones_own_price_by_whatever_dated_name_the_model_answers(layers: Any):
    answer = Completion(model="gpt-4o-2024-08-06", message=Message("assistant", "x"), usage=Usage(1000, 100))
    provider = mock(default=answer, name="openai", model="gpt-4o")
    config = Budget(rules=Rule(usd=1), prices=OWN)
    chain = Chain(provider, config, *layers, runtime=runtime())
    await chain.complete(ASK)
    assert await balance(chain, config) == (1_400_000, 0)
