"""What an attempt may cost at most, before it is made."""

from __future__ import annotations

from llmpipe.pricing import Price, worst_case
from llmpipe.pricing.estimate import counts_in
from llmpipe.types import AnyRequest, Request
from llmpipe.types.copying import replace

__all__ = ("capped", "output_cap", "worst")

# Wires' own words for `max_tokens`, which `extra` may hold beside it. The largest counts.
_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens", "num_predict")


def capped(request: Request, output_tokens: int) -> Request:
    """`request` with a `max_tokens`: without one nobody knows what the worst is.

    What it may think, where it says that, comes on top: providers count it as output. A cap below 1 is
    none: to some servers -1 is without end.
    """
    if request.max_tokens is not None and request.max_tokens >= 1:
        return request
    reasoning = request.reasoning
    thinking = 0 if reasoning is None else reasoning.max_tokens or 0
    return replace(request, max_tokens=output_tokens + max(0, thinking))


def worst(
    request: AnyRequest, price: Price | None, tokens: int, output_tokens: int
) -> tuple[int, int] | None:
    """Nano-USD: the most that `request` may cost, and what of it is likely if nobody ever hears of it again.

    That is its input, which is of `tokens`. None where the price is not known, or a rate of it that counts.
    """
    if price is None:
        return None
    rates = price.rates_for(tokens) if price.above else price.rates
    if type(request) is not Request or request.extra or rates.cache_write_1h is not None:
        return _worst(request, price, tokens, output_tokens)
    # `worst_case` for nearly all requests, in a third of its time.
    sent, got = rates.input, rates.output
    if sent is None or got is None:
        return _worst(request, price, tokens, output_tokens)
    if rates.cache_write is not None and rates.cache_write > sent:
        sent = rates.cache_write
    most = request.max_tokens
    input_nano = -(-(rates.request + tokens * sent) // 1_000_000)
    return input_nano - (-(output_tokens if most is None else most) * got // 1_000_000), input_nano


def _worst(request: AnyRequest, price: Price, tokens: int, output_tokens: int) -> tuple[int, int] | None:
    if isinstance(request, Request) and request.extra:
        request = replace(request, max_tokens=output_cap(request, output_tokens))
    cost = worst_case(request, price, input_tokens=tokens, default_output_tokens=output_tokens)
    return None if cost is None else (cost.input_nano + cost.output_nano, cost.input_nano)


def output_cap(request: Request, output_tokens: int) -> int:
    """Tokens that one answer to `request` may have, whichever of the words for it a server reads."""
    most = output_tokens if request.max_tokens is None else request.max_tokens
    return most if not request.extra else max(most, *counts_in(request.extra, _CAPS))
