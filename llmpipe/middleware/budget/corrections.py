"""What has to be booked for the journal to say what a provider's invoice says: worked out, nothing changed.

What is taken for the truth, and when:

- A request whose id both know costs what the file says. So does what has no id, by day and model.
- What the file does not have costs nothing, as far as it was an estimate: the provider was never asked, or
  bills nothing for it. But only in days of which all is in the file, and of which it has nothing else that
  could be this. What a provider told itself is never taken back for that.
- A line that none of our requests can be is of somebody else, and is left: of a model that the journal does
  not have that day, or one of more lines than it has requests without an id.
- Sums of a day are of use when the day is over and the file was made some time after that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from hashlib import blake2b

from attrs import define, evolve, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.budget.invoice import InvoiceLine
from llmpipe.middleware.budget.reconcile import CORRECTION, Match, by_requests, day_of, match
from llmpipe.state import Spend

__all__ = ("Correction", "Corrections", "Left", "corrections")

_DAY = 86_400.0
_LATE = 3600.0  # seconds after midnight, UTC, until a provider's day is taken to be whole
_QUARTER = 900.0  # seconds; periods of every time zone begin and end at one of these
_EPOCH = date(1970, 1, 1)


@frozen(kw_only=True)
class Correction:
    """One settlement. Money is nano-USD.

    Attributes:
        id: made from whose line it is and how often that was corrected before, so that it is settled once.
        day, model, request_id: what it is of; as in `Difference`.
        journal, invoice: what the journal says before it, and after.
        estimated: whether what it corrects was an estimate, or had no price.
        rows: the lines of the journal that make the difference, one for each payer.
    """

    id: str
    day: str
    model: str
    request_id: str
    journal: int
    invoice: int
    estimated: bool
    rows: tuple[Spend, ...]

    @property
    def nano(self) -> int:
        """What it adds; below 0 it is a refund."""
        return self.invoice - self.journal


@frozen(kw_only=True)
class Left:
    """What differs and is not booked, and why."""

    day: str
    model: str
    request_id: str
    journal: int
    invoice: int
    why: str


@frozen(kw_only=True)
class Corrections:
    """What is to be booked, and what is left as it is."""

    corrections: tuple[Correction, ...]
    left: tuple[Left, ...]

    @property
    def nano(self) -> int:
        """All of it together."""
        return sum([one.nano for one in self.corrections])


@define
class _File:
    """What is known of the file as a whole: its days, and those that may have lines we cannot place."""

    first: str
    last: str
    exported_at: float
    apart: bool
    strange: set[str] = field(factory=set)

    def whole(self, day: str) -> bool:
        """Whether all of that day is in it."""
        if not self.first <= day <= self.last:
            return False
        ends = (date.fromisoformat(day) - _EPOCH).days * _DAY + _DAY
        return ends + _LATE <= self.exported_at


def corrections(
    spends: Iterable[Spend],
    invoice: Sequence[InvoiceLine],
    *,
    provider: str,
    exported_at: float,
    tolerance_usd: Decimal | str | float = 0,
) -> Corrections:
    """What makes the journal of `provider` say what its file says.

    Args:
        spends: of the file's days and a day before and after, corrections of earlier files too.
        exported_at: when the file was made, seconds since the epoch.
        tolerance_usd: differences up to that are left without a word.

    Raises: ConfigError for a file that has no money.
    """
    if invoice and all(line.nano is None for line in invoice):
        raise ConfigError("the file counts tokens, and has no money that could be booked")
    tolerance = round(Decimal(str(tolerance_usd)).scaleb(9))
    days = [line.day for line in invoice if line.day]
    file = _File(min(days, default=""), max(days, default=""), exported_at, by_requests(invoice))
    found = match([row for row in spends if row.provider == provider], invoice)
    reasons = {id(each): why for each in found if (why := _strange(each, file))}
    file.strange.update([line.day for each in found if id(each) in reasons for line in each.lines])
    made: list[Correction] = []
    left: list[Left] = []
    for each in found:
        billed, why = max(0, each.billed), reasons.get(id(each), "")
        if not each.lines:
            billed, why = _absent(each, file)
        if not why and abs(billed - each.spent) > tolerance:
            made.append(_correction(each, billed, provider))
        elif why and abs(each.billed - each.spent) > tolerance:
            told = {"day": each.day or _first_day(each), "model": each.model, "request_id": each.request_id}
            left.append(Left(**told, journal=each.spent, invoice=each.billed, why=why))
    return Corrections(corrections=tuple(made), left=tuple(left))


def _first_day(found: Match) -> str:
    return min([*[day_of(row.at) for row in found.spends], *[line.day for line in found.lines]], default="")


def _strange(found: Match, file: _File) -> str:
    """Why what the file has here cannot be booked; "" where it can, or where it has nothing."""
    if not found.lines or (found.request_id and found.spends):
        return ""
    if not found.spends:
        return "the journal has nothing of it" if found.billed else ""
    if not found.day:
        return "the file does not say of which day it is"
    if not file.whole(found.day):
        return "its day was not over, and an hour past, when the file was made"
    if not file.apart:
        return ""
    paid = sum([row.nano != 0 and not row.id.startswith(CORRECTION) for row in found.spends])
    lines = sum([bool(line.nano) for line in found.lines])
    if lines > paid:
        return f"the file has {lines} that the journal does not know by id, which has {paid} without one"
    return ""


def _absent(found: Match, file: _File) -> tuple[int, str]:
    """What is to be taken for the bill of what the file does not have; or why it is left."""
    if any(row.id.startswith(CORRECTION) for row in found.spends):
        return found.spent, ""  # another file had it
    days = {day_of(moment) for row in found.spends for moment in (row.at - row.seconds, row.at)}
    if not any(file.first <= day <= file.last for day in days):
        return found.spent, ""  # it is of other days
    if not all(map(file.whole, days)):
        return 0, "the file does not have all of its day"
    if not file.apart or days & file.strange:
        return 0, "the file does not have it, perhaps under this name"
    told = found.spent - found.estimated
    return told, "" if found.estimated else "the provider told its usage, and the file does not have it"


def _correction(found: Match, billed: int, provider: str) -> Correction:
    name = [provider, found.request_id] if found.request_id else [provider, found.day, found.key]
    base = CORRECTION + blake2b(json.dumps(name).encode(), digest_size=8).hexdigest()
    before = {row.id.partition("/")[0] for row in found.spends if row.id.startswith(f"{base}-")}
    ident = f"{base}-{max([int(one.rpartition('-')[2]) for one in before], default=0) + 1}"
    shares = _shares(found, billed - found.spent)
    rows = tuple([_row(f"{ident}/{n}", row, nano, found) for n, (row, nano) in enumerate(shares, 1)])
    touched = [row for row in found.spends if row.nano != 0 and not row.id.startswith(CORRECTION)]
    return Correction(
        id=ident,
        day=found.day or _first_day(found),
        model=found.model,
        request_id=found.request_id,
        journal=found.spent,
        invoice=billed,
        # By day and model it is among the estimates that a difference is looked for.
        estimated=any(row.estimated or row.nano is None for row in touched),
        rows=rows,
    )


def _row(ident: str, of: Spend, nano: int, found: Match) -> Spend:
    """A line of the same payer, time and model as `of`; it counts no tokens, for those were counted."""
    return evolve(
        of,
        id=ident,
        nano=nano,
        estimated=False,
        status="corrected",
        call=of.call if found.request_id else "",
        request_id=found.request_id,
        input_tokens=0,
        output_tokens=0,
        cached_input_tokens=0,
        cache_write_tokens=0,
        reasoning_tokens=0,
        asked_tokens=None,
        prompt="",
        prefix="",
    )


def _payer(row: Spend) -> tuple[object, ...]:
    """Who paid, and when, as far as any period goes."""
    quarter = (row.at - row.seconds) // _QUARTER
    return (row.tenant, row.user, row.project, row.key, row.use_case, row.model, quarter, row.at // _QUARTER)


def _shares(found: Match, nano: int) -> list[tuple[Spend, int]]:
    """`nano` among those who paid: by what was an estimate, for the rest is known, then by all they paid.

    Nobody gets back more than he paid. What has no price, and costs something, is what is missing.
    """
    payers: dict[tuple[object, ...], Match] = {}
    for row in found.spends:
        payers.setdefault(_payer(row), Match("", "", "")).spends.append(row)
    parts = list(payers.values())
    estimated, spent = [part.estimated for part in parts], [max(0, part.spent) for part in parts]
    if nano < 0:
        first = _split(-min(-nano, sum(estimated)), estimated)
        rest = [paid + share for paid, share in zip(spent, first, strict=True)]
        given = [a + b for a, b in zip(first, _split(nano - sum(first), rest), strict=True)]
    else:
        unpriced = [part.unpriced for part in parts]
        weights = next((some for some in (unpriced, estimated, spent) if any(some)), [1] * len(parts))
        given = _split(nano, weights)
    return [(part.spends[0], share) for part, share in zip(parts, given, strict=True) if share]


def _split(nano: int, weights: Sequence[int]) -> list[int]:
    """`nano` in parts as `weights` are, to the last nano-dollar; of none of which is more than its weight.

    (Where `nano` is no more than all weights together, that is.)
    """
    whole = sum(weights)
    if not whole or not nano:
        return [0] * len(weights)
    sign, nano = (-1 if nano < 0 else 1), abs(nano)
    parts = [nano * weight // whole for weight in weights]
    # By largest remainder. What was rounded down has room for one more: its exact share is within its weight.
    order = sorted(range(len(weights)), key=lambda place: -(nano * weights[place] % whole))
    more = Counter(order[: nano - sum(parts)])
    return [sign * (part + more[place]) for place, part in enumerate(parts)]
