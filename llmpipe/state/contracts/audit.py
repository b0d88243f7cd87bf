"""The audit trail: records that are chained by hashes, one chain for each writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from attrs import frozen

__all__ = ("Anchor", "Audit", "AuditQuery", "AuditRecord")


# With a dict instead of slots it is made in half the time, four times for every call (measured).
@frozen(kw_only=True, slots=False)
class AuditRecord:
    """One record of the trail.

    Attributes:
        writer, seq: whose chain it stands in, and its number there: 1, 2, 3 … without a gap. Whoever ends
            the calls of a writer that died writes the ends in the dead one's chain, behind their begins.
        kind: ``begin`` or ``end`` of a call, or ``note`` for all else.
        at: seconds since the epoch, by the writer's clock; order is by `seq`, never by time.
        outcome: of an end: ``ok``, ``refused``, ``failed``, ``cancelled``, ``abandoned``, ``crashed``.
        body: what else is to be known, plain JSON.
        previous, hash: SHA-256 in hex of the record before (of the anchor for the first that is left), and
            of this one; see `llmpipe.state.hash_chain`.
    """

    writer: str
    seq: int
    kind: str
    at: float
    call: str = ""
    tenant: str = ""
    user: str = ""
    outcome: str = ""
    body: Mapping[str, Any]
    previous: str = ""
    hash: str = ""


@frozen
class Anchor:
    """Where a writer's chain begins after older records were pruned: the last that is gone."""

    seq: int = 0
    hash: str = ""


@frozen(kw_only=True)
class AuditQuery:
    """Which records are wanted; None stands for all. since <= at < until."""

    since: float = 0.0
    until: float = float("inf")
    tenant: str | None = None
    user: str | None = None
    outcome: str | None = None
    kind: str | None = None
    call: str | None = None
    writer: str | None = None


@runtime_checkable
class Audit(Protocol):
    """Keeps the records of all writers. What `append` has returned from survives any crash.

    All raise: StoreUnavailable when the store cannot be reached in its time, or is full; ValueError for what
    is no record or no time, before anything is kept (see `llmpipe.state.checks`).
    """

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """Keep `records`, all or none, durably.

        One that is there already, the same in all, changes nothing, and neither does one that was pruned.
        Whether a chain is whole is not asked here: see `llmpipe.state.hash_chain`.

        Raises: ValueError for a record whose (writer, seq) is there with another hash; nothing is kept.
        """
        ...

    async def head(self, writer: str) -> AuditRecord | Anchor:
        """The writer's last record; its anchor where none is left; ``Anchor(0, "")`` for a new one."""
        ...

    async def anchor(self, writer: str) -> Anchor:
        """Where the writer's chain begins."""
        ...

    async def writers(self) -> list[str]:
        """All writers there are records or anchors of, sorted by code points."""
        ...

    async def unended(self, writer: str | None = None) -> list[AuditRecord]:
        """Begins, of one writer or all, of calls that have not ended; in order of (writer, seq).

        Any writer's end ends a call, even one that came before its begin, or was pruned since.
        """
        ...

    async def beat(self, writer: str, lease: float) -> None:
        """The writer lives, for `lease` seconds from now. A lease of 0: it has ended well."""
        ...

    async def lost(self) -> list[str]:
        """Writers whose lease has ended, or who never had one, while calls of theirs are unended; sorted."""
        ...

    async def query(
        self, query: AuditQuery, *, limit: int = 1000, after: AuditRecord | None = None
    ) -> list[AuditRecord]:
        """Records in order of (at, writer by code points, seq), `limit` beyond `after`."""
        ...

    async def prune(self, before: float) -> int:
        """Drop the oldest of each writer while ``at < before``, and move its anchor; how many went.

        Stops at the begin of a call that has not ended. A call whose end went has ended all the same.
        """
        ...
