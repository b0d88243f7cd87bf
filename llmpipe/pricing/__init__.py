"""Prices of models, and what a call costs: integer nano-USD, from a dated table in the package."""

from llmpipe.pricing.estimate import cost_of, worst_case, worst_case_cost
from llmpipe.pricing.table import Price, PriceTable, Rates, prices

__all__ = ("Price", "PriceTable", "Rates", "cost_of", "prices", "worst_case", "worst_case_cost")
