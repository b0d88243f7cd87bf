"""Books what a provider's invoice says over what was estimated: journal and budgets, once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from attrs import Factory, define, frozen

from llmpipe.middleware.budget.corrections import Correction, Corrections, Left, corrections
from llmpipe.middleware.budget.invoice import InvoiceLine
from llmpipe.middleware.budget.journal import read, scopes_of_line
from llmpipe.middleware.budget.reconcile import undated
from llmpipe.middleware.budget.rule import Rule
from llmpipe.state import Draw, Ledger, Spend

__all__ = ("Booked", "book", "plan")

_DAY = 86_400.0
_ROUNDS = 3
_JOURNAL_TELLS = frozenset(("key", "project", "use_case"))
_Key = tuple[str, int]


@frozen(kw_only=True)
class Booked:
    """What was done. Money is nano-USD.

    Attributes:
        corrections: those that were booked now.
        left: what differs still.
        withheld: of which balance, by account and period, how much was not given back, for the journal says
            that more was spent of it than the balance knows.
        untold: rules whose balances were not moved: they ask for tags that the journal does not tell.
    """

    corrections: tuple[Correction, ...]
    left: tuple[Left, ...]
    withheld: Mapping[_Key, int]
    untold: tuple[str, ...]

    @property
    def nano(self) -> int:
        """All corrections together."""
        return sum([one.nano for one in self.corrections])


async def plan(
    ledger: Ledger,
    invoice: Sequence[InvoiceLine],
    *,
    provider: str,
    exported_at: float,
    tolerance_usd: Decimal | str | float = 0,
) -> Corrections:
    """What `book` would book now; see `corrections`. Raises: ConfigError, StoreUnavailable."""
    days = [line.day for line in invoice if line.day]
    since, until = 0.0, float("inf")
    if len(days) == len(invoice) and days:  # what ended a day later may have begun on the last
        since, until = _midnight(min(days)) - _DAY, _midnight(max(days)) + 2 * _DAY
    rows = await read(ledger, since=since, until=until)
    return corrections(rows, invoice, provider=provider, exported_at=exported_at, tolerance_usd=tolerance_usd)


async def book(
    ledger: Ledger,
    rules: Sequence[Rule],
    invoice: Sequence[InvoiceLine],
    *,
    provider: str,
    exported_at: float,
    tolerance_usd: Decimal | str | float = 0,
) -> Booked:
    """Make the journal say what the invoice says, and move the balances that the calls were paid from.

    The same file again changes nothing; a later one books the difference only. Each correction is one atomic
    settlement under an id of its own, so two that book at once book once. A refund never brings a balance
    below what the journal says was spent of it, so no budget lets through more than it has in truth.

    A balance is found by what the journal says of the call: its scopes, and when it began. A rule by model
    is that of the model that was asked for; where that name has a date behind it in the journal, the balance
    that was spent of is taken.

    Args:
        rules: those of the budget that keeps this ledger.
        provider: whose file it is, as the journal names it.
        exported_at, tolerance_usd: as `corrections` takes them.

    Raises: ConfigError; StoreUnavailable, after which the same again books what is missing.
    """
    made: list[Correction] = []
    withheld: dict[_Key, int] = {}
    untold = {rule.name for rule in rules if not _JOURNAL_TELLS.issuperset(rule.tags)}
    told = [rule for rule in rules if rule.name not in untold]
    for _ in range(_ROUNDS):  # who books the same at the same time takes some of it: look again
        planned = await plan(
            ledger, invoice, provider=provider, exported_at=exported_at, tolerance_usd=tolerance_usd
        )
        payers = _Payers(ledger, told)
        await payers.learn([row for one in planned.corrections for row in one.rows])
        missing = await _missing(ledger, payers, planned.corrections)
        taken = 0
        for one in planned.corrections:
            charges, kept = _charges(one, payers, missing)
            if await ledger.settle(one.id, charges, one.rows):
                taken += 1
                made.append(one)
                for key, nano in kept.items():
                    missing[key] -= nano
                    withheld[key] = withheld.get(key, 0) + nano
        if taken == len(planned.corrections):
            break
    return Booked(corrections=tuple(made), left=planned.left, withheld=withheld, untold=tuple(sorted(untold)))


def _charges(
    one: Correction, payers: _Payers, missing: Mapping[_Key, int]
) -> tuple[list[Draw], dict[_Key, int]]:
    """What each balance is charged for `one`, and what of a refund is kept back."""
    sums: dict[_Key, int] = {}
    ends: dict[_Key, float | None] = {}
    for row in one.rows:
        for key, end in payers.of(row):
            sums[key] = sums.get(key, 0) + (row.nano or 0)
            ends[key] = end
    kept = {key: min(-nano, missing.get(key, 0)) for key, nano in sums.items() if nano < 0}
    kept = {key: nano for key, nano in kept.items() if nano}
    charges = [Draw(*key, nano + kept.get(key, 0), None, 0, ends[key]) for key, nano in sums.items()]
    return [draw for draw in charges if draw.nano], kept


async def _missing(ledger: Ledger, payers: _Payers, planned: Iterable[Correction]) -> dict[_Key, int]:
    """By how much a balance that is given back to has less than the journal's lines for it add up to.

    Such as one of a rule that is newer than the calls, or that another call was paid from than it seems.
    """
    refunds = [row for one in planned for row in one.rows if (row.nano or 0) < 0]
    keys = sorted({key for row in refunds for key, _ in payers.of(row)})
    if not keys:
        return {}
    # Balances first: what is spent meanwhile makes a balance seem too low, never too high.
    balances = await ledger.balances(keys)
    rows = await read(ledger, since=float(min(period for _, period in keys)))
    await payers.learn(rows)
    sums = dict.fromkeys(keys, 0)
    for row in rows:
        for key, _ in payers.of(row):
            if key in sums:
                sums[key] += row.nano or 0
    return {key: max(0, sums[key] - balance.spent) for key, balance in zip(keys, balances, strict=True)}


@frozen
class _Choice:
    """A budget that a line was paid from: one of `keys`, by what its model may have been called."""

    keys: tuple[_Key, ...]
    end: float | None


@define
class _Payers:
    """Which balances the lines of a journal were paid from."""

    ledger: Ledger
    rules: Sequence[Rule]
    _spent: dict[_Key, int] = Factory(dict)

    async def learn(self, rows: Iterable[Spend]) -> None:
        """See which of the balances that `rows` may be of are spent of at all."""
        choices = [choice for row in rows for choice in self._choices(row) if len(choice.keys) > 1]
        unknown = sorted({key for choice in choices for key in choice.keys} - self._spent.keys())
        if unknown:
            balances = await self.ledger.balances(unknown)
            for key, balance in zip(unknown, balances, strict=True):
                self._spent[key] = balance.spent

    def of(self, row: Spend) -> Collection[tuple[_Key, float | None]]:
        """The keys of the balances, and when their periods end; of rows that were learnt."""
        found = []
        for choice in self._choices(row):
            spent = [key for key in choice.keys if self._spent.get(key)]
            found.append(((spent or choice.keys)[0], choice.end))
        return found

    def _choices(self, row: Spend) -> list[_Choice]:
        scopes, began = scopes_of_line(row), row.at - row.seconds
        found = []
        for rule in self.rules:
            names = [row.model]
            if "model" in rule.per or "model" in rule.when:
                names.append(undated(row.model))
            of = [told for name in names if rule.applies(told := {**scopes, "model": name}, began)]
            if of:
                period = rule.period_at(began)
                keys = dict.fromkeys([(rule.account(told), period.start) for told in of])
                found.append(_Choice(tuple(keys), period.end))
        return found


def _midnight(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
