"""What is bought in this scene: one kind of request, at a provider that keeps a bill of its own."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from llmpipe.middleware.budget import Budget, Rule
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.tokens import estimate_request
from llmpipe.types import Request, Usage

__all__ = ("MODEL", "PRICES", "REQUEST", "Till", "WORST_NANO", "budget")

MODEL = "demo-1"
PRICES = {f"shop/{MODEL}": {"input": 1.0, "output": 10.0}}
"""USD per million tokens."""

REQUEST = Request(model=MODEL, messages="Write the letter for this order, one page.", max_tokens=1000)
_USED = Usage(input_tokens=estimate_request(REQUEST), output_tokens=1000)

WORST_NANO = _USED.input_tokens * 1_000 + _USED.output_tokens * 10_000
"""What one call may cost; and here each does, for the answers are as long as they may be."""


class Till(MockProvider):
    """A provider that takes `seconds` for an answer, and writes its own bill.

    Attributes: bill_nano, what all its answers cost, nano-USD, by its own arithmetic.
    """

    def __init__(self, seconds: float = 0.02) -> None:
        super().__init__(default=[Wait(seconds), "Dear customer, …"], name="shop", model=MODEL, usage=_USED)
        self.bill_nano = 0

    async def __call__(self, call: Call) -> Reply:
        """The answer, and a line on the bill."""
        reply = await super().__call__(call)
        self.bill_nano += WORST_NANO
        return reply


def budget(usd: Decimal, store: str, **settings: Any) -> Budget:
    """A budget of that many dollars, for good."""
    return Budget(rules=(Rule(usd=usd, period="total"),), prices=PRICES, store=store, **settings)
