"""Every built-in middleware keeps the laws of the pipeline, by itself and together with the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmpipe.config.presets import production
from llmpipe.errors import Overloaded
from llmpipe.middleware.adaptive_limit import AdaptiveLimit
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.hedge import Hedge
from llmpipe.middleware.hooks import Hooks
from llmpipe.middleware.log import Log
from llmpipe.middleware.migration import Migration
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.redact import Redact
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.shed import Shed
from llmpipe.middleware.timeout import Timeout
from llmpipe.middleware.validate import Validate
from llmpipe.pipeline import registry
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing.conform import conform
from llmpipe.types import EmbeddingRequest, Request

Make = Callable[[], Any]


def spare() -> MockProvider:
    return MockProvider(default=[Wait(1), "The spare ", Wait(1), "answers."], name="spare", model="spare-1")


async def looked_at(*_: Any) -> None:
    """A hook that does nothing."""


class Standard:
    """The standard middlewares as one, with everything on that is off by default."""

    name, priority = "standard", 0

    def rings(self) -> tuple[Any, ...]:
        return (
            *[
                ring
                for item in production(
                    coalesce=Coalesce(when="always"),
                    fallback=Fallback(spare()),
                    rate_limit=RateLimit(concurrency=4, requests_per_minute=600, tokens_per_minute=100_000),
                    hooks=Hooks(on_request=looked_at, on_response=looked_at, on_error=looked_at),
                )
                for ring in (item.rings() if hasattr(item, "rings") else (item,))
            ],
        )


NEED_A_TARGET = {"fallback", "migration"}

MADE: dict[str, Make] = {
    name: registry.get(name) for name in registry.BUILT_IN if name not in NEED_A_TARGET
} | {
    "fallback": lambda: Fallback(spare()),
    "fallback: a chain": lambda: Fallback(Chain(spare(), Retry())),
    "fallback: fails too": lambda: Fallback(MockProvider(default=Overloaded("full"), name="spare")),
    "breaker: at the first failure": lambda: Breaker(consecutive=1),
    "breaker: shared": lambda: Breaker(consecutive=1, store="memory://"),
    "breaker: metrics only": lambda: Breaker(mode="metrics_only", consecutive=1),
    "budget: limits": lambda: Budget(rules=(Rule(usd=1000, per="user"),), unknown_price="allow"),
    "cache: stale": lambda: Cache(ttl=0.001, stale=1000.0),
    "cache: stale if error": lambda: Cache(ttl=0.001, stale_if_error=1e6),
    "coalesce: always": lambda: Coalesce(when="always"),
    "cost: with prices": lambda: Cost(prices={"conform-1": {"input": 2.5, "output": 10.0}}),
    "hedge: at once": lambda: Hedge(delay=0.5, max_share=1.0),
    "hooks: all": lambda: Hooks(
        on_request=looked_at, on_chunk=lambda event: event, on_response=looked_at, on_error=looked_at
    ),
    "log: bodies": lambda: Log(bodies=True, requests=True),
    "migration": lambda: Migration(spare()),
    "migration: everybody": lambda: Migration(spare(), share=1.0),
    "redact: output": lambda: Redact(output=True),
    "redact: for good": lambda: Redact(mode="wire"),
    "redact: in a thread": lambda: Redact(output=True, thread_above=10),
    "retry: at once": lambda: Retry(immediate=True, attempts=3),
    "shed: two at a time": lambda: Shed(in_flight=2),
    "timeout: tight": lambda: Timeout(first=30.0, idle=15.0, stall=15.0, total=60.0),
    "validate: filters": lambda: Validate(blocked=("secret",), filters=(lambda text: None,)),
    "adaptive_limit: one at a time": lambda: AdaptiveLimit(start=1, maximum=2, max_wait=1000.0),
    "all together": Standard,
}


@pytest.mark.parametrize("name", MADE)
async def test_a_built_in_middleware_keeps_the_laws(name: str):
    report = await conform(MADE[name])
    assert report.cancellations > 350


LIMITS = {
    "one at a time": RateLimit(concurrency=1, max_wait=1000.0),
    "few a minute": RateLimit(requests_per_minute=30, burst=1, concurrency=3),
    "few tokens": RateLimit(tokens_per_minute=600, token_burst=600, max_wait=1000.0),
    "refusing": RateLimit(concurrency=2, mode="reject"),
}


@pytest.mark.parametrize("name", LIMITS)
async def test_a_limiter_gives_back_what_it_took(name: str):
    limiter = LIMITS[name]

    def taken(runtime: Runtime) -> float:
        return sum(key.in_flight + key.waiting for key in limiter.status(runtime))

    await conform(limiter, balance=taken)


async def test_coalesced_requests_that_are_meant_to_be_the_same_keep_the_laws():
    requests = [
        Request("conform-1", "Tell me about the rain.", temperature=0.0),
        EmbeddingRequest("conform-embed-1", ("rain",)),
    ]
    await conform(Coalesce, requests=requests, seed=1)


async def test_redaction_of_what_the_request_told_keeps_the_laws():
    request = Request("conform-1", "I am jane.doe@example.com, my card is 4111 1111 1111 1111. Write back!")
    await conform(Redact, requests=[request])


def test_every_built_in_middleware_is_held_to_the_laws():
    assert set(registry.BUILT_IN) <= set(MADE)
