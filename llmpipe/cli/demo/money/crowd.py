"""First act: a thousand calls at one moment, on a budget with room for ten."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from pathlib import Path

from llmpipe.cli.demo.money.scene import Crowd
from llmpipe.cli.demo.money.shop import REQUEST, WORST_NANO, Till, budget
from llmpipe.errors import BudgetExceeded, LLMError
from llmpipe.pipeline.chain import Chain

__all__ = ("run_crowd",)

_CALLS, _ROOM = 1000, 10
_LOOK_EVERY = 0.02


async def run_crowd(home: Path) -> Crowd:
    """Half of the calls come to each of two instances, which know of each other by a file alone."""
    limit = _ROOM * WORST_NANO + WORST_NANO // 2  # an eleventh would fit by half
    rule = budget(Decimal(limit).scaleb(-9), f"sqlite:///{home / 'crowd.db'}")
    scene = Crowd(_CALLS, _ROOM, limit)
    till = Till(seconds=0.3)
    instances = [Chain(till, rule), Chain(till, rule)]

    async def look() -> None:
        (status,) = await rule.status(instances[0].runtime)
        scene.spent, scene.held = status.spent, status.held
        scene.highest = max(scene.highest, status.spent + status.held)
        scene.looks += 1

    async def watch() -> None:
        while True:
            await look()
            await asyncio.sleep(_LOOK_EVERY)

    watching = asyncio.create_task(watch())
    ends = Counter(await asyncio.gather(*[_buy(instances[number % 2]) for number in range(_CALLS)]))
    watching.cancel()
    await asyncio.wait([watching])
    await look()
    scene.answered, scene.refused = ends["ok"], ends["refused"]
    scene.others = _CALLS - scene.answered - scene.refused
    scene.requests, scene.bill = len(till.requests), till.bill_nano
    for chain in instances:
        await chain.aclose()
    return scene


async def _buy(chain: Chain) -> str:
    try:
        await chain.complete(REQUEST)
    except BudgetExceeded:
        return "refused"
    except LLMError as error:  # would be a broken promise, and is told as one
        return type(error).__name__
    return "ok"
