"""Shows that a writer lives, ends what the dead have left open, and drops what is past its time.

How one end is all a call ever has: it stands in the chain of its begin, whoever writes it. Whoever ends a
dead writer's calls appends to the dead one's own chain, where the store lets one record have each
place. Of several who try, one is first; the others, and a writer that was thought dead and comes
back, are refused, look again, and find that it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmpipe.errors import StoreUnavailable
from llmpipe.middleware.audit.stats import AuditStats, Settings
from llmpipe.runtime import Runtime
from llmpipe.state import Anchor, Audit, AuditRecord
from llmpipe.state.hash_chain import chained

__all__ = ("Keeper", "crash_ends")

_PRUNE_EVERY = 3600.0
_LOOK_EVERY = 60.0  # for writers that died


class _Writer(Protocol):
    """What is to be known of whoever writes."""

    writer: str
    settings: Settings
    stats: AuditStats

    @property
    def open(self) -> Mapping[str, object]:
        """Calls under way."""
        ...


class Keeper:
    """The periodic work of one writer, in the background. It rests while nothing is written or open.

    Args: alone says that nobody else can see the store, so that there is nobody to show a sign of life to.
    Attributes: timer is that of the next tick, None while it rests.
    """

    def __init__(self, of: _Writer, store: Audit, runtime: Runtime, *, alone: bool) -> None:
        self._of, self._store, self._runtime, self._alone = of, store, runtime, alone
        self.timer: asyncio.Handle | None = None
        self._seen = -1  # records written at the last tick
        self._woke_at = 0.0
        self._beat_at = self._looked_at = self._pruned_at = float("-inf")

    @property
    def awake(self) -> bool:
        """Whether the next tick is set."""
        return self.timer is not None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, with the first tick at once."""
        self._woke_at = loop.time()
        self.timer = self._later(loop) if self._alone else loop.call_soon(self._tick)

    def stop(self) -> None:
        """Rest, until something is written."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._seen = -1

    def _later(self, loop: asyncio.AbstractEventLoop) -> asyncio.TimerHandle:
        settings = self._of.settings
        every = _PRUNE_EVERY if self._alone else settings.lease / 3
        if settings.retention_days is not None:
            every = min(every, settings.retention_days * 86_400 / 4)
        return loop.call_later(every, self._tick)

    def _tick(self) -> None:
        written = self._of.stats.written
        if written == self._seen and not self._of.open and self._has_looked:
            self.timer = None
            return
        self._seen = written
        self.timer = self._later(asyncio.get_running_loop())
        _ = self._runtime.spawn(self._tend(), "audit: a sign of life")

    @property
    def _has_looked(self) -> bool:
        """Whether all who had died when this one woke have been found: their leases have ended since."""
        return self._alone or self._looked_at >= self._woke_at + self._of.settings.lease

    async def _tend(self) -> None:
        now = self._runtime.now()
        try:
            if not self._alone:
                if self._of.open:
                    await self.beat()
                if now - self._looked_at >= min(_LOOK_EVERY, self._of.settings.lease):
                    await self._look()
                    self._looked_at = now
            await self._prune(now)
        except StoreUnavailable as error:
            self._of.stats.failures += 1
            self._runtime.report("audit: the store is away; its upkeep is put off", error)

    async def beat(self) -> None:
        """Say that this writer lives, if that is due."""
        now, lease = self._runtime.now(), self._of.settings.lease
        if now - self._beat_at >= lease / 3:
            await self._store.beat(self._of.writer, lease)
            self._beat_at = now

    async def farewell(self) -> None:
        """Say that this writer has ended well."""
        if not self._alone:
            await self._store.beat(self._of.writer, 0.0)
            self._beat_at = float("-inf")  # not before: a call may have begun, and beaten, meanwhile

    async def _look(self) -> None:
        """End the calls of writers that died."""
        for writer in await self._store.lost():
            if writer == self._of.writer:
                continue
            head = await self._store.head(writer)
            left = await self._store.unended(writer)
            if writer not in await self._store.lost():  # it has come back: what it wrote lies before `head`
                continue
            ends = crash_ends(left, head, self._runtime, by=self._of.writer)
            try:
                await self._store.append(ends)
            except ValueError:  # another was first, or it lives: the next look will tell
                continue
            self._of.stats.crashed += len(ends)

    async def _prune(self, now: float) -> None:
        days = self._of.settings.retention_days
        if days is None or now - self._pruned_at < min(_PRUNE_EVERY, days * 86_400 / 4):
            return
        self._pruned_at = now
        self._of.stats.pruned += await self._store.prune(self._runtime.wall() - days * 86_400)


def crash_ends(
    begun: Sequence[AuditRecord], head: AuditRecord | Anchor, runtime: Runtime, *, by: str = ""
) -> list[AuditRecord]:
    """Ends, to follow `head` in the chain of the begins, for calls that have none."""
    body: dict[str, Any] = {"by": by} if by else {}
    ends: list[AuditRecord] = []
    for record in begun:
        end = AuditRecord(
            writer=record.writer,
            seq=0,
            kind="end",
            at=runtime.wall(),
            call=record.call,
            tenant=record.tenant,
            user=record.user,
            outcome="crashed",
            body={"begin": record.seq, **body},
        )
        ends.append(chained(end, ends[-1] if ends else head))
    return ends
