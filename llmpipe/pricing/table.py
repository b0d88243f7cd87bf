"""What models cost, from a dated data file in the package, with overrides.

The file is made by ``python -m llmpipe.pricing.refresh`` from genai-prices, a maintained public
price table (MIT). Its rules say which spellings of a name mean which model, so that
``gpt-4o-2024-08-06``, ``openai/gpt-4o`` and ``claude-haiku-4-5-20251001`` are found.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from pkgutil import get_data
from typing import Any, cast

import orjson
from attrs import astuple, evolve, fields, frozen

from llmpipe.errors import ConfigError

__all__ = ("Price", "PriceTable", "Rates", "prices")

_NANO_PER_MILLION = 1_000_000_000
"""Nano-USD per million tokens in one USD per million tokens."""

# Our names of providers, and others in use, where the table's differ.
_ALIASES = {
    "amazon": "aws",
    "amazon-bedrock": "aws",
    "bedrock": "aws",
    "azure-ai": "azure",
    "azure-openai": "azure",
    "gemini": "google",
    "google-gla": "google",
    "google-vertex": "google",
    "vertex": "google",
    "vertexai": "google",
    "vertex-ai": "google",
    "grok": "x-ai",
    "xai": "x-ai",
    "moonshot": "moonshotai",
    "mistralai": "mistral",
    "voyage": "voyageai",
    "zhipu": "zhipuai",
    "together-ai": "together",
    "fireworks-ai": "fireworks",
}
# What runs on somebody's own machine has no price per token.
_SELF_HOSTED = frozenset(
    ("gpustack", "llama-cpp", "llamacpp", "lm-studio", "lmstudio", "local", "ollama", "sglang", "tgi", "vllm")
)
_DATED = re.compile(r"(?:[-@:]20[0-9]{2}-?[01][0-9]-?[0-3][0-9]|[-@]latest|@default)\Z")
_MAX_REMEMBERED = 4096  # names come from callers; a cache of them must have an end
_LONGEST_NAME = 512  # characters; the packaged table's have 61 at the most
_DEAREST = 10**6  # USD per million tokens or requests; the packaged table's ask 14,000 at the most


@frozen
class Rates:
    """Nano-USD per million tokens. None: not known, or not sold.

    `cache_write_1h` is for prompts kept for an hour (Anthropic), `cache_write` for the usual time.
    `request` is per million requests, for providers that charge for each one (Perplexity).
    """

    input: int | None = None
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    request: int = 0


_RATES = tuple(a.name for a in fields(Rates))


@frozen
class Price:
    """What a model costs at one provider, at one time.

    `above` has other rates for long prompts: (tokens, rates), ascending. A prompt of more input
    tokens than that pays them for all its tokens, output too, as providers bill it.
    """

    provider: str
    model: str
    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    context_window: int | None = None

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates of a prompt of that size."""
        found = self.rates
        for start, rates in self.above:
            if input_tokens > start:
                found = rates
        return found


