"""Lines of a journal as their bare values, in the order of the fields of `Spend`: for those who make many.

A tuple takes half the time of a `Spend` and a quarter of its memory, and the garbage collector forgets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from attrs import fields

from llmpipe.state.contracts.ledger import Spend

__all__ = ("FIELDS", "Values", "spend_of", "values_of")

Values = tuple[Any, ...]
FIELDS = tuple(one.name for one in fields(Spend))

_values = attrgetter(*FIELDS)
_new, _set = object.__new__, object.__setattr__


def values_of(row: Spend) -> Values:
    """The values of `row`."""
    found: Values = _values(row)
    return found


def spend_of(values: Sequence[Any]) -> Spend:
    """The `Spend` that has these."""
    row = _new(Spend)  # not by its `__init__`, which sets 23 fields one by one: a third of the time
    _set(row, "__dict__", dict(zip(FIELDS, values, strict=True)))
    return row
