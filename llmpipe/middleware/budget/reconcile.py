"""Compares the journal with what a provider says: line by line, and in all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from attrs import define, field, frozen

from llmpipe.middleware.budget.invoice import InvoiceLine
from llmpipe.middleware.budget.journal import scopes_of_line
from llmpipe.state import Spend

__all__ = (
    "CORRECTION",
    "Difference",
    "Match",
    "Reconciliation",
    "by_requests",
    "day_of",
    "match",
    "model_key",
    "reconcile",
    "tellings_of_line",
    "undated",
)

CORRECTION = "invoice-"
"""How the ids of the journal's lines begin that were booked after an invoice; see `booking`."""

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
class Match:
    """What both sides say of the same: of the request `request_id`, or of what has no id in a model's day."""

    day: str
    key: str
    request_id: str
    spends: list[Spend] = field(factory=list)
    lines: list[InvoiceLine] = field(factory=list)

    @property
    def model(self) -> str:
        """Its name, as the journal has it; else as the file does."""
        named = self.spends or self.lines
        return named[0].model if named else ""

    @property
    def spent(self) -> int:
        """The journal's nano-USD, corrections and all."""
        return sum([row.nano or 0 for row in self.spends])

    @property
    def billed(self) -> int:
        """The file's nano-USD."""
        return sum([line.nano or 0 for line in self.lines])

    @property
    def estimated(self) -> int:
        """How much of `spent` is an estimate; what was corrected was that first."""
        corrected = sum([row.nano or 0 for row in self.spends if row.id.startswith(CORRECTION)])
        return max(0, corrected + sum([row.nano or 0 for row in self.spends if row.estimated]))

    @property
    def unpriced(self) -> int:
        """How many of the journal's lines have no price; none once an invoice has said it."""
        if any(row.id.startswith(CORRECTION) for row in self.spends):
            return 0
        return sum([row.nano is None for row in self.spends])


def reconcile(
    spends: Iterable[Spend], invoice: Sequence[InvoiceLine], *, tolerance_usd: Decimal | str | float = "0.01"
) -> Reconciliation:
    """What the journal and a provider's file say about the same, side by side; see `match`.

    Args:
        spends: of the file's provider, and of its days.
        tolerance_usd: by how much the two may differ in each; files round.
    """
    tokens = bool(invoice) and all(line.nano is None for line in invoice)
    tolerance = 0 if tokens else round(Decimal(str(tolerance_usd)).scaleb(9))
    rows = tuple([_compared(each, tokens, tolerance) for each in match(spends, invoice)])
    return Reconciliation(
        by="request" if by_requests(invoice) else "day and model",
        tokens=tokens,
        rows=rows,
        journal=sum([row.journal or 0 for row in rows]),
        invoice=sum([row.invoice or 0 for row in rows]),
    )


def by_requests(invoice: Sequence[InvoiceLine]) -> bool:
    """Whether the file tells requests apart."""
    return any(line.request_id for line in invoice)


def match(spends: Iterable[Spend], invoice: Sequence[InvoiceLine]) -> list[Match]:
    """Both sides put together, in the order of days, models and ids.

    By request, where the file has ids of requests; else by day (in UTC) and model, whose names are
    compared without dates, case and order: ``Claude Haiku 3.5`` is ``claude-3-5-haiku-20241022``. Whoever
    left before an id came has none in the journal: what the file has of such a day and model, under ids
    that the journal does not know, stands beside all that has no id there.
    """
    apart = by_requests(invoice)
    found: dict[tuple[str, str, str], Match] = {}

    def place(day: str, key: str, request_id: str) -> Match:
        where = ("", "", request_id) if request_id else (day, key, "")
        here = found.get(where)
        if here is None:
            here = found[where] = Match(*where)
        return here

    for row in spends:
        request_id = row.request_id if apart else ""
        place(day_of(row.at), model_key(row.model), request_id).spends.append(row)
    for line in invoice:
        key = model_key(line.model)
        known = not line.request_id or ("", "", line.request_id) in found
        if known or (line.day, key, "") not in found:
            place(line.day, key, line.request_id).lines.append(line)
        else:
            place(line.day, key, "").lines.append(line)
    return [found[where] for where in sorted(found)]


def _compared(found: Match, tokens: bool, tolerance: int) -> Difference:
    ours, theirs = found.spends, found.lines
    journal, billed = found.spent, found.billed
    if tokens:
        journal = sum([row.input_tokens + row.output_tokens for row in ours])
        billed = sum([(line.input_tokens or 0) + (line.output_tokens or 0) for line in theirs])
    status: Status = "same"
    if abs(journal - billed) > tolerance or (found.unpriced and billed):
        status = "differs" if ours and theirs else "only in the invoice" if theirs else "only in the journal"
    return Difference(
        day=found.day,
        model=found.model,
        request_id=found.request_id,
        journal=journal if ours else None,
        invoice=billed if theirs else None,
        status=status,
        estimated=found.estimated,
        unpriced=found.unpriced,
    )


def day_of(at: float) -> str:
    """The day in UTC, ISO 8601, that `at`, seconds since the epoch, lies in."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def model_key(model: str) -> str:
    """What names of one model have in common."""
    bare = undated(model.strip().lower().rpartition("/")[2])
    return "-".join(sorted(part for part in re.split(r"[^a-z0-9]+", bare) if part))


def tellings_of_line(row: Spend) -> list[dict[str, str]]:
    """The scopes that a line of the journal may be of: its model as it answered, and without its date.

    Budgets go by the name that was asked for, which providers put a date behind.
    """
    told, bare = scopes_of_line(row), undated(row.model)
    return [told] if bare == row.model else [told, {**told, "model": bare}]


def undated(model: str) -> str:
    """The name without the date that providers put behind it."""
    return _DATE.sub("", model)
