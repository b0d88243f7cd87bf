"""Settings that a call brings for what a router has round its targets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmpipe.errors import ConfigError, FirstTokenTimeout
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.budget import Budget
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.router import Router


def slow(name: str) -> MockProvider:
    return MockProvider(default=[Wait(10), "late"], name=name)


async def test_time_limits_round_bare_targets_can_be_set_for_a_call():
    chain: Any = Chain(Router(slow("a"), slow("b")))
    with pytest.raises(FirstTokenTimeout, match="within 2 s"):
        await chain.complete("hi", options={Timeout: {"first": 2}})
    assert asyncio.get_running_loop().time() == 4  # two for each
    assert (
        await chain.complete("hi", options={Timeout: {"first": 11}, Breaker: {"window": 5}})
    ).text == "late"


async def test_they_reach_a_router_within_a_router():
    chain: Any = Chain(Router(Router(slow("a"), name="inner"), name="outer"))
    with pytest.raises(FirstTokenTimeout, match="within 3 s"):
        await chain.complete("hi", options={Timeout: {"first": 3}})


async def test_one_ring_of_a_middleware_goes_by_the_class_that_it_is_a_ring_of():
    for ring in (*Timeout().rings(), *Budget().rings()):
        chain: Any = Chain(MockProvider(default="ok"), ring)
        kind: Any = type(ring.config)  # type: ignore[attr-defined]  # rings of these two have one
        assert (await chain.complete("hi", options={kind: {}})).text == "ok"
        with pytest.raises(ConfigError, match=f"no middleware of that class; it has {kind.__name__}$"):
            await chain.complete("hi", options={Retry: {}})


async def test_wrong_settings_are_refused_and_what_there_is_is_named():
    chain: Any = Chain(Router(slow("a")))
    with pytest.raises(ConfigError, match="it has Breaker, Meter, Timeout"):
        await chain.complete("hi", options={Budget: {}})
    with pytest.raises(ConfigError, match="fist"):
        await chain.complete("hi", options={Timeout: {"fist": 2}})
