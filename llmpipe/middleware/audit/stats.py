"""What the parts of the audit say to one another, and what they count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from attrs import define

__all__ = ("AuditStats", "Begun", "Settings")


class Settings(Protocol):
    """The fields of the middleware that its scribe goes by; see there."""

    # ruff: noqa: D102  the middleware says what each is

    @property
    def store(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def writer(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def flush(self) -> float: ...
    @property
    def max_waiting(self) -> int: ...
    @property
    def lease(self) -> float: ...
    @property
    def retention_days(self) -> float | None: ...


@define
class AuditStats:
    """Counts since the start: records handed in, those of them that are kept, and dropped, which are neither.

    `refused` are calls that not even a begin could be taken of; `crashed`, calls of writers that died,
    which were ended; `pruned`, records past their retention; `failures`, tries in which the store failed.
    """

    written: int = 0
    kept: int = 0
    dropped: int = 0
    refused: int = 0
    batches: int = 0
    failures: int = 0
    crashed: int = 0
    pruned: int = 0

    @property
    def waiting(self) -> int:
        """Records that were handed in and are not kept yet."""
        return self.written - self.kept


@define(eq=False)
class Begun:
    """A call under way.

    Attributes:
        place: of its begin among the records that were handed in, from 1; 0 if that was dropped, None
            if none was written.
        identity: what its begin says of it that its end says too; None if no begin was written.
        inside: how often the call is passing the trail at this moment, in chains within chains.
        crashed: whether somebody who took us for dead has ended it.
        outside: whether it waits for room, or was refused because there is none.
    """

    place: int | None = None
    inside: int = 0
    crashed: bool = False
    outside: bool = False
    identity: Mapping[str, Any] | None = None