class PriceTable:
    """Prices by provider and model. The packaged file is read at the first look-up.

    Args:
        overrides: prices that go before the file's. Keys: ``"provider/model"`` or ``"model"``, with
            a ``*`` at the end for all that begin so. Values: a `Price`, or USD per million tokens:
            ``{"input": "0.15", "output": 0.6, "cached_input": "0.075", "cache_write": …}``. What is said of a
            model holds for its dated names too, where the file has no price of their own for them.
        data: a file of the same form instead of the packaged one.

    Raises: ConfigError for an override that is no price, and for a file that holds none.
    """

    def __init__(
        self, overrides: Mapping[str, Price | Mapping[str, Any]] | None = None, *, data: bytes | None = None
    ) -> None:
        if not isinstance(overrides or {}, Mapping):
            raise ConfigError(f"prices are a {type(overrides).__name__}; expected a mapping by model")
        self._overrides = {
            str(key).lower(): _override(str(key), value) for key, value in (overrides or {}).items()
        }
        self._loaded = None if data is None else _parsed(data)
        self._found: dict[tuple[tuple[str, str], str], _Listing | None] = {}

    def find(
        self, provider: str, model: str, *, tier: str = "", at: float | None = None, sold_as: str = ""
    ) -> Price | None:
        """The price of `model` at `provider`, or None where it is not known. Unknown is never zero.

        A provider name the table does not have is taken for a label: the price of the model's maker
        applies. What runs on one's own machine (``ollama``, ``vllm``, ``local``, …) has none.

        Args:
            tier: ``"batch"``, ``"flex"`` or ``"priority"``; where no price is listed for it, the
                standard one applies.
            at: the time it is for, seconds since the epoch; now by default.
            sold_as: the name that the table knows it by, where `provider` is what somebody calls his own.
        """
        place = (provider, sold_as)
        try:
            listing = self._found[place, model]
        except KeyError:
            if len(model) > _LONGEST_NAME:
                return None
            if len(self._found) >= _MAX_REMEMBERED:
                self._found.clear()
            listing = self._search(provider.lower(), sold_as.lower(), model.lower())
            self._found[place, model] = listing
        return None if listing is None else listing.price(tier, at)

    @property
    def source(self) -> Mapping[str, Any]:
        """Where the file's prices are from: name, version, date, licence."""
        return cast("Mapping[str, Any]", self._load()["source"])

    def models(self) -> Iterator[tuple[str, str]]:
        """All (provider, model) the file has a price for."""
        for provider, entry in self._load()["providers"].items():
            for model in entry["models"]:
                yield provider, model["id"]

    # ------------------------------------------------------------ searching

    def _load(self) -> dict[str, Any]:
        if self._loaded is None:
            data = get_data("llmpipe.pricing", "data/prices.json")
            assert data is not None
            self._loaded = _parsed(data)
        return self._loaded

    def _search(self, provider: str, sold_as: str, model: str) -> _Listing | None:
        override = self._override_for(provider, sold_as, model)
        if override is not None:
            return _Listing(((None, override),), {})
        seller = _ALIASES.get(sold_as.replace("_", "-"), sold_as)
        if provider in _SELF_HOSTED or seller in _SELF_HOSTED or not model:
            return None
        providers = self._load()["providers"]
        label, provider = provider, _ALIASES.get(provider.replace("_", "-"), provider)
        if seller in providers:  # whatever it is called here, that is who sends the bill
            provider = seller
        for name in _spellings(model):
            for place, spelled in _places(providers, provider, name):
                entry = _in_provider(providers[place], spelled)
                if entry is not None:
                    # One's own price of a model holds for the dated names that it answers by.
                    override = self._override_for(label, sold_as, entry["id"].lower())
                    if override is not None:
                        return _Listing(((None, override),), {})
                    return _listing(provider if provider in providers else place, entry)
        return None

    def _override_for(self, provider: str, sold_as: str, model: str) -> Price | None:
        overrides = self._overrides
        if not overrides:
            return None
        names = [f"{provider}/{model}", model]
        if sold_as not in ("", provider):
            names.insert(1, f"{sold_as}/{model}")
        for key in names:
            if key in overrides:
                return overrides[key]
        for key in sorted((k for k in overrides if k.endswith("*")), key=len, reverse=True):
            if any(name.startswith(key[:-1]) for name in names):
                return overrides[key]
        return None


@cache
def prices() -> PriceTable:
    """The packaged table, without overrides; one for the process."""
    return PriceTable()


def _spellings(model: str) -> Iterator[str]:
    """The name, then without a path (``models/…``, ``publishers/google/models/…``), then without a date."""
    yield model
    bare = model
    if "models/" in model:
        bare = model.rpartition("models/")[2]
        yield bare
    undated = _DATED.sub("", bare)
    if undated != bare:
        yield undated


def _places(providers: Mapping[str, Any], provider: str, name: str) -> Iterator[tuple[str, str]]:
    """Where to look for `name`, and as what: at the provider; at the maker whose prices it passes on."""
    if provider in providers:
        for place in (provider, *providers[provider].get("also", ())):
            yield place, name
        if provider != "openrouter":
            return
    maker, slash, rest = name.partition("/")
    maker = _ALIASES.get(maker, maker)
    if slash and maker in providers:
        yield maker, rest
    if provider not in providers:
        for place, entry in providers.items():
            if "match" in entry and _matches(entry["match"], name):
                yield place, name


