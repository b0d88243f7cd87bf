"""Typical slips: each is one error that says what is wrong and what would be right."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import field, frozen

from llmpipe.config import presets
from llmpipe.errors import ConfigError
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.hooks import Hooks
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.linker import Handler
from llmpipe.providers.mock import MockProvider
from tests.pipeline.kit import chain

bare: Any = layer


# ------------------------------------------------------------ middlewares


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (presets.production(), r"^a tuple is no middleware; unpack it: .*\*presets\.production\(\)\)$"),
        ([Retry()], "^a list is no middleware; unpack it"),
        ((m for m in ()), "^a generator is no middleware; unpack it"),
        (
            presets.production,
            r"the function production is no .*unpack what it gives: \*presets\.production\(\)$",
        ),
        (
            lambda call, call_next: None,
            r"has no name; .* decorate a function with @layer\(priority=\.\.\.\)$",
        ),
        (print, "middleware print has no name"),
        (MockProvider(), r"^a MockProvider is something to send calls to.*Fallback\(other\)$"),
        (Chain(MockProvider()), "^a Chain is something to send calls to"),
        (Timeout, r"Timeout is a class; make one of it: Timeout\(\.\.\.\)"),
        ("retry", "'retry' is no middleware: it cannot be called"),
    ],
)
def test_what_is_no_middleware_is_refused_with_where_it_belongs(item: Any, says: str):
    with pytest.raises(ConfigError, match=says):
        Chain(MockProvider(), item)
    c = Chain(MockProvider())
    with pytest.raises(ConfigError, match=says):
        c.use(item)
    assert c.middleware == ()


def test_a_layer_without_its_priority_says_so_where_it_stands():
    for slip in (lambda: bare(print), lambda: bare(700), bare, lambda: bare(name="x")):
        with pytest.raises(TypeError, match=r"@layer\(priority=\.\.\.\)"):
            slip()


# ------------------------------------------------------------ what a call is told


@frozen(kw_only=True)
class Router:
    other: Any
    name: str = "router"
    priority: int = 100
    _secret: int = field(init=False, default=0)

    async def __call__(self, call: Call, call_next: Handler) -> Any:
        return await call_next(call.evolve(target=self.other))


class Plain:
    """A middleware that reads its options by itself."""

    name, priority = "plain", 200

    async def __call__(self, call: Call, call_next: Handler) -> Any:
        return await call_next(call)


class Two:
    """Stands for a ring of another class, which asks for the options of this one."""

    def rings(self) -> Any:
        return (Plain(),)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"temprature": 1}, r"unknown keyword 'temprature'; .*; did you mean 'temperature'\?$"),
        ({"tennant": "a"}, r"did you mean 'tenant'\?$"),
        ({"options": {Retry: {"attempt": 3}}}, r"Retry has no setting 'attempt'; did you mean 'attempts'\?$"),
        ({"options": {Retry: {"zzz": 3}}}, "Retry has no setting 'zzz'; it has attempts, base"),
        ({"options": {Router: {"_secret": 3}}}, "Router has no setting '_secret'"),
        ({"options": {Retry: 3}}, r"options of Retry are a int; expected \{Retry: \{\.\.\.\}\}$"),
        (
            {"options": {Fallback: {}}},
            "options are for Fallback, and the chain has no .*; it has Plain, Retry",
        ),
        ({"options": {type("Retri", (), {}): {}}}, r"no middleware of that class; did you mean 'Retry'\?$"),
    ],
)
async def test_what_a_call_is_told_wrongly_is_refused_and_nothing_is_sent(told: Any, says: str):
    provider = MockProvider(default="hi")
    c = chain(provider, Retry(), Router(other=provider), Plain())
    with pytest.raises(ConfigError, match=says):
        await c.complete("x", **told)
    with pytest.raises(ConfigError, match=says):
        c.stream("x", **told)
    assert provider.requests == []


async def test_a_wrong_keyword_of_embed_is_refused_like_one_of_complete():
    with pytest.raises(ConfigError, match=r"'dimension'.*did you mean 'dimensions'\?$"):
        await chain(MockProvider()).embed("x", dimension=3)


async def test_options_are_keyed_by_what_was_given_and_not_by_the_rings_it_stands_for():
    async def late(_: Any, call: Call) -> None:
        """Makes the hooks a ring of another class."""

    c = chain(MockProvider(default="hi"), Timeout(), Hooks(on_response=late), Two())
    told = {Timeout: {"total": 5}, Hooks: {"on_chunk": None}, Two: {"anything": 1}}
    assert (await c.complete("x", options=told)).text == "hi"
    less = c.use(Retry()).without("timeout", "timeout.total")
    assert (await less.complete("x", options={Hooks: {"on_chunk": None}})).text == "hi"
    with pytest.raises(ConfigError, match="options are for Timeout"):
        await less.complete("x", options={Timeout: {"total": 5}})


async def test_options_may_be_for_a_middleware_of_any_chain_that_this_one_leads_to():
    inner = Chain(MockProvider(default="hi"), Retry())
    once = {Retry: {"attempts": 1}}
    for outer in (
        Chain(inner),
        Chain(Chain(inner)),
        Chain(MockProvider(default="hi"), Fallback(inner)),
        Chain(MockProvider(default="hi"), Router(other=inner)),
    ):
        assert (await outer.complete("x", options=once)).text == "hi"
    circle = Router(other=[])
    there = Chain(MockProvider(default="hi"), circle)
    circle.other.append(there)
    with pytest.raises(ConfigError, match="options are for Retry"):
        await there.complete("x", options=once)


async def test_a_stream_that_is_not_entered_says_how_it_is():
    streaming: Any = chain(MockProvider(default="hi")).stream("x")
    right = r"async with chain\.stream\(\.\.\.\) as reply"
    with pytest.raises(TypeError, match=right):
        await streaming
    with pytest.raises(TypeError, match=right):
        async for _ in streaming:
            pytest.fail("it gave something")
    async with streaming as reply:
        assert (await reply.full()).text == "hi"
