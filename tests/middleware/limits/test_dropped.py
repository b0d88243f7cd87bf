"""A call that is dropped when its loop runs no more holds nothing in the next: a chain outlives a loop."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from llmpipe.middleware.budget import Rule
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import Wait
from llmpipe.runtime import Runtime
from llmpipe.testing import run
from tests.middleware.budget.bank import budget, mock

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONFIG = budget(Rule(usd=1))
LIMITS = Limits(limits=Limit(concurrency=3, tokens_per_minute=1000))


async def held(runtime: Runtime) -> float:
    return float((await CONFIG.status(runtime))[0].held)


async def slots(runtime: Runtime) -> float:
    return 3 - (await LIMITS.status(runtime))[1].remaining


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("item", "taken"), [(CONFIG, held), (LIMITS, slots)])
def test_a_call_dropped_without_a_loop_holds_nothing(item: Any, taken: Callable[..., Any], stream: bool):
    chain = Chain(mock(default=[Wait(100), "late"]), item)
    seen: list[float] = []

    async def begin() -> Any:
        call = chain.stream("hi").__aenter__() if stream else chain.complete("hi")
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0.01)
        seen.append(await taken(chain.runtime))
        return task.get_coro()

    loop = asyncio.new_event_loop()
    dropped = loop.run_until_complete(begin())
    loop.close()
    with suppress(RuntimeError):  # of the attempt, which cannot say when it ended
        dropped.close()
    del dropped
    gc.collect()

    async def look() -> None:
        seen.append(await taken(chain.runtime))

    run(look())
    assert seen[0] > 0
    assert seen[1] == 0
