"""Fifth act: a provider fails for a while, and somebody is told: once that it does, once that it is over."""

from __future__ import annotations

import asyncio

from llmpipe.cli.demo.money.scene import Trouble
from llmpipe.cli.demo.money.shop import REQUEST
from llmpipe.errors import LLMError, Overloaded
from llmpipe.middleware.alerts import Alert, Alerts, CircuitOpened, ErrorRate
from llmpipe.middleware.breaker import Breaker
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import Line, MockProvider
from llmpipe.types import AnyRequest

__all__ = ("run_trouble",)

_PER_SECOND = 100
_WELL, _ILL, _AGAIN = 50, 50, 180  # calls
_WINDOW = 0.6  # seconds in which the share of failures is counted; in production, minutes


async def run_trouble() -> Trouble:
    """Calls while all is well, while every one fails, and while all is well again."""
    scene = Trouble()
    told: list[Alert] = []
    ill = False

    def answer(_: AnyRequest) -> Line:
        return Overloaded("no capacity") if ill else "Dear customer, …"

    rules = (ErrorRate(above=0.05, window=_WINDOW, minimum=20), CircuitOpened())
    alerts = Alerts(rules=rules, sinks=told.append)
    async with Chain(MockProvider(default=answer, name="shop"), alerts, Breaker(base=0.3)) as chain:
        for number in range(_WELL + _ILL + _AGAIN):
            ill = _WELL <= number < _WELL + _ILL
            try:
                await chain.complete(REQUEST)
            except LLMError:
                scene.failed += 1
            scene.calls += 1
            await asyncio.sleep(1 / _PER_SECOND)
        scene.late = len(alerts.status(chain.runtime).firing)
    scene.alerts = told
    return scene
