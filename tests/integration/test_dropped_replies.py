"""Readers who drop a stream without a word: it is noticed, told of once, and what it held is given back."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from llmpipe.config import presets
from llmpipe.errors import Overloaded
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.migration import Migration
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing import no_leaks
from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.types import Request
from tests.integration.storm import listening

LIMIT = RateLimit(concurrency=4)


async def drop(chain: Chain) -> Call:
    """A call whose stream nobody reads or closes; the call itself is kept, for what it cost."""
    call = chain.new_call(Request(messages="Tell me a story", stream=True))
    _ = await chain(call)
    return call


async def turns() -> None:
    gc.collect()
    for _ in range(20):
        await asyncio.sleep(0)


def in_flight(chain: Chain) -> int:
    return sum(key.in_flight for key in LIMIT.status(chain.runtime))


@pytest.mark.real_time
async def test_a_dropped_reply_is_told_of_once():
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    async with Simulator([Rule(Fault(between_delay=0.05))]) as simulator:
        core: Any = provider("openai", api_key="sk-test", base_url=f"{simulator.url}/v1", model="gpt-4o-mini")
        async with Chain(core, LIMIT) as chain:
            with listening() as said:
                await drop(chain)
                await turns()
                for _ in range(100):
                    if not core.connections_in_use:
                        break
                    await asyncio.sleep(0.01)
                assert (core.connections_in_use, in_flight(chain)) == (0, 0)
    assert [str(warning.message).partition(":")[0] for warning in said] == ["a reply was never closed"]
    assert told == []


async def test_a_dropped_reply_gives_back_what_it_held_though_its_call_is_kept():
    chain = Chain(MockProvider(default=["a", "b"]), LIMIT)
    with listening() as said:
        call = await drop(chain)
        await turns()
    assert len(said) == 1
    assert in_flight(chain) == 0
    assert [attempt.status for attempt in call.ledger.attempts] == ["abandoned"]


AGAIN = {
    "retry": lambda: (Retry(),),
    "fallback": lambda: (Fallback(MockProvider(default=["a", "b"], name="spare")),),
    "migration": lambda: (Migration(MockProvider(default=["a", "b"], name="old"), share=1.0),),
}


@pytest.mark.parametrize("how", AGAIN)
async def test_the_same_after_an_attempt_that_failed(how: str):
    chain = Chain(MockProvider([Overloaded("busy")], default=["a", "b"]), LIMIT, *AGAIN[how]())
    with listening() as said:
        call = await drop(chain)
        await turns()
    assert len(said) == 1
    assert in_flight(chain) == 0
    assert [attempt.status for attempt in call.ledger.attempts] == ["error", "abandoned"]


async def test_the_same_after_an_attempt_that_was_too_slow():
    slow = MockProvider(default=[Wait(9), "late"])
    chain = Chain(slow, LIMIT, Timeout(first=1), Fallback(MockProvider(default=["a", "b"], name="spare")))
    with listening() as said:
        call = await drop(chain)
        await turns()
    assert len(said) == 1
    assert in_flight(chain) == 0
    assert [attempt.status for attempt in call.ledger.attempts] == ["error", "abandoned"]


async def test_a_closed_chain_leaves_no_timer():
    async with no_leaks(), Chain(MockProvider("hi"), *presets.production(timeout=Timeout())) as chain:
        await chain.complete("Hello")
