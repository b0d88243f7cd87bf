"""Which model for a request."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, Unsupported
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.provider import Capabilities
from llmpipe.pricing import Price, PriceTable, Rates
from llmpipe.providers.mock import MockProvider
from llmpipe.routing.catalogue import FEATURES, ModelCard, card_of, catalogue
from llmpipe.routing.selector import ModelSelector, Needs, needs_of
from llmpipe.types import (
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    ReasoningOptions,
    Request,
    RerankRequest,
    ResponseFormat,
    Tool,
    ToolResult,
)

USD = 1_000_000_000  # nano-USD per million tokens in one USD per million


def card(model: str, usd: float | None = 1.0, **known: Any) -> ModelCard:
    price = None if usd is None else Price("p", model, Rates(input=int(usd * USD), output=int(usd * USD)))
    known.setdefault("context_tokens", 100_000)
    return ModelCard(provider="p", model=model, price=price, **known)


CHEAP = card("cheap", 1, context_tokens=8_000, latency=0.5, quality=1)
LONG = card("long", 2, context_tokens=1_000_000, latency=2.0, quality=2)
BEST = card("best", 10, latency=1.0, quality=9, tags=["eu"])
BLIND = card("blind", 0.5, capabilities=Capabilities(vision=False, tools=False), latency=0.1)
CARDS = (CHEAP, LONG, BEST, BLIND)


@pytest.mark.parametrize(
    ("needs", "rank", "order"),
    [
        (Needs(), "price", ["blind", "cheap", "long", "best"]),
        (Needs(), "latency", ["blind", "cheap", "best", "long"]),
        (Needs(), "quality", ["best", "long", "cheap", "blind"]),
        (Needs(), "context", ["long", "best", "blind", "cheap"]),
        (Needs(features=["vision"]), "price", ["cheap", "long", "best"]),
        (Needs(input_tokens=7_000, output_tokens=2_000), "price", ["blind", "long", "best"]),
        (Needs(context_tokens=200_000), "price", ["long"]),
        (Needs(tags=["eu"]), "price", ["best"]),
        (Needs(max_latency=1.0), "quality", ["best", "cheap", "blind"]),
        (Needs(min_quality=2), "price", ["long", "best"]),
        (
            Needs(input_tokens=1000, output_tokens=1000, max_cost_usd="0.004"),
            "quality",
            ["long", "cheap", "blind"],
        ),
        (Needs(), lambda card, needs: card.model, ["best", "blind", "cheap", "long"]),
    ],
)
def test_what_fits_is_ranked_and_the_first_selected(needs: Needs, rank: Any, order: list[str]):
    selector = ModelSelector(CARDS, rank)
    assert [one.model for one in selector.ranked(needs)] == order
    assert selector.select(needs).model == order[0]
    assert ModelSelector(CARDS).select(needs, rank=rank).model == order[0]


def test_a_second_rank_decides_among_equals_and_then_the_order_of_the_cards():
    slow, quick, same = card("slow", 1, latency=9), card("quick", 1, latency=1), card("same", 1, latency=1)
    selector = ModelSelector([slow, quick, same], ("price", "latency"))
    assert [one.model for one in selector.ranked(Needs())] == ["quick", "same", "slow"]


def test_what_is_not_known_is_never_enough_and_ranks_last():
    unknown = card("unknown", None, context_tokens=None)
    assert [one.model for one in ModelSelector([unknown, BEST], "price").ranked(Needs())] == [
        "best",
        "unknown",
    ]
    for needs, lacks in (
        (Needs(context_tokens=1), "context not known, 1 tokens needed"),
        (Needs(max_cost_usd=1), "price not known, 1 USD at most"),
        (Needs(max_latency=1), "latency not known, 1 s at most"),
        (Needs(min_quality=1), "quality not known, 1 needed"),
    ):
        assert needs.lacking(unknown) == [lacks]


def test_when_nothing_fits_it_is_said_of_each_model_what_it_lacks():
    selector = ModelSelector([CHEAP, BLIND])
    with pytest.raises(Unsupported) as nothing:
        selector.select(Needs(features=["vision", "audio"], context_tokens=9_000))
    assert nothing.value.message == (
        "no model fits: p/cheap: no audio, context 8000, 9000 tokens needed; p/blind: no audio, no vision"
    )
    assert nothing.value.metadata["excluded"][1] == {"model": "p/blind", "lacks": ["no audio", "no vision"]}
    assert (nothing.value.sent, selector.ranked(Needs(features=["audio"]))) == (False, ())


def test_a_long_list_of_what_does_not_fit_is_cut_in_the_message_only():
    selector = ModelSelector([card(f"m{at}") for at in range(30)])
    with pytest.raises(Unsupported, match="and 20 more") as nothing:
        selector.select(Needs(features=["audio"]))
    assert len(nothing.value.metadata["excluded"]) == 30


@pytest.mark.parametrize(
    ("request_", "features"),
    [
        (Request(messages="hi"), set()),
        (Request(messages="hi", stream=True), {"streaming"}),
        (Request(messages="hi", tools=[Tool("t")]), {"tools"}),
        (Request(messages="hi", tools=[Tool("t")], parallel_tool_calls=True), {"tools", "parallel_tools"}),
        (Request(messages=[Message("user", Image(url="u"))]), {"vision"}),
        (Request(messages=[Message("user", Document(url="https://x.example/a.pdf"))]), {"documents"}),
        (Request(messages=[Message("user", Document(text="x"))]), set()),  # any wire carries it as text
        (Request(messages=[Message("user", Audio("x"))]), {"audio"}),
        (Request(messages=[Message("tool", ToolResult("c", (Image(url="u"),)))]), {"tools", "vision"}),
        (Request(messages=[Message("user", "hi"), Message("assistant", "He")]), set()),
        (Request(messages="hi", reasoning=ReasoningOptions(effort="none")), set()),
        (Request(messages="hi", response_format=ResponseFormat("json")), {"json_mode"}),
        (Request(messages="hi", response_format=ResponseFormat("json_schema", {})), {"json_schema"}),
        (Request(messages="hi", response_format=ResponseFormat("text")), set()),
        (Request(messages="hi", reasoning=ReasoningOptions(effort="low")), {"reasoning"}),
        (Request(messages="hi", reasoning=ReasoningOptions(enabled=False)), set()),
        (EmbeddingRequest(inputs="x"), {"embeddings"}),
        (RerankRequest(query="q", documents=["d"]), {"rerank"}),
    ],
)
def test_what_a_request_shows_is_what_it_needs(request_: Any, features: set[str]):
    assert needs_of(request_).features == features
    assert features <= set(FEATURES)


def test_the_tokens_of_a_request_must_fit_prompt_and_answer_together():
    needs = needs_of(Request(messages="word " * 5000, max_tokens=3000))
    assert needs.output_tokens == 3000
    assert ModelSelector([CHEAP, LONG]).select(Request(messages="word " * 5000, max_tokens=3000)) is LONG
    assert needs.lacking(CHEAP) == [f"context 8000, {needs.input_tokens + 3000} tokens needed"]


def test_of_a_batch_of_inputs_each_stands_in_a_context_of_its_own():
    needs = needs_of(EmbeddingRequest(inputs=["word " * 1000] * 50))
    assert needs.input_tokens > 50 * 900
    embedder = evolve(CHEAP, capabilities=Capabilities(embeddings=True))
    assert needs.lacking(embedder) == []
    ranker = evolve(CHEAP, capabilities=Capabilities(rerank=True))
    assert needs_of(RerankRequest(query="q", documents=["word " * 1000] * 50)).lacking(ranker) == []


def test_needs_of_every_request_are_added_to_what_it_shows():
    selector = ModelSelector(CARDS, needs=Needs(tags=["eu"], features=["vision"], min_quality=5))
    assert selector.select(Request(messages="hi")) is BEST
    with pytest.raises(Unsupported, match="no audio"):
        selector.select(Request(messages=[Message("user", Audio("x"))]))


cards = st.lists(
    st.builds(
        card,
        st.text("abc", min_size=1, max_size=3),
        st.none() | st.floats(0.01, 100),
        context_tokens=st.none() | st.integers(1, 10**6),
        latency=st.none() | st.floats(0.1, 10),
        capabilities=st.builds(Capabilities, vision=st.booleans(), tools=st.booleans()),
    ),
    min_size=1,
    max_size=8,
)


@given(
    cards,
    st.builds(
        Needs,
        features=st.sets(st.sampled_from(["vision", "tools"])),
        context_tokens=st.none() | st.integers(1, 10**6),
        max_latency=st.none() | st.floats(0.1, 10),
        max_cost_usd=st.none() | st.floats(0.0001, 1),
    ),
)
def test_the_selected_fits_and_none_that_fits_is_cheaper(all_: list[ModelCard], needs: Needs):
    selector = ModelSelector(all_, "price")
    fitting = [one for one in all_ if not needs.lacking(one)]
    if not fitting:
        with pytest.raises(Unsupported):
            selector.select(needs)
        return
    chosen = selector.select(needs)
    cost = needs.cost_with(chosen)
    others = [needs.cost_with(one) for one in fitting]
    assert chosen in fitting
    assert all(other is None or (cost is not None and cost <= other) for other in others)


# -- where cards are from


def test_a_card_of_a_provider_has_its_abilities_and_the_tables_price_and_context():
    model = MockProvider(name="openai", model="gpt-4o-mini")
    made = card_of(model, latency=0.4, tags=["mini"])
    assert (made.label, made.capabilities, made.target) == ("openai/gpt-4o-mini", model.capabilities, model)
    assert made.context_tokens == 128_000
    assert made.price is not None
    assert made.latency == 0.4
    assert made.tags == {"mini"}
    assert card_of(Chain(model)).capabilities == model.capabilities
    assert card_of(MockProvider()).price is None


def test_a_card_says_what_its_model_can_where_models_differ():
    class Choosy(MockProvider):
        def capabilities_of(self, model: str) -> Capabilities:
            return Capabilities(prefill=model == "old")

    assert card_of(Chain(Choosy([], model="old"))).capabilities.prefill
    assert not card_of(Choosy([], model="old"), model="new").capabilities.prefill
    of = {card.model: card.capabilities for card in catalogue(["anthropic"])}
    assert of["claude-haiku-4-5"].prefill
    assert not of["claude-opus-4-6"].prefill


def test_a_card_that_says_its_own_goes_before_the_table():
    table = PriceTable({"mock-1": {"input": "2", "output": "4"}})
    made = card_of(MockProvider(), table=table, context_tokens=5, quality=3)
    assert (made.context_tokens, made.quality, made.price.rates.input) == (5, 3, 2 * USD)
    assert Needs(input_tokens=500_000, output_tokens=250_000).cost_with(made) == Decimal(2)


def test_the_catalogue_lists_the_models_of_the_price_table():
    listed = {one.model: one for one in catalogue(["anthropic"])}
    haiku = next(one for name, one in listed.items() if name.startswith("claude-haiku-4-5"))
    assert (haiku.provider, haiku.context_tokens) == ("anthropic", 200_000)
    assert haiku.price.rates.input == USD
    assert {one.provider for one in catalogue()} >= {"anthropic", "openai"}
    with pytest.raises(ConfigError, match="no provider 'nobody'"):
        [*catalogue(["nobody"])]


def test_the_cheapest_model_with_a_long_context_is_found_in_the_catalogue():
    chosen = ModelSelector(catalogue(["openai", "anthropic"])).select(Needs(context_tokens=500_000))
    assert (chosen.context_tokens or 0) >= 500_000


# -- in a chain


async def test_a_request_without_a_model_goes_to_the_target_of_the_card():
    small, big = (
        MockProvider(default="small", name="s", model="s-1"),
        MockProvider(default="big", name="b", model="b-1"),
    )
    own = MockProvider(default="own")
    selector = ModelSelector([card("s-1", 1, context_tokens=2000, target=small), card("b-1", 2, target=big)])
    it = Chain(own, selector)
    assert (await it.complete("hi")).text == "small"
    assert (await it.complete("word " * 3000)).text == "big"
    assert (await it.complete("hi", model="mine")).text == "own"
    async with it.stream("hi") as reply:
        assert (await reply.full()).text == "small"
    assert [request.model for request in (*small.requests, *big.requests)] == ["s-1", "s-1", "b-1"]


@pytest.mark.parametrize("nested", [False, True])
async def test_the_model_that_is_selected_is_asked_whatever_the_targets_own_is(nested: bool):
    provider = MockProvider(default="ok", name="a", model="small")
    target = Chain(provider) if nested else provider
    card = ModelCard(provider="a", model="big", target=target, context_tokens=10_000)
    chain = Chain(MockProvider(default="no", name="own"), ModelSelector([card]))
    await chain.complete("hi")
    assert [request.model for request in provider.requests] == ["big"]


async def test_a_card_without_a_target_is_asked_of_the_chains_own():
    own = MockProvider(default="own")
    await Chain(own, ModelSelector([card("m-7")])).complete("hi")
    assert own.requests[0].model == "m-7"


async def test_closing_closes_each_target_once():
    closed = []

    class Closing(MockProvider):
        async def aclose(self) -> None:
            closed.append(self.name)

    one = Closing(name="one")
    await ModelSelector([card("a", target=one), card("b", target=one), card("c")]).aclose()
    assert closed == ["one"]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ModelSelector([]), "needs cards"),
        (lambda: ModelSelector([MockProvider()]), "card 1 is a MockProvider; expected a ModelCard"),
        (lambda: ModelSelector(CARDS, "prize"), "no rank 'prize'; it takes price, latency, quality, context"),
        (lambda: Needs(features=["visoin"]), "no capability 'visoin'; .*did you mean 'vision'"),
        (lambda: card(""), "names no model"),
        (lambda: card("m", latency=0), "p/m: latency is 0"),
        (lambda: card_of("gpt"), "a str is no provider"),
        (lambda: card_of(MockProvider), "the class MockProvider is no provider"),
    ],
)
def test_what_is_wrong_is_refused(make: Any, match: str):
    with pytest.raises(ConfigError, match=match):
        make()
