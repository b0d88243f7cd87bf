"""The standard middlewares, and what can be put in their places."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llmpipe.config import presets
from llmpipe.errors import ConfigError, InvalidRequest, Overloaded
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.hooks import Hooks
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider
from llmpipe.types import Message, Request, Usage


def names(*middleware: Any) -> list[str]:
    return [item.name for item in Chain(MockProvider(), *middleware).middleware]


def test_the_standard_middlewares_in_their_order():
    assert [item.name for item in presets.production()] == list(presets.STANDARD)
    assert names(*presets.production()) == [
        "metrics",
        "log",
        "timeout.total",
        "validate",
        "redact",
        "cache",
        "cost",
        "retry",
        "breaker",
        "timeout",
    ]


def test_each_call_makes_its_own():
    assert presets.production() == presets.production()
    assert presets.production()[0] is not presets.production()[0]


@pytest.mark.parametrize("name", presets.STANDARD)
def test_each_can_be_left_out_and_replaced(name: str):
    left = names(*presets.production(**{name: None}))
    assert not [kept for kept in left if kept.split(".")[0] == name]

    @layer(priority=450, name=name)
    async def own(call, call_next):
        return await call_next(call)

    replaced: dict[str, Any] = {name: own}
    assert own in presets.production(**replaced)
    assert names(*presets.production(**replaced)).count(name) == 1


def test_what_needs_telling_joins_when_it_is_told():
    claude = MockProvider(name="claude")
    made = presets.production(
        rate_limit=RateLimit(requests_per_minute=60),
        coalesce=Coalesce(),
        fallback=Fallback(claude),
        hooks=Hooks(),
    )
    order = names(*made)
    assert order.index("cache") < order.index("coalesce") < order.index("fallback") < order.index("retry")
    assert order.index("retry") < order.index("rate_limit") < order.index("breaker")
    assert names(*presets.production(rate_limit=None)) == names(*presets.production())


def test_a_wrong_name_is_told_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"no middleware 'retries'; it takes .*; did you mean 'retry'\?"):
        presets.production(retries=Retry())
    with pytest.raises(ConfigError, match="no middleware 'xyz'; it takes metrics, log"):
        presets.production(xyz=None)


@pytest.mark.parametrize("given", [Retry, 3, {"attempts": 2}, "retry"])
def test_a_value_that_is_no_middleware_is_told(given: Any):
    with pytest.raises(ConfigError, match=r"production\(retry=…\) takes a middleware, or None"):
        presets.production(retry=given)


def test_there_is_nothing_dangerous_in_it():
    assert Chain(MockProvider(), *presets.production()).lint() == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_production_chain_does_all_of_it_together(stream: bool):
    usage = Usage(1000, 100)
    provider = MockProvider(
        [Overloaded("busy"), "Hello"], default="?", name="openai", model="gpt-4o-mini", usage=usage
    )
    chain = Chain(provider, *presets.production())

    async def ask(prompt: str) -> Any:
        if not stream:
            return await chain.complete(prompt, tenant="acme")
        async with chain.stream(prompt, tenant="acme") as reply:
            return await reply.full()

    done, again = await ask("Say hello"), await ask("Say hello")
    assert len(provider.requests) == 2  # one that failed, one that was answered, and then the cache
    assert done.text == again.text == "Hello"
    assert done.cost > 0
    assert again.cost == 0
    metrics = chain.middleware[0]
    assert isinstance(metrics, Metrics)
    figures = {name: family["values"] for name, family in metrics.snapshot(chain.runtime).items()}
    assert sum(child["value"] for child in figures["requests.total"]) == 2
    assert sum(child["value"] for child in figures["attempts.total"]) == 2
    assert figures["cache.hits"] == [{"labels": {"kind": "fresh"}, "value": 1}]
    assert figures["cost.saved"][0]["value"] == pytest.approx(float(done.cost))
    assert Cost.totals(chain.runtime).by_tenant["acme"].usd == done.cost
    assert isinstance(done.cost, Decimal)
    with pytest.raises(InvalidRequest):
        await chain.complete([Message("user", "")])
    await ask("I am jane@example.org")
    asked = provider.requests[-1]
    assert isinstance(asked, Request)
    assert "jane@example.org" not in asked.messages[0].text
    assert provider.open == 0


async def test_it_serves_embeddings_too():
    chain = Chain(MockProvider(["x"]), *presets.production())
    assert (await chain.embed(["one", "two"])).vectors
