"""What an attempt cost: its usage, at the price of the model that answered it.

Three states, as money has them: what was not sent, or not billed, costs nothing; what told its
usage costs that; what was sent and never told costs an estimate of its input, marked as one.
"""

from __future__ import annotations

from llmpipe.pipeline.call import Attempt
from llmpipe.pricing import PriceTable, cost_of
from llmpipe.tokens import estimate_request
from llmpipe.types import AnyRequest, Usage
from llmpipe.types import Cost as Charge

__all__ = ("FREE", "charge_for", "tier_of", "usage_of")

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
    price = table.find(provider, model, tier=tier, sold_as=attempt.sold_as)
    if price is None and model != attempt.asked_model:
        price = table.find(provider, attempt.asked_model, tier=tier, sold_as=attempt.sold_as)
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


def usage_of(attempt: Attempt) -> Usage | None:
    """The tokens of an attempt that is over: told, or estimated; None where nothing is to be paid."""
    if attempt.outcome is not None:
        return attempt.outcome.usage
    error = attempt.error
    # An error that is none of ours does not say, and a cancellation cannot: both may be billed.
    if not getattr(error, "sent", True) or getattr(error, "billed", "unknown") == "no":
        return None
    return Usage(estimate_request(attempt.request), source="estimated")
