"""Which model for a request: those that can do it, in order of price, latency, quality or context.

First every card is held against the needs, then those that are left are ranked. What is not known of a
model is not taken for enough: a price that is not known does not fit a limit, and ranks last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from math import inf
from typing import Any, ClassVar

from attrs import evolve, field, frozen

from llmpipe.errors import ConfigError, Unsupported
from llmpipe.pipeline import bands
from llmpipe.pipeline.asked import asked_of
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.checks import called, nearest
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.pricing import cost_of
from llmpipe.routing.catalogue import FEATURES, ModelCard, words
from llmpipe.tokens import estimate_request
from llmpipe.types import (
    AnyRequest,
    EmbeddingRequest,
    Request,
    Usage,
)

__all__ = ("ModelSelector", "Needs", "RANKS", "Rank", "needs_of")

_USUAL_OUTPUT = 1024  # tokens, of a request that does not bound its output
_NOMINAL = Usage(750, 250)  # to compare prices by, where nobody says how many tokens it is about


@frozen(kw_only=True)
class Needs:
    """What a model must be able to do. What is left out is not asked for.

    Attributes:
        features: names of capabilities, such as ``tools`` or ``vision``.
        input_tokens, output_tokens: of the call, for its price.
        context_tokens: what must fit the context; by default input and output together.
        max_cost_usd: for a call of so many tokens.
        max_latency: seconds to the first token.
        min_quality: on the scale of your cards.
        tags: words that must stand on the card.
    """

    features: frozenset[str] = field(default=frozenset(), converter=words)
    input_tokens: int = 0
    output_tokens: int = 0
    context_tokens: int | None = None
    max_cost_usd: Decimal | float | None = None
    max_latency: float | None = None
    min_quality: float | None = None
    tags: frozenset[str] = field(default=frozenset(), converter=words)

    def __attrs_post_init__(self) -> None:
        for name in sorted(self.features):
            if name not in FEATURES:
                raise ConfigError(
                    f"no capability {name!r}; there are: {', '.join(FEATURES)}{nearest(name, FEATURES)}"
                )

    def lacking(self, card: ModelCard) -> list[str]:
        """Each need that `card` does not meet, and what it has instead; empty where it meets them all."""
        found = [f"no {name}" for name in sorted(self.features) if not getattr(card.capabilities, name)]
        found += [f"no tag {tag!r}" for tag in sorted(self.tags - card.tags)]
        tokens = (
            self.input_tokens + self.output_tokens if self.context_tokens is None else self.context_tokens
        )
        if tokens and (card.context_tokens is None or card.context_tokens < tokens):
            found.append(f"context {_told(card.context_tokens)}, {tokens} tokens needed")
        if self.max_cost_usd is not None:
            cost = self.cost_with(card)
            if cost is None or cost > Decimal(str(self.max_cost_usd)):
                told = "not known" if cost is None else f"{cost:f} USD"
                found.append(f"price {told}, {self.max_cost_usd} USD at most")
        if self.max_latency is not None and (card.latency is None or card.latency > self.max_latency):
            found.append(f"latency {_told(card.latency)}, {self.max_latency:g} s at most")
        if self.min_quality is not None and (card.quality is None or card.quality < self.min_quality):
            found.append(f"quality {_told(card.quality)}, {self.min_quality:g} needed")
        return found

    def cost_with(self, card: ModelCard) -> Decimal | None:
        """USD of the call with that model; None where its price is not known.

        Where no tokens are named it is for 750 in and 250 out, to compare by.
        """
        named = self.input_tokens or self.output_tokens
        cost = cost_of(Usage(self.input_tokens, self.output_tokens) if named else _NOMINAL, card.price)
        return None if cost is None else cost.usd


def needs_of(request: AnyRequest, **more: Any) -> Needs:
    """What `request` asks of a model. Keywords: fields of `Needs`; features and tags are added to."""
    features = {*_features(request), *more.pop("features", ())}
    output, context = 0, None
    if isinstance(request, Request):
        output = _USUAL_OUTPUT if request.max_tokens is None else request.max_tokens
    elif isinstance(request, EmbeddingRequest):  # each input stands in a context of its own
        context = max((estimate_request(evolve(request, inputs=(one,))) for one in request.inputs), default=0)
    else:
        context = max(
            (estimate_request(evolve(request, documents=(one,))) for one in request.documents), default=0
        )
    told = {"input_tokens": estimate_request(request), "output_tokens": output, "context_tokens": context}
    return Needs(features=features, **{**told, **more})


def _features(request: AnyRequest) -> set[str]:
    found = {*asked_of(request)} - {"prefill"}  # which most models answer well enough without
    if isinstance(request, Request) and request.tools and request.parallel_tool_calls:
        found.add("parallel_tools")
    return found


Rank = Callable[[ModelCard, Needs], Any]
"""What to sort by, least first."""

RANKS: Mapping[str, Rank] = {
    "price": lambda card, needs: _or_last(needs.cost_with(card)),
    "latency": lambda card, needs: _or_last(card.latency),
    "quality": lambda card, needs: _or_last(None if card.quality is None else -card.quality),
    "context": lambda card, needs: _or_last(None if card.context_tokens is None else -card.context_tokens),
}
"""Cheapest, quickest, best, and longest context first; what is not known comes last."""


def _cards(value: Iterable[Any]) -> tuple[ModelCard, ...]:
    cards = tuple(value)
    for place, card in enumerate(cards):
        if not isinstance(card, ModelCard):
            raise ConfigError(f"card {place + 1} is {called(card)}; expected a ModelCard, see card_of")
    if not cards:
        raise ConfigError("a selector needs cards to select from")
    return cards


def _ranks(value: Any) -> tuple[str | Rank, ...]:
    ranks = (value,) if isinstance(value, str) or callable(value) else tuple(value)
    for rank in ranks:
        if not callable(rank) and rank not in RANKS:
            raise ConfigError(
                f"no rank {rank!r}; it takes {', '.join(RANKS)} or a function of card and needs"
            )
    return ranks


@frozen
class ModelSelector:
    """Selects among `cards` the model for a request, or for needs: ``ModelSelector(cards).select(request)``.

    It is a middleware too: a request that names no model goes to the target of the card that is selected,
    or, where the card has none, to the chain's own target with that model.

    Attributes:
        cards: see `llmpipe.routing.catalogue`.
        rank: ``price``, ``latency``, ``quality``, ``context``, a function, or several of them: the second
            decides among those the first finds equal. Cards that are equal in all stay in their order.
        needs: what every request needs besides what it shows; its tokens are not looked at.

    Raises: Unsupported where no model fits, with what each lacks in the message and in ``metadata``.
    """

    cards: tuple[ModelCard, ...] = field(converter=_cards)
    rank: tuple[str | Rank, ...] = field(default=("price", "latency"), converter=_ranks)
    needs: Needs = field(factory=Needs, kw_only=True)
    name: str = field(default="model_selector", kw_only=True)
    priority: int = field(default=bands.ROUTE - 10, kw_only=True)

    why: ClassVar[str] = "outside fallback, so that the model it selects is the first that is asked"
    traits: ClassVar[frozenset[str]] = frozenset({"routes"})

    @property
    def targets(self) -> tuple[Any, ...]:
        """Whom it may send calls to; each once."""
        return tuple(
            {id(card.target): card.target for card in self.cards if card.target is not None}.values()
        )

    def select(self, wanted: AnyRequest | Needs, *, rank: Any = None) -> ModelCard:
        """The best card for `wanted`. Raises: Unsupported that says of each model what it lacks."""
        needs = self._needed(wanted)
        ranks = self.rank if rank is None else _ranks(rank)
        fitting = [card for card in self.cards if not needs.lacking(card)]
        if not fitting:
            raise self._nothing(needs)
        return min(fitting, key=lambda card: _place(card, needs, ranks))

    def ranked(self, wanted: AnyRequest | Needs, *, rank: Any = None) -> tuple[ModelCard, ...]:
        """All cards that fit, the best first; empty where none does."""
        needs = self._needed(wanted)
        ranks = self.rank if rank is None else _ranks(rank)
        fitting = [card for card in self.cards if not needs.lacking(card)]
        return tuple(sorted(fitting, key=lambda card: _place(card, needs, ranks)))

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply of the model that is selected; of the one that the request names, where it does."""
        if call.request.model:
            return await call_next(call)
        cfg = call.opt(self)
        card = cfg.select(call.request)
        request = evolve(call.request, model=card.model)
        target = card.target
        if isinstance(target, Chain):
            return await target(call.evolve(target=None, provider=target.provider, request=request))
        if target is None:
            return await call_next(call.evolve(request=request))
        return await call_next(call.evolve(target=target, request=request))

    def _needed(self, wanted: AnyRequest | Needs) -> Needs:
        if isinstance(wanted, Needs):
            return wanted
        always = self.needs
        return needs_of(
            wanted,
            features=always.features,
            tags=always.tags,
            max_cost_usd=always.max_cost_usd,
            max_latency=always.max_latency,
            min_quality=always.min_quality,
        )

    def _nothing(self, needs: Needs) -> Unsupported:
        lacks = {card.label: needs.lacking(card) for card in self.cards}
        named = "; ".join(f"{label}: {', '.join(what)}" for label, what in [*lacks.items()][:10])
        more = f"; and {len(lacks) - 10} more" if len(lacks) > 10 else ""
        return Unsupported(
            f"no model fits: {named}{more}",
            sent=False,
            health="ignore",
            phase="validate",
            metadata={"excluded": [{"model": label, "lacks": what} for label, what in lacks.items()]},
        )

    async def aclose(self) -> None:
        """Close the targets."""
        async with AsyncExitStack() as stack:  # one that fails to close keeps no other from closing
            for target in self.targets:
                stack.push_async_callback(target.aclose)


def _place(card: ModelCard, needs: Needs, ranks: Iterable[str | Rank]) -> tuple[Any, ...]:
    return tuple((RANKS[rank] if isinstance(rank, str) else rank)(card, needs) for rank in ranks)


def _or_last(value: Any) -> Any:
    return inf if value is None else value


def _told(value: float | None) -> str:
    return "not known" if value is None else str(value)