def _in_provider(provider: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    models = provider["models"]
    for model in models:
        if model["id"].lower() == name:
            return cast("Mapping[str, Any]", model)
    for model in models:
        if _matches(model.get("match", ()), name):
            return cast("Mapping[str, Any]", model)
    return None


def _matches(rules: Any, name: str) -> bool:
    """Whether any of `rules` holds: ``=equals``, ``^starts``, ``$ends``, ``~contains``, ``/regex``.

    A rule that is a list holds where all of it does.
    """
    for rule in rules:
        if isinstance(rule, list):
            if all(_matches((part,), name) for part in rule):
                return True
            continue
        sign, text = rule[0], rule[1:]
        if (
            (sign == "=" and name == text)
            or (sign == "^" and name.startswith(text))
            or (sign == "$" and name.endswith(text))
            or (sign == "~" and text in name)
            or (sign == "/" and re.search(text, name) is not None)
        ):
            return True
    return False


_Condition = Callable[[float], bool]


@frozen
class _Listing:
    """A model's prices with the times they are in force: the last that is, counts."""

    standard: tuple[tuple[_Condition | None, Price], ...]
    tiers: Mapping[str, tuple[tuple[_Condition | None, Price], ...]]

    def price(self, tier: str, at: float | None) -> Price | None:
        prices = self.tiers.get(tier, self.standard) if tier else self.standard
        if len(prices) == 1:
            return prices[0][1]
        if not prices:
            return None
        if at is None:
            at = time.time()
        for condition, price in reversed(prices):
            if condition is None or condition(at):
                return price
        return prices[0][1]


def _listing(provider: str, model: Mapping[str, Any]) -> _Listing:
    standard = tuple((_condition(entry), _price(provider, model, entry)) for entry in model["prices"])
    tiers = {}
    for tier, special in model.get("tiers", {}).items():
        # Every standard price, and over each of them the tier's, from the day that is listed.
        tiers[tier] = standard + tuple(
            (_both(_condition(entry), _condition(special)), _price(provider, model, _over(entry, special)))
            for entry in model["prices"]
        )
    return _Listing(standard, tiers)


def _price(provider: str, model: Mapping[str, Any], entry: Mapping[str, Any]) -> Price:
    rates = Rates(**entry["rates"])
    above = tuple((int(start), evolve(rates, **more)) for start, more in entry.get("above", {}).items())
    return Price(provider, model["id"], rates, above, model.get("context"))


def _over(standard: Mapping[str, Any], special: Mapping[str, Any]) -> dict[str, Any]:
    """`standard` with the rates that `special` names, at every prompt length."""
    above = {}
    for start in sorted({*standard.get("above", {}), *special.get("above", {})}, key=int):
        above[start] = {
            **standard.get("above", {}).get(start, {}),
            **special["rates"],
            **special.get("above", {}).get(start, {}),
        }
    return {"rates": {**standard["rates"], **special["rates"]}, "above": above}


def _condition(entry: Mapping[str, Any]) -> _Condition | None:
    """When an entry is in force: from a day on, or in some hours of every day (UTC); None for always."""
    if "from" in entry:
        start = float(entry["from"])
        return lambda at: at >= start
    if "hours" in entry:
        begin, end = entry["hours"]
        return lambda at: (begin <= at % 86400 < end) if begin <= end else not (end <= at % 86400 < begin)
    return None


def _both(one: _Condition | None, other: _Condition | None) -> _Condition | None:
    if one is None or other is None:
        return one or other
    return lambda at: one(at) and other(at)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = orjson.loads(data)
        if not isinstance(loaded["providers"], dict):
            raise TypeError("its providers are no object")
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"this is no file of prices: {error}") from None
    return loaded


def _override(key: str, value: Any) -> Price:
    if isinstance(value, Price):
        for sold in (value.rates, *(more for _, more in value.above)):
            for name, nano in zip(_RATES, astuple(sold), strict=True):
                if nano is not None and (not isinstance(nano, int) or nano < 0):
                    raise ConfigError(
                        f"price of {key!r}: {name} is {nano!r}, not nano-USD per million tokens"
                    )
        return value
    unknown = [*set(value) - set(_RATES)] if isinstance(value, Mapping) else [value]
    if unknown or not value:
        raise ConfigError(
            f"price of {key!r}: {sorted(map(repr, unknown)) or 'nothing'} given; "
            f"it takes {', '.join(_RATES)}, in USD per million tokens"
        )
    rates = {name: _nano(key, name, usd) for name, usd in value.items()}
    provider, _, model = key.rpartition("/")
    return Price(provider, model, Rates(**rates))


def _nano(key: str, name: str, usd: Any) -> int:
    try:
        price = Decimal(str(usd))
        fits = 0 <= price <= _DEAREST
    except InvalidOperation:
        raise ConfigError(f"price of {key!r}: {name} is {usd!r}, not USD per million tokens") from None
    if not fits:
        raise ConfigError(f"price of {key!r}: {name} is {usd}; it must be zero or more, a million at most")
    return int((price * _NANO_PER_MILLION).to_integral_value(rounding="ROUND_CEILING"))
