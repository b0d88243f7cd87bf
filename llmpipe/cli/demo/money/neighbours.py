"""Third act: a noisy tenant beside a quiet one, and an account that uses up its own limit."""

from __future__ import annotations

import asyncio

from llmpipe.cli.demo.money.scene import Admission, Neighbours
from llmpipe.cli.demo.money.shop import REQUEST, Till
from llmpipe.errors import LimitReached
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.pipeline.chain import Chain

__all__ = ("run_neighbours",)

_RATE = 200.0
_NOISY, _QUIET = 400, 16
_PAUSE = 0.1  # between two calls of the quiet one
_BURST = 5


async def run_neighbours() -> Neighbours:
    """Both halves, side by side."""
    scene = Neighbours(_RATE)
    await asyncio.gather(_queue(scene), _accounts(scene))
    return scene


async def _queue(scene: Neighbours) -> None:
    """One tenant asks for all at once; the other comes now and then, and finds hundreds in the queue."""
    noisy: list[float] = []
    quiet: list[float] = []
    scene.waits = {"noisy": noisy, "quiet": quiet}
    limit = RateLimit(requests_per_second=_RATE, burst=1, per="global")
    async with Chain(Till(seconds=0.0), limit) as chain:

        async def ask(tenant: str, waits: list[float]) -> None:
            call = chain.new_call(REQUEST, tenant=tenant)
            async with await chain(call) as reply:
                await reply.full()
            told = [float(n.detail["seconds"]) for n in call.ledger.notes if n.kind == "rate_limit.wait"]
            waits.append(sum(told))

        crowd = [asyncio.create_task(ask("noisy", noisy)) for _ in range(_NOISY)]
        for _ in range(_QUIET):
            await asyncio.sleep(_PAUSE)
            await ask("quiet", quiet)
        await asyncio.gather(*crowd)


async def _accounts(scene: Neighbours) -> None:
    """A refusal says in how long there is room: earlier there is none, and then there is."""
    limits = Limits(limits=Limit(per="account", requests_per_minute=60, burst=_BURST))
    async with Chain(Till(seconds=0.0), limits) as chain:
        loop = asyncio.get_running_loop()

        async def ask(account: str) -> Admission:
            at = loop.time()
            try:
                await chain.complete(REQUEST, tenant=account)
            except LimitReached as error:
                return Admission(at, False, error.retry_after)
            return Admission(at, True)

        busy = [await ask("busy") for _ in range(_BURST + 1)]
        scene.busy, scene.calm = busy, [await ask("calm") for _ in range(_BURST)]
        refused = busy[-1]
        if refused.retry_after is None:  # nothing to go by; the promise is broken
            return
        await asyncio.sleep(refused.at + refused.retry_after / 2 - loop.time())
        busy.append(await ask("busy"))
        await asyncio.sleep(refused.at + refused.retry_after + 0.001 - loop.time())
        busy.append(await ask("busy"))
