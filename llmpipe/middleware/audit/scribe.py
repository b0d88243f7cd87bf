"""Writes the trail: chains records, keeps them in batches, and ends what a dead writer has left open."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

from attrs import define

from llmpipe.errors import StoreUnavailable
from llmpipe.runtime import Runtime, at_once
from llmpipe.state import Anchor, Audit, AuditRecord, shared
from llmpipe.state.hash_chain import chained

__all__ = ("AuditStats", "Scribe")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries to write
_PRUNE_EVERY = 3600.0
_LOOK_EVERY = 60.0  # for writers that died


@define
class AuditStats:
    """Counts since the start: records handed in, kept, and dropped; `waiting` ones are not kept yet.

    `crashed` are calls of writers that died, which were ended; `pruned`, records past their retention.
    """

    written: int = 0
    kept: int = 0
    dropped: int = 0
    waiting: int = 0
    batches: int = 0
    failures: int = 0
    crashed: int = 0
    pruned: int = 0


@define(eq=False)
class _Settings:
    """What the middleware says; see there."""

    batch: int
    flush: float
    max_waiting: int
    lease: float
    retention_seconds: float | None
    writer: str


class Scribe:
    """The writer of one process. Its records are one chain, in the order in which they were handed in.

    Records wait in memory until there are `batch` of them, for `flush` seconds at most, or until
    somebody waits for one. A batch that could not be kept is tried again as it is, so it is never kept twice.
    """

    def __init__(self, runtime: Runtime, store: str, name: str, settings: _Settings) -> None:
        self._runtime = runtime
        self._store: Audit = shared(runtime, store).audit(name)
        self._quick = store.startswith("memory:")  # never waits, so no task is needed to write there
        self._settings = settings
        told = settings.writer or f"{socket.gethostname()}:{os.getpid()}"
        self.writer = told if settings.writer else runtime.new_id(f"{told}:")
        self.stats = AuditStats()
        self._waiting: list[AuditRecord] = []
        self._batch: Sequence[AuditRecord] = ()  # chained, and under way to the store
        self._head: AuditRecord | Anchor | None = None  # None: not begun
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pulse: asyncio.TimerHandle | None = None
        self._open = 0  # calls begun and not ended
        self._beat_at = self._looked_at = self._pruned_at = float("-inf")

    # ------------------------------------------------------------ handing in

    def write(self, record: AuditRecord) -> int:
        """Take `record`, and its place in the order: for `durable`."""
        self._waiting.append(record)
        stats = self.stats
        stats.written += 1
        stats.waiting += 1
        self._open += (record.kind == "begin") - (record.kind == "end")
        if len(self._waiting) >= self._settings.batch:
            self._go()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._settings.flush, self._due)
        if self._pulse is None and not self._quick:  # nobody else could take it for dead
            self._pulse = asyncio.get_running_loop().call_later(self._settings.lease / 3, self._live)
        return stats.written

    @property
    def full(self) -> bool:
        """Whether as many wait as may."""
        return self.stats.waiting >= self._settings.max_waiting

    def offer(self, record: AuditRecord) -> bool:
        """As `write`, if there is room; else `record` is dropped and counted."""
        if self.full:
            self.stats.dropped += 1
            return False
        self.write(record)
        return True

    async def durable(self, place: int) -> None:
        """Return when the record at that place is kept.

        Raises: StoreUnavailable if it could not be; it is tried again all the same.
        """
        if self._quick:
            self._go()
        if self.stats.kept >= place:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((place, waiter))
        self._go()
        await waiter

    def _due(self) -> None:
        self._timer = None
        self._go()

    def _live(self) -> None:
        """While a call is under way, nobody may take this writer for dead."""
        self._pulse = None
        if self._open > 0:
            self._pulse = asyncio.get_running_loop().call_later(self._settings.lease / 3, self._live)
            if self._writing is None or self._writing.done():
                self._writing = self._runtime.spawn(self._write(beat=True), "audit: a sign of life")

    def _go(self) -> None:
        if self._quick:
            while self._waiting:
                at_once(self._step())
            return
        if self._writing is None or self._writing.done():
            self._writing = self._runtime.spawn(self._write(), "audit: writing")

    # ------------------------------------------------------------ keeping

    async def _write(self, *, beat: bool = False) -> None:
        """Keep what waits, batch by batch, until nothing does; with `beat`, show a sign of life too."""
        pause = _FIRST_PAUSE
        while self._waiting or self._batch or beat:
            beat = False
            try:
                await self._step()
                pause = _FIRST_PAUSE
            except StoreUnavailable as error:
                self.stats.failures += 1
                if self.stats.failures == 1 or not self._waiters:
                    self._runtime.report(f"audit: {self.stats.waiting} records wait for the store", error)
                self._tell(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _step(self) -> None:
        """Begin, if that is not done; keep one batch; see to the rest."""
        if self._head is None:
            self._head = await self._begin()
        if not self._batch and not self._quick:
            await asyncio.sleep(0)  # who runs in this turn of the loop gets into the batch
        if not self._batch:
            take = max(self._settings.batch, 1000)
            self._batch, self._waiting = self._chain(self._waiting[:take]), self._waiting[take:]
        if self._batch:
            await self._store.append(self._batch)
            self._head = self._batch[-1]
            self.stats.kept += len(self._batch)
            self.stats.waiting -= len(self._batch)
            self.stats.batches += 1
            self._batch = ()
        if self._timer is not None and not self._waiting:
            self._timer.cancel()
            self._timer = None
        self._tell(None)
        await self._tend()

    def _chain(self, records: Sequence[AuditRecord]) -> list[AuditRecord]:
        placed: list[AuditRecord] = []
        last = self._head
        assert last is not None
        for record in records:
            last = chained(record, last)
            placed.append(last)
        return placed

    def _tell(self, error: StoreUnavailable | None) -> None:
        """Wake those whose records are kept; all of them, when nothing can be."""
        left = []
        for place, waiter in self._waiters:
            if waiter.done():  # cancelled
                continue
            if self.stats.kept >= place:
                waiter.set_result(None)
            elif error is not None:
                waiter.set_exception(_again(error))
            else:
                left.append((place, waiter))
        self._waiters = left

    # ------------------------------------------------------------ lives and deaths

    async def _begin(self) -> AuditRecord | Anchor:
        """Say that this writer lives. What one of the same name has left open, a crash has ended."""
        await self._store.beat(self.writer, self._settings.lease)
        head = await self._store.head(self.writer)
        self._beat_at = self._runtime.now()
        left = await self._store.unended(self.writer)
        return await self._ended(left, head)

    async def _ended(self, begun: Sequence[AuditRecord], head: AuditRecord | Anchor) -> AuditRecord | Anchor:
        """Write an end for calls that have none; the new head."""
        ends = []
        for record in begun:
            end = AuditRecord(
                writer=self.writer,
                seq=0,
                kind="end",
                at=self._runtime.wall(),
                call=record.call,
                tenant=record.tenant,
                user=record.user,
                outcome="crashed",
                body={"of": record.writer, "seq": record.seq},
            )
            head = chained(end, head)
            ends.append(head)
        if ends:
            await self._store.append(ends)
            self.stats.crashed += len(ends)
        return head

    async def _tend(self) -> None:
        """What has to be done from time to time: show a sign of life, look for the dead, drop the old."""
        now, settings = self._runtime.now(), self._settings
        if now - self._beat_at >= settings.lease / 3:
            await self._store.beat(self.writer, settings.lease)
            self._beat_at = now
        if now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            for writer in await self._store.lost():
                if writer != self.writer and self._head is not None:
                    self._head = await self._ended(await self._store.unended(writer), self._head)
        if settings.retention_seconds is not None and now - self._pruned_at >= _PRUNE_EVERY:
            self._pruned_at = now
            self.stats.pruned += await self._store.prune(self._runtime.wall() - settings.retention_seconds)

    async def aclose(self) -> None:
        """Keep what waits, or say how much could not be kept; say that this writer has ended well."""
        for timer in (self._timer, self._pulse):
            if timer is not None:
                timer.cancel()
        self._timer = self._pulse = None
        try:
            while self._waiting or self._batch:
                await self._step()
            if self._head is not None and not self._open:
                await self._store.beat(self.writer, 0.0)
                self._head = None  # begun again by the next record
        except StoreUnavailable as error:
            self._runtime.report(f"audit: {self.stats.waiting} records could not be kept", error)


def _again(error: StoreUnavailable) -> StoreUnavailable:
    """An error of its own for each who waits: a traceback belongs to one task."""
    fresh = type(error)(error.message, code=error.code, retry_after=error.retry_after, phase="admit")
    fresh.__cause__ = error
    return fresh
