"""Who pays for a batch: each member for its own part, before it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

from llmpipe.errors import BudgetExceeded
from llmpipe.middleware.batch import Batch
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.types import Embeddings, Usage


def answer(request: Any) -> Embeddings:
    """A vector for each input."""
    return Embeddings(
        vectors=tuple((0.5, 0.5) for _ in request.inputs), usage=Usage(7 * len(request.inputs), 0)
    )


PRICES: dict[str, Any] = {"*": {"input": 1, "output": 1}}


async def test_every_member_holds_its_own_part():
    budget = Budget(rules=Rule(usd=1, period="day", per="user"), prices=PRICES)
    held: list[int] = []

    class Looking(MockProvider):
        async def __call__(self, call: Any) -> Any:
            for user in ("ada", "bob"):
                held.extend(one.held for one in await budget.status(call.runtime, user=user))
            return await super().__call__(call)

    provider = Looking(default=answer)
    chain = Chain(provider, budget, Batch(across_users=True))
    await asyncio.gather(*[chain.embed(["some text"], user=user) for user in ("ada", "bob")])
    assert len(provider.requests) == 1
    assert held[0] == held[1] > 0
    spent = [(await budget.status(chain.runtime, user=user))[0] for user in ("ada", "bob")]
    assert all(one.spent > 0 and not one.held for one in spent)


async def test_a_member_without_money_keeps_the_batch_from_being_sent():
    rules = [Rule(usd="0.000000001", period="day", per="user", when={"user": "poor"}, name="poor")]
    provider = MockProvider(default=answer)
    chain = Chain(provider, Budget(rules=rules, prices=PRICES), Batch(across_users=True))
    found = await asyncio.gather(
        *[chain.embed(["some text"], user=user) for user in ("ada", "poor")], return_exceptions=True
    )
    assert isinstance(found[1], BudgetExceeded)
    assert not any(len(request.inputs) == 2 for request in provider.requests)
