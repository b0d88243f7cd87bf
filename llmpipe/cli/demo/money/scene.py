"""What was seen in this scene, act by act. Money is nano-USD, time is seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field

from llmpipe.middleware.alerts import Alert
from llmpipe.state import AuditRecord, Spend

__all__ = ("Admission", "Crash", "Crowd", "Money", "Neighbours", "Outage", "Tampering", "Trouble")


@define
class Crowd:
    """A thousand calls at one moment, on a budget that two instances share by a file."""

    calls: int
    room: int
    limit: int
    answered: int = 0
    refused: int = 0
    others: int = 0
    """Calls that ended in any other way."""
    requests: int = 0
    """Of which the provider knows."""
    highest: int = 0
    """The most that was spent and held together, of all looks at the ledger meanwhile."""
    looks: int = 0
    spent: int = 0
    held: int = 0
    bill: int = 0


@define
class Tampering:
    """One byte that was changed, and what was said of it; "" if nothing was."""

    where: str
    found: str


@define
class Crash:
    """An instance that is killed in the middle of its calls, and the next one on the same file."""

    lease: float
    acknowledged: Mapping[str, int] = field(factory=dict)
    """What the caller was given an answer for: call to what that cost."""
    asked: int = 0
    """Requests of which the provider knows, of both instances."""
    under_way: int = 0
    """Of these, without an answer when the instance is killed."""
    held_at_death: int = 0
    held_in_the_end: int = 0
    spent: int = 0
    likely: int = 0
    """What was charged for holds whose lease ended, by the ledger before and after."""
    after: int = 0
    """Calls of the second instance, all answered."""
    journal: Sequence[Spend] = ()
    records: Sequence[AuditRecord] = ()
    fault: str | None = "not looked at"
    tamperings: Sequence[Tampering] = ()
    exits: Sequence[int] = ()
    """How the two instances ended: -9 is the signal that kills."""


@define
class Admission:
    """One call at a limit: when it was made, whether it was let in, or else in how long there is room."""

    at: float
    admitted: bool
    retry_after: float | None = None


@define
class Neighbours:
    """Two tenants at one rate limit, and two accounts with limits of their own."""

    rate: float
    waits: Mapping[str, Sequence[float]] = field(factory=dict)
    """Seconds in the queue, of every call of each tenant."""
    busy: Sequence[Admission] = ()
    """Of the account that uses up its limit: up to the first refusal, half its time later, and all of it."""
    calm: Sequence[Admission] = ()
    """Of the account beside it, in the same moment as the refusal."""


@define
class Outage:
    """Two instances whose store is away for a while."""

    limit: int
    timeout: float
    slack: int
    before: int = 0
    shares: Sequence[int] = ()
    """Calls that each instance let in by itself meanwhile, at a limit."""
    refused: int = 0
    lent: Sequence[int] = ()
    """What each instance spent meanwhile, by its provider's bill, at a budget."""
    unavailable: int = 0
    others: int = 0
    longest: float = 0.0
    """The slowest of all calls meanwhile."""
    reports: Sequence[str] = ()
    """What the log says of it."""
    owed: int = 0
    """Settlements that waited for the store when it came back."""
    owed_in_the_end: int = 0
    lent_in_the_end: int = 0
    recovered_in: float = 0.0
    spent: int = 0
    held: int = 0
    bill: int = 0
    after: int = 0
    """Calls let in at the limit when it is back: what the store had left."""


@define
class Trouble:
    """A provider that fails for a while, and who was told."""

    calls: int = 0
    failed: int = 0
    alerts: Sequence[Alert] = ()
    late: int = 0
    """Alerts that still stand in the end."""


@define
class Money:
    """All acts."""

    crowd: Crowd
    crash: Crash
    neighbours: Neighbours
    outage: Outage
    trouble: Trouble
    seconds: float = 0.0
    tasks_left: int = 0
