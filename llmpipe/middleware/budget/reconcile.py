"""Compares the journal with what a provider says: line by line, and in all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from attrs import define, frozen

from llmpipe.middleware.budget.invoice import InvoiceLine
from llmpipe.state import Spend

__all__ = ("Difference", "Reconciliation", "reconcile")

Status = Literal["same", "differs", "only in the journal", "only in the invoice"]
_DATE = re.compile(r"[-@]20[0-9]{2}-?[01][0-9]-?[0-3][0-9]\Z")


@frozen(kw_only=True)
class Difference:
    """One thing that both were asked about: a request, or a model's day. Money is nano-USD.

    `journal` and `invoice` are None where that side has nothing; they are tokens in place of money where
    the file has no money. `estimated` is how much of the journal's money is an estimate, `unpriced` how
    many of its lines have no price.
    """

    day: str
    model: str
    request_id: str
    journal: int | None
    invoice: int | None
    status: Status
    estimated: int = 0
    unpriced: int = 0


@frozen(kw_only=True)
class Reconciliation:
    """The result; `tokens` says that tokens were compared and not money."""

    by: Literal["request", "day and model"]
    tokens: bool
    rows: tuple[Difference, ...]
    journal: int
    invoice: int

    @property
    def differences(self) -> list[Difference]:
        """Those that are not the same."""
        return [row for row in self.rows if row.status != "same"]

    @property
    def exit_code(self) -> int:
        """0 where all is the same, else 1."""
        return int(bool(self.differences))


@define
class _Side:
    total: int = 0
    estimated: int = 0
    unpriced: int = 0
    lines: int = 0
    model: str = ""


def reconcile(
    spends: Iterable[Spend], invoice: Sequence[InvoiceLine], *, tolerance_usd: Decimal | str | float = "0.01"
) -> Reconciliation:
    """What the journal and a provider's file say about the same, side by side.

    By request, where the file has ids of requests; else by day (in UTC) and model, whose names are
    compared without dates, case and order: ``Claude Haiku 3.5`` is ``claude-3-5-haiku-20241022``.

    Args:
        spends: of the file's provider, and of its days.
        tolerance_usd: by how much the two may differ in each; files round.
    """
    by_request = any(line.request_id for line in invoice)
    tokens = bool(invoice) and all(line.nano is None for line in invoice)
    tolerance = 0 if tokens else round(Decimal(str(tolerance_usd)).scaleb(9))
    ours: dict[tuple[str, str], _Side] = {}
    theirs: dict[tuple[str, str], _Side] = {}
    for row in spends:
        day = datetime.fromtimestamp(row.at, UTC).date().isoformat()
        key = (row.request_id, "") if by_request and row.request_id else (day, _key(row.model))
        side = ours.setdefault(key, _Side(model=row.model))
        side.total += row.input_tokens + row.output_tokens if tokens else row.nano or 0
        side.estimated += (row.nano or 0) if row.estimated else 0
        side.unpriced += row.nano is None
        side.lines += 1
    for line in invoice:
        key = (line.request_id, "") if by_request and line.request_id else (line.day, _key(line.model))
        side = theirs.setdefault(key, _Side(model=line.model))
        counted = (line.input_tokens or 0) + (line.output_tokens or 0)
        side.total += counted if tokens else line.nano or 0
        side.lines += 1
    keys = sorted({*ours, *theirs})
    rows = tuple([_compared(key, ours.get(key), theirs.get(key), tolerance) for key in keys])
    return Reconciliation(
        by="request" if by_request else "day and model",
        tokens=tokens,
        rows=rows,
        journal=sum(side.total for side in ours.values()),
        invoice=sum(side.total for side in theirs.values()),
    )


def _compared(key: tuple[str, str], ours: _Side | None, theirs: _Side | None, tolerance: int) -> Difference:
    journal = 0 if ours is None else ours.total
    billed = 0 if theirs is None else theirs.total
    status: Status = "same"
    if abs(journal - billed) > tolerance or (ours is not None and ours.unpriced and billed):
        status = "differs" if ours and theirs else "only in the invoice" if theirs else "only in the journal"
    named = ours or theirs or _Side()
    request = not key[1] and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", key[0])
    return Difference(
        day="" if request else key[0],
        model=named.model,
        request_id=key[0] if request else "",
        journal=None if ours is None else journal,
        invoice=None if theirs is None else billed,
        status=status,
        estimated=0 if ours is None else ours.estimated,
        unpriced=0 if ours is None else ours.unpriced,
    )


def _key(model: str) -> str:
    bare = _DATE.sub("", model.strip().lower().rpartition("/")[2])
    return "-".join(sorted(part for part in re.split(r"[^a-z0-9]+", bare) if part))
