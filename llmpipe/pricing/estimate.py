"""From tokens to money: integer nano-USD, rounded up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import ceil
from typing import Any

from llmpipe.pricing.table import Price, PriceTable, Rates, prices
from llmpipe.tokens import estimate_request
from llmpipe.types import (
    Cost,
    EmbeddingRequest,
    Opaque,
    Part,
    Request,
    RerankRequest,
    ToolResult,
    Usage,
)

__all__ = ("answers_of", "cost_of", "counts_in", "worst_case", "worst_case_cost")

_MILLION = 1_000_000
_MORE_ANSWERS = ("n", "best_of", "candidateCount", "num_generations")
_WITHIN = ("generationConfig", "generation_config", "inferenceConfig", "options")


def cost_of(usage: Usage, price: Price | None) -> Cost | None:
    """What `usage` costs: one line for the input, one for the output, each rounded up once.

    Cached input and cache writes have their own rates, and the input's where theirs is not known.
    Counts below zero count as zero, and parts of the input as no more than the input.
    Returns None where the price, or a rate that is needed, is not known, or a count is none. Unknown is never
    zero.
    """
    if price is None:
        return None
    total, output = usage.input_tokens, usage.output_tokens
    if total < 0 or output < 0:
        total, output = max(0, total), max(0, output)
    rates = price.rates_for(total) if price.above else price.rates
    if (rates.input is None and total) or (rates.output is None and output):
        return None
    rate = rates.input or 0
    nano = rates.request + total * rate
    if usage.cached_input_tokens > 0 or usage.cache_write_tokens > 0:
        nano += _cached(usage, total, rate, rates)
    paid = output * (rates.output or 0)
    # `_nano`, spelled out: every call comes this way.
    nano, paid = -(-nano // _MILLION), -(-paid // _MILLION)
    if type(nano) is not int or type(paid) is not int:
        try:
            nano, paid = ceil(nano), ceil(paid)
        except (ValueError, OverflowError):  # NaN, infinity
            return None
    return Cost(nano, paid, usage.source == "estimated")


def _cached(usage: Usage, total: int, rate: int, rates: Rates) -> int:
    """What reading from and writing to the provider's cache changes; negative where it saves."""
    nano = 0
    cached = min(max(0, usage.cached_input_tokens), total)
    if rates.cached_input is not None:
        nano += cached * (rates.cached_input - rate)
    written = min(max(0, usage.cache_write_tokens), total - cached)
    if rates.cache_write is not None:
        nano += written * (rates.cache_write - rate)
        if rates.cache_write_1h is not None:
            nano += min(_for_an_hour(usage.extra), written) * (rates.cache_write_1h - rates.cache_write)
    return nano


def worst_case(
    request: Request | EmbeddingRequest | RerankRequest,
    price: Price | None,
    *,
    input_tokens: int | None = None,
    default_output_tokens: int = 4096,
) -> Cost | None:
    """What `request` costs at most: none of it cached, all written to the cache, all output used.

    Args: input_tokens takes the place of the estimate; default_output_tokens stands for a
    `max_tokens` that the request does not have. Several answers (``n``) are counted, also where the number
    is a text or a float.
    Returns None where the price is not known.
    """
    if price is None:
        return None
    tokens = estimate_request(request) if input_tokens is None else max(0, input_tokens)
    rates = price.rates_for(tokens)
    answers, output = 1, 0
    if isinstance(request, Request):
        answers = answers_of(request.extra)
        output = default_output_tokens if request.max_tokens is None else max(0, request.max_tokens)
    if rates.input is None or (rates.output is None and output):
        return None
    dearest = max(rates.input, rates.cache_write or 0)
    if rates.cache_write_1h is not None and isinstance(request, Request) and _asks_for_an_hour(request):
        dearest = max(dearest, rates.cache_write_1h)
    return Cost(
        _nano(rates.request + tokens * dearest), _nano(answers * output * (rates.output or 0)), estimated=True
    )


def worst_case_cost(
    provider: str,
    model: str,
    request: Request | EmbeddingRequest | RerankRequest,
    *,
    table: PriceTable | None = None,
) -> Cost | None:
    """`worst_case` by the names of provider and model; None where the table has no price."""
    return worst_case(request, (table or prices()).find(provider, model))


def _nano(millionths: int) -> int:
    """Nano-USD of millionths of it, rounded up."""
    return -(-millionths // _MILLION)


def _for_an_hour(extra: Mapping[str, Any]) -> int:
    """Tokens written to Anthropic's cache for an hour, as its usage tells them apart."""
    told = extra.get("cache_creation")
    count = told.get("ephemeral_1h_input_tokens") if isinstance(told, Mapping) else None
    return count if isinstance(count, int) and count > 0 else 0


def _asks_for_an_hour(request: Request) -> bool:
    """Whether something in the request is to be cached for an hour (Anthropic: ``"ttl": "1h"``)."""
    extras = [request.extra]
    extras += [tool.extra for tool in request.tools]
    for message in request.messages:
        extras.append(message.extra)
        extras += _extras(message.parts)
    controls = [extra.get("cache_control") for extra in extras if extra]
    return any(isinstance(control, Mapping) and control.get("ttl") == "1h" for control in controls)


def _extras(parts: Iterable[Part]) -> Iterator[Mapping[str, Any]]:
    for part in parts:
        if not isinstance(part, Opaque):
            yield part.extra
        if isinstance(part, ToolResult):
            yield from _extras(part.content)


def answers_of(extra: Mapping[str, Any]) -> int:
    """How many answers a request with this `extra` asks for, under the wires' own names; at least 1."""
    return max([1, *counts_in(extra, _MORE_ANSWERS)])


def counts_in(extra: Mapping[str, Any], names: tuple[str, ...]) -> list[int]:
    """The numbers that `extra` holds under `names`, on its own or within its settings of generation.

    As a provider may take them: some read 3.0 and "3" as 3. Where it is no number, 0.
    """
    places = (extra, *[extra.get(name) for name in _WITHIN])
    return [_count(place.get(name)) for place in places if isinstance(place, Mapping) for name in names]


def _count(told: Any) -> int:
    """The number that a provider may take `told` for: some read 3.0 and "3" as 3. 0 where it is none."""
    if isinstance(told, int):
        return told
    try:
        return ceil(float(told)) if isinstance(told, float | str) else 0
    except (ValueError, OverflowError):  # other text, NaN, infinity: no provider takes them
        return 0
