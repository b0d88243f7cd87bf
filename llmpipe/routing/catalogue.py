"""What is known of models: a card each, from providers at hand or from the price table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from attrs import evolve, field, fields, frozen

from llmpipe.errors import ConfigError
from llmpipe.pipeline.checks import called
from llmpipe.pipeline.provider import Capabilities, capabilities_of
from llmpipe.pricing import Price, PriceTable, prices
from llmpipe.providers.profiles import PROFILES

__all__ = ("FEATURES", "ModelCard", "card_of", "catalogue", "words")

FEATURES = tuple(a.name for a in fields(Capabilities) if a.name != "context_tokens")
"""What a model can or cannot do; see `llmpipe.pipeline.provider.Capabilities`."""


def words(value: Iterable[str]) -> frozenset[str]:
    """`value` as a set of words; a single one may stand alone."""
    return frozenset((value,) if isinstance(value, str) else value)


@frozen(kw_only=True)
class ModelCard:
    """What is known of one model at one provider. None is not known, and never taken for enough.

    Attributes:
        capabilities: what it can do.
        context_tokens: prompt and output together.
        price: what it costs.
        latency: seconds to the first token, as you measure or expect it.
        quality: how good it is, on a scale of your own: higher is better.
        tags: words of your own, such as ``eu`` or ``fast``.
        target: the provider or chain to ask, where the card is of one.
    """

    provider: str
    model: str
    capabilities: Capabilities = field(factory=Capabilities)
    context_tokens: int | None = None
    price: Price | None = None
    latency: float | None = None
    quality: float | None = None
    tags: frozenset[str] = field(default=frozenset(), converter=words)
    target: Any = field(default=None, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        if not self.model:
            raise ConfigError(f"a card of provider {self.provider!r} names no model")
        for name in ("context_tokens", "latency"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{self.label}: {name} is {value!r}; it must be more than 0, or None")

    @property
    def label(self) -> str:
        """Provider and model."""
        return f"{self.provider}/{self.model}" if self.provider else self.model


def card_of(target: Any, *, table: PriceTable | None = None, **known: Any) -> ModelCard:
    """The card of a provider or chain, for the model that it answers with.

    What it can do is what it says; its price is the table's, and so is its context, where it does not know.
    Keywords: any field of `ModelCard`, which go before.
    """
    core = target
    while not hasattr(core, "capabilities") and hasattr(core, "provider"):  # a chain
        core = core.provider
    if isinstance(target, type) or not all(hasattr(target, part) for part in ("name", "model")):
        raise ConfigError(f"{called(target)} is no provider or chain")
    model = known.pop("model", "") or target.model
    capabilities = capabilities_of(core, model) or Capabilities()
    price = (table or prices()).find(target.name, target.model)
    context = capabilities.context_tokens or (price.context_window if price is not None else None)
    card = ModelCard(
        provider=target.name,
        model=model,
        capabilities=capabilities,
        context_tokens=context,
        price=price,
        target=target,
    )
    return evolve(card, **known) if known else card


def catalogue(providers: Iterable[str] = (), *, table: PriceTable | None = None) -> Iterator[ModelCard]:
    """A card for every model in the price table that these providers have; all known ones by default.

    The table knows price and context, not abilities: those are what the provider can do with the right
    model. Raises: ConfigError for a provider that has no profile.
    """
    table = table or prices()
    chosen = tuple(providers) or tuple(PROFILES)
    if unknown := [name for name in chosen if name not in PROFILES]:
        raise ConfigError(f"no provider {unknown[0]!r}; there are: {', '.join(sorted(PROFILES))}")
    by_prices: dict[str, list[str]] = {}
    for name in chosen:
        if key := PROFILES[name].prices:
            by_prices.setdefault(key, []).append(name)
    for listed, model in table.models():
        for name in by_prices.get(listed, ()):
            price = table.find(listed, model)
            if price is not None:
                yield ModelCard(
                    provider=name,
                    model=model,
                    capabilities=PROFILES[name].capabilities_of(model),
                    context_tokens=price.context_window,
                    price=price,
                )
