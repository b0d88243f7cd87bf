"""Budgets: what is spent and held of each, and the journal of what was spent."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol, runtime_checkable

from attrs import frozen

__all__ = ("Balance", "Draw", "Ledger", "Shortage", "Spend")


@frozen(slots=False)  # made for every call: half the time
class Draw:
    """What one call takes from one budget, in one of its periods. Money is integer nano-USD.

    Attributes:
        account: which budget, and whose: ``"daily/tenant=acme"``. With `period`, the key of a balance.
        period: when the period began, whole seconds since the epoch.
        nano: how much; at least 0, but for a charge of `Ledger.settle`.
        limit: the most that may be spent and held together; None only counts.
        likely: what is charged if the hold's lease ends and nobody has settled it.
        ends: when the period ends, seconds since the epoch, or None. Some time after that, a store
            may forget the balance.
    """

    account: str
    period: int
    nano: int
    limit: int | None = None
    likely: int = 0
    ends: float | None = None


@frozen
class Balance:
    """What is spent and held of a budget in one period, nano-USD."""

    spent: int = 0
    held: int = 0


@frozen
class Shortage:
    """Why nothing was held: draw number `index` is the first that does not fit its limit.

    `spent` and `held` are of that budget, without the hold that was asked for.
    """

    index: int
    spent: int
    held: int


@frozen(kw_only=True, slots=False)  # made for every call: half the time
class Spend:
    """One line of the journal: one attempt at a provider, and what it cost.

    Attributes:
        id: unique; a store takes it once.
        at: when it was settled, seconds since the epoch, by the writer's clock.
        nano: nano-USD; None where the price is not known, which is never the same as 0.
        estimated: whether the tokens, and so the money, are an estimate.
        prompt, prefix: digests of the request, and of its beginning; to find what is asked again. May be "".
        asked_tokens: `max_tokens` of the request, or None.
        seconds: how long the attempt took.
        request_id: the provider's own id of the attempt, as its invoice may name it.
    """

    id: str
    at: float
    nano: int | None
    estimated: bool = False
    call: str = ""
    tenant: str = ""
    user: str = ""
    project: str = ""
    key: str = ""
    use_case: str = ""
    provider: str = ""
    model: str = ""
    status: str = "ok"
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    asked_tokens: int | None = None
    seconds: float = 0.0
    prompt: str = ""
    prefix: str = ""
    request_id: str = ""

    @property
    def usd(self) -> Decimal | None:
        """USD, exact."""
        return None if self.nano is None else Decimal(self.nano).scaleb(-9)


@runtime_checkable
class Ledger(Protocol):
    """Holds, settlements and their journal. Every step is atomic over all its draws.

    A hold is an expiring lease, kept beside what is spent. Its life: `reserve`, perhaps again with
    more, then `settle` exactly once. If its lease ends before, it is *expired*: each of its draws is
    charged its `likely`, the rest of what it held is free again, and a later `settle` corrects the
    charge by the difference. After every step, and whatever runs beside it, ``spent + held <= limit``
    holds of every budget that limits, unless a settlement was dearer than its hold.

    Time is the store's own, so that neither clocks that differ nor jumps of a clock end a lease.

    All raise: StoreUnavailable when the store cannot be reached in its time. Whoever gets that from
    `reserve` or `settle` does not know whether it was done, and may say the same again: both are
    idempotent. ValueError for what is no money, no time or no whole number of less than 64 bits, before
    anything is done; see `llmpipe.state.checks`. A store may have bounds of its own, and say so.
    """

    async def reserve(self, hold: str, draws: Sequence[Draw], lease: float) -> Shortage | None:
        """Hold all of `draws` for `lease` seconds under the id `hold`, or none of them.

        Each of `draws` is of another balance. Where the hold exists it grows: each draw's amount is the
        whole that is to be held of that budget, never less than before and nor is its `likely`, draws
        that it lacks are added, and its lease begins anew. A draw for no more than is held always fits,
        so the same request twice is the same as once, whatever others have spent meanwhile.

        A hold that has expired is open again, with these draws alone: its charges of what was likely are
        taken back, the draws must fit anew, and what they do not name is not held any more.

        Gives None if it is held, else what is short; then nothing has changed, and neither has the lease.

        Raises: ValueError for a hold that is settled.
        """
        ...

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend] = ()) -> bool:
        """End the hold: charge each `nano` of `charges`, free the rest, add `rows` to the journal.

        What the hold has and `charges` has not is charged nothing; what it lacks is charged all the
        same, and so is a hold that nobody knows: money that was spent is never lost. Several charges of
        one balance add up; `limit` and `likely` of a charge mean nothing. One below 0 is a refund: whoever
        makes it sees to it that no more is taken back than had been charged. A row whose id the journal has
        is not taken again. Whether that was done now: False if it had been before, and then nothing
        changes, nor is a row added.
        """
        ...

    async def balances(self, keys: Sequence[tuple[str, int]]) -> list[Balance]:
        """Of each (account, period), what is spent and held; zeros where nothing is known.

        A hold whose lease has ended since the last sweep may still count as held.
        """
        ...

    async def holds(self) -> list[str]:
        """Ids of the holds whose lease runs now, swept or not; sorted by code points."""
        ...

    async def sweep(self) -> int:
        """Expire the holds whose lease has ended; how many there were. `reserve` does so as well."""
        ...

    async def spends(
        self,
        *,
        since: float = 0.0,
        until: float = float("inf"),
        tenant: str | None = None,
        limit: int = 1000,
        after: Spend | None = None,
    ) -> list[Spend]:
        """The journal, `limit` lines beyond `after`, where since <= at < until.

        Ordered by (at, id), ids by code points.
        """
        ...

    async def forget(self, before: float) -> int:
        """Drop lines of the journal with ``at < before``, and what is known of holds as old; how many lines.

        Balances stay. A settlement as old that arrives once more would be taken for a new one. Holds whose
        lease runs stay.
        """
        ...
