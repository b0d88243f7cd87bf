"""What an attempt cost: its usage, at the price of the model that answered it.

Three states, as money has them: what was not sent, or not billed, costs nothing; what told its
usage costs that; what was sent and never told costs an estimate of its input, marked as one.
"""

from __future__ import annotations

from llmpipe.pipeline.call import Attempt
from llmpipe.pricing import Price, PriceTable, cost_of
from llmpipe.tokens import estimate_request
from llmpipe.types import AnyRequest, Usage
from llmpipe.types import Cost as Charge

__all__ = ("FREE", "charge_for", "price_for", "tier_of", "usage_of")

FREE = Charge()
_TIERS = frozenset(("batch", "flex", "priority"))


def charge_for(table: PriceTable, attempt: Attempt, model: str, usage: Usage | None) -> Charge | None:
    """What `usage` of `model` costs in `attempt`; None where the price is not known, never 0 for that.

    Of an attempt that was made for several calls: the part that is this one's.
    """
    if usage is None:
        return FREE
    provider, request = attempt.provider, attempt.request
    tier = tier_of(request) if request.extra else ""
    price = table.find(provider, model, tier=tier)
    if price is None:
        price = price_for(table, provider, attempt.sold_as, model, attempt.asked_model, tier=tier)
    share = attempt.share
    if share is None:
        return cost_of(usage, price)
    whole = cost_of(share.usage, price)
    return None if whole is None else share.of(whole)


def tier_of(request: AnyRequest) -> str:
    """The price tier that a request asks for by `service_tier`, or ""."""
    extra = request.extra
    told = extra.get("service_tier") if extra else None
    return told if isinstance(told, str) and told in _TIERS else ""


def price_for(
    table: PriceTable, provider: str, sold_as: str, model: str, asked: str, *, tier: str
) -> Price | None:
    """The price by the names there are: the model's that answered, that was asked; whoever sells it."""
    found = table.find(provider, model, tier=tier)
    if found is None and model != asked:
        found = table.find(provider, asked, tier=tier)
    if found is None and sold_as not in ("", provider):
        found = table.find(sold_as, model, tier=tier) or table.find(sold_as, asked, tier=tier)
    return found


def usage_of(attempt: Attempt) -> Usage | None:
    """The tokens of an attempt that is over: told, or estimated; None where nothing is to be paid."""
    if attempt.outcome is not None:
        return attempt.outcome.usage
    error = attempt.error
    # An error that is none of ours does not say, and a cancellation cannot: both may be billed.
    if not getattr(error, "sent", True) or getattr(error, "billed", "unknown") == "no":
        return None
    return Usage(estimate_request(attempt.request), source="estimated")
