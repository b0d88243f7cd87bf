"""Writes the trail: chains records and keeps them in batches, each of them once."""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.middleware.audit.keeper import Keeper, crash_ends
from llmpipe.middleware.audit.record import late, linked, stripped
from llmpipe.middleware.audit.stats import AuditStats, Begun, Settings
from llmpipe.runtime import Runtime, at_once
from llmpipe.secret import scrub
from llmpipe.state import Anchor, Audit, AuditQuery, AuditRecord, shared
from llmpipe.state.memory.audit import MemoryAudit

__all__ = ("Scribe",)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries to write, where nobody waits


class Scribe:
    """The writer of one process. Its records are one chain, in the order in which they were handed in.

    Records wait in memory until there are `batch` of them, for `flush` seconds at most, or until
    somebody waits for one. A batch that could not be kept is tried again as it is, so it is never kept twice.
    If another has written in this chain meanwhile, because it took this process for dead, the records
    follow behind: see `keeper`.
    """

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self.settings = settings
        self._runtime = runtime
        store: Any = shared(runtime, settings.store).audit(settings.name)
        self._store: Audit = store
        # That never waits, nor can anybody else see it.
        self._memory: MemoryAudit | None = store if settings.store.startswith("memory:") else None
        self.anew()
        _scribes.add(self)

    def anew(self) -> None:
        """As a new writer, of whom nothing is kept yet; of one that was given a name, under that name.

        So does a process that was just forked: what is open and what waits is its parent's, who keeps it.
        """
        self.stats = AuditStats()
        self.open: dict[str, Begun] = {}  # calls under way
        told = self.settings.writer or self._runtime.new_id(f"{socket.gethostname()}:{os.getpid()}:")
        self.writer = told.encode("utf-8", "replace").decode()
        self._keeper = Keeper(self, self._store, self._runtime, alone=self._memory is not None)
        self._waiting: deque[AuditRecord] = deque()
        self._batch: Sequence[AuditRecord] = ()  # chained, and under way to the store
        self._head: AuditRecord | Anchor | None = None  # None: not begun
        self._one_by_one = 0  # records that are still to be tried each by itself
        self._since = 0.0  # when the first of those that wait was handed in
        self._away = False  # whether the store's failure was reported
        self._bind(None)

    def _here(self) -> asyncio.AbstractEventLoop:
        """The running loop. Asking asyncio asks the system which process this is, up to Python 3.11."""
        loop = self._loop
        if loop is None or not loop.is_running():
            self._bind(loop := asyncio.get_running_loop())
        return loop

    def _bind(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Forget what belonged to another event loop: it will never run."""
        self._loop = loop
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._hurry = asyncio.Event()
        self._keeper.stop()

    # ------------------------------------------------------------ calls

    def enter(self, call: str) -> Begun:
        """What is known of `call`, which is passing."""
        begun = self.open.get(call)
        if begun is None:
            begun = self.open[call] = Begun(None, 1)
        else:
            begun.inside += 1
        return begun

    def leave(self, call: str, begun: Begun) -> bool:
        """Whether `call` has passed for the last time."""
        begun.inside -= 1
        if begun.inside:
            return False
        del self.open[call]
        return True

    # ------------------------------------------------------------ handing in

    def write(self, record: AuditRecord) -> int:
        """Take `record`, and its place in the order, from 1: for `durable`."""
        loop, waiting, stats = self._loop, self._waiting, self.stats
        if loop is None or not loop.is_running():
            loop = self._here()
        waiting.append(record)
        stats.written = place = stats.written + 1
        waits = len(waiting)
        if waits == 1:
            self._since = loop.time()
        if waits >= self.settings.batch or waits >= self.settings.max_waiting:
            self._go()
        elif self._timer is None:
            self._timer = loop.call_at(self._since + self.settings.flush, self._due)
        if self._keeper.timer is None:
            self._keeper.start(loop)
        return place

    @property
    def full(self) -> bool:
        """Whether as many wait as may."""
        stats = self.stats
        return stats.written - stats.kept >= self.settings.max_waiting

    def offer(self, record: AuditRecord) -> int:
        """As `write`, if there is room; else `record` is dropped and counted, and its place is 0."""
        if self.full:
            self.stats.dropped += 1
            return 0
        return self.write(record)

    async def room(self) -> None:
        """Return when what waits now is kept. Raises: StoreUnavailable if it could not be."""
        try:
            await self.durable(self.stats.written)
        except StoreUnavailable:
            self.stats.refused += 1
            raise

    async def durable(self, place: int) -> None:
        """Return when the record at that place is kept.

        Raises: StoreUnavailable if it could not be; it is tried again all the same.
        """
        if self._memory is not None:
            self._go()
            return
        loop = self._here()
        if self.stats.kept >= place:
            return
        waiter = loop.create_future()
        self._waiters.append((place, waiter))
        self._go()
        await waiter

    def _due(self) -> None:
        """Keep what has waited long enough. The timer is not set anew for each record that begins to wait."""
        self._timer = None
        loop, due = asyncio.get_running_loop(), self._since + self.settings.flush
        if self._waiting and loop.time() < due:
            self._timer = loop.call_at(due, self._due)
        elif self._waiting:
            self._go()

    def _go(self) -> None:
        if self._memory is not None:
            while self._waiting or self._batch:
                if not self._extended(self._memory):
                    at_once(self._step())
            return
        self._hurry.set()
        if self._writing is None or self._writing.done():
            self._writing = self._runtime.spawn(self._write(), "audit: writing")

    # ------------------------------------------------------------ keeping

    def _extended(self, memory: MemoryAudit) -> bool:
        """Keep all that waits behind what `memory` has of this chain: nearly always that can be done."""
        head, waiting = self._head, self._waiting
        if head is None or self._batch:
            return False
        batch = linked(waiting, head)
        if not memory.extend(batch):
            return False
        waiting.clear()
        self._batch = batch
        self._settle()
        return True

    async def _write(self) -> None:
        """Keep what waits, batch by batch, until nothing does."""
        pause = _FIRST_PAUSE
        while self._waiting or self._batch:
            self._hurry.clear()
            try:
                await self._step()
                pause = _FIRST_PAUSE
                if self._waiting:
                    await asyncio.sleep(0)  # who was told just now and goes on gets into the next batch
            except Exception as error:  # noqa: BLE001  whatever it is, who waits must hear of it, and it is tried again
                self._failed(error)
                with suppress(TimeoutError):  # whoever comes and waits does not wait for the pause too
                    async with asyncio.timeout(pause):
                        await self._hurry.wait()
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _failed(self, failure: Exception) -> None:
        error = failure if isinstance(failure, StoreUnavailable) else _unforeseen(failure)
        self.stats.failures += 1
        if not self._away:
            self._away = True
            self._runtime.report(f"audit: {self.stats.waiting} records wait for the store", error)
        self._tell(error)

    async def _step(self) -> None:
        """Begin, if that is not done, and keep one batch."""
        if self._memory is None:
            await self._keeper.beat()  # first: else another could take for dead who has just begun a call
        if self._head is None:
            self._head = await self._begin()
        if not self._batch:
            self._take()
        if self._batch:
            try:
                await self._store.append(self._batch)
            except ConfigError:  # a ValueError, and no fault of the records
                raise
            except ValueError as error:
                await self._odds(error)
                return
            self._settle()
        self._away = False
        if self._waiters:
            self._tell(None)

    def _take(self) -> None:
        assert self._head is not None
        waiting, most = self._waiting, 1 if self._one_by_one else self.settings.batch
        if len(waiting) <= most:
            self._batch = linked(waiting, self._head)
            waiting.clear()
        else:
            self._batch = linked(islice(waiting, most), self._head)
            for _ in self._batch:
                waiting.popleft()

    def _settle(self) -> None:
        batch, stats = self._batch, self.stats
        kept = len(batch)
        self._head, self._batch = batch[-1], ()
        stats.kept += kept
        stats.batches += 1
        if self._one_by_one:
            self._one_by_one = max(0, self._one_by_one - kept)

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

    # ------------------------------------------------------------ being at odds with the store

    async def _begin(self) -> AuditRecord | Anchor:
        """The head of the chain. What one of the same name has left open, a crash has ended."""
        while True:
            head = await self._store.head(self.writer)
            left = await self._store.unended(self.writer)
            ends = crash_ends(left, head, self._runtime)
            if not ends:
                return head
            try:
                await self._store.append(ends)
            except ConfigError:
                raise
            except ValueError:  # another has begun at the same time, under the same name: look again
                continue
            self.stats.crashed += len(ends)
            return ends[-1]

    async def _odds(self, error: ValueError) -> None:
        """The batch was refused: its place is taken, or something in it is not to be kept."""
        batch, was = self._batch, self._head
        head = await self._store.head(self.writer)
        if was is not None and head.hash == was.hash:
            if len(batch) > 1:
                self._one_by_one = max(self._one_by_one, len(batch))
                self._waiting.extendleft(reversed(batch))
                self._batch = ()
            else:
                self._runtime.report("audit: a record cannot be kept as it is", error)
                self._batch = linked([stripped(batch[0], scrub(str(error)))], head)
            return
        self._runtime.report(
            f"audit: another wrote in the chain of {self.writer!r}; going on behind it", error
        )
        crashed = await self._crashed()
        for call, begun in self.open.items():
            begun.crashed = begun.crashed or call in crashed
        again = [late(one) if one.kind == "end" and one.call in crashed else one for one in batch]
        for number, one in enumerate(self._waiting):
            if one.kind == "end" and one.call in crashed:
                self._waiting[number] = late(one)
        self._batch, self._head = linked(again, head), head

    async def _crashed(self) -> set[str]:
        """Calls in this chain that a crash is said to have ended."""
        query = AuditQuery(writer=self.writer, kind="end", outcome="crashed")
        calls: set[str] = set()
        last: AuditRecord | None = None
        while page := await self._store.query(query, after=last):
            calls.update(record.call for record in page)
            last = page[-1]
        return calls

    # ------------------------------------------------------------ closing

    async def aclose(self) -> None:
        """Keep what waits, or say how much could not be kept; say that this writer has ended well."""
        _ = self._here()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._keeper.stop()
        try:
            async with asyncio.timeout(self._runtime.cleanup_seconds):
                await self._finish()
        except TimeoutError as error:
            away = StoreUnavailable("the audit trail was closed while its store was away")
            self._tell(away)
            self._runtime.report(f"audit: {self.stats.waiting} records could not be kept", error)

    async def _finish(self) -> None:
        if self._writing is not None and not self._writing.done():
            self._writing.cancel()
            await asyncio.wait([self._writing])
        pause = _FIRST_PAUSE
        while self._waiting or self._batch or (self._head is not None and not self.open):
            try:
                if self._waiting or self._batch:
                    await self._step()
                else:
                    await self._keeper.farewell()
                    if self.open or self._waiting or self._batch:  # a call has begun meanwhile
                        await self._keeper.beat()
                    else:
                        self._head = None  # begun again by the next record
            except Exception as error:  # noqa: BLE001  as in `_write`; it ends when the time for closing does
                self._failed(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


def _unforeseen(error: Exception) -> StoreUnavailable:
    """For a store that fails as none should, such as one that was opened to be read only."""
    told = StoreUnavailable(f"the audit trail cannot be kept: {type(error).__name__}: {scrub(str(error))}")
    told.__cause__ = error
    return told


def _again(error: StoreUnavailable) -> StoreUnavailable:
    """An error of its own for each who waits: a traceback belongs to one task."""
    fresh = type(error)(error.message, code=error.code, retry_after=error.retry_after, phase="admit")
    fresh.__cause__ = error
    return fresh


_scribes: weakref.WeakSet[Scribe] = weakref.WeakSet()


def _after_fork() -> None:
    for scribe in list(_scribes):
        scribe.anew()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
