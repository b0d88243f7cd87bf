"""The simulator's own bookkeeping: what a provider's invoice would say."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from typing import Literal

from attrs import define, field

from llmpipe.types import Usage

__all__ = ("Book", "Entry", "Form")

Form = Literal["requests", "openai", "anthropic"]
"""Of an invoice: a line for each request; or for each day and model, as those two export their costs."""

_HEADS = {
    "requests": "day,input_tokens,model,output_tokens,request_id,usd",
    "openai": "start_time,start_time_iso,amount_value,amount_currency,line_item",
    "anthropic": "usage_date_utc,model,token_type,cost_usd",
}


@define
class Entry:
    """One request as the provider saw it.

    `status` is the HTTP status, 0 when none was sent. `end` is ``ok``, ``refused`` (an error status),
    ``broken`` (cut, reset, malformed, error event, unfinished), ``aborted`` (the client went away) or
    ``open``. `usage` counts what was taken in and what was sent out whole; `billed_nano` is its price.
    `at` is when it came, seconds since the epoch; `request_id` went out with the head of the response.
    """

    number: int
    path: str
    dialect: str = ""
    model: str = ""
    stream: bool = False
    status: int = 0
    end: str = "open"
    fault: str = ""
    usage: Usage | None = None
    billed_nano: int = 0
    at: float = 0.0
    request_id: str = ""

    @property
    def day(self) -> str:
        """On which it came: in UTC, ISO 8601."""
        return datetime.fromtimestamp(self.at, UTC).date().isoformat()


@define
class Book:
    """All requests of a simulator, in the order of their arrival.

    What is billed: the input of every request that was taken in, and the output as far as it was
    sent in whole events (a full reply is one). What is refused with a status that says so costs
    nothing; a 500, which may come after the work, costs its input.

    `connections` counts those that brought a request.
    """

    entries: list[Entry] = field(factory=list)
    connections: int = 0

    @property
    def billed_nano(self) -> int:
        """The whole bill, in nano-USD."""
        return sum(entry.billed_nano for entry in self.entries)

    @property
    def billed(self) -> Decimal:
        """The whole bill, in USD."""
        return Decimal(self.billed_nano).scaleb(-9)

    def invoice(self, form: Form = "requests") -> str:
        """The bill as a CSV file that `read_invoice` knows: what cost something, to the nano-dollar."""
        out = StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_HEADS[form].split(","))
        billed = [entry for entry in self.entries if entry.billed_nano]
        if form == "requests":
            for one in billed:
                used = one.usage or Usage()
                tokens = used.input_tokens, one.model, used.output_tokens
                writer.writerow((one.day, *tokens, one.request_id, _usd(one.billed_nano)))
            return out.getvalue()
        sums: Counter[tuple[str, str]] = Counter()
        for one in billed:
            sums[one.day, one.model] += one.billed_nano
        for (day, model), nano in sorted(sums.items()):
            if form == "openai":
                began = datetime.fromisoformat(day).replace(tzinfo=UTC)
                writer.writerow((int(began.timestamp()), began.isoformat(), _usd(nano), "usd", model))
            else:
                writer.writerow((day, model, "all", _usd(nano)))
        return out.getvalue()

    @property
    def usage(self) -> Usage:
        """All tokens together."""
        total = Usage()
        for entry in self.entries:
            if entry.usage is not None:
                total += entry.usage
        return total

    @property
    def ends(self) -> Counter[str]:
        """How many requests ended how."""
        return Counter(entry.end for entry in self.entries)

    @property
    def statuses(self) -> Counter[int]:
        """How many responses had which status."""
        return Counter(entry.status for entry in self.entries)


def _usd(nano: int) -> str:
    return f"{Decimal(nano).scaleb(-9):f}"
