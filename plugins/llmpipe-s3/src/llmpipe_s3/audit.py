"""The audit trail in a bucket."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from math import inf

import orjson

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.checks import at_most, body_json, check_query, check_records, check_times
from llmpipe.state.files.lines import record_line
from llmpipe.state.memory.audit import matches
from llmpipe_s3.appending import Appender
from llmpipe_s3.keys import folder
from llmpipe_s3.pruning import prune
from llmpipe_s3.trail import Batch, Trail, side_by_side

__all__ = ("S3Audit",)

_LONGEST = 1e12
"""Seconds of a lease, at most: JSON has no infinity."""
_FEW = 32
"""Chains that are listed one by one; more are listed all at once, a thousand objects each time."""


class S3Audit:
    """See `Audit`.

    What asks for one thing (`append`, `beat`, `anchor`) ends within the store's timeout. What reads all that
    has come since, which is all of a trail at first, goes on while answers come: each of its requests ends
    within the timeout, and what was read is not read again.

    Args: here gives what belongs to the running event loop, and ahead how far the store's time is moved.
    """

    def __init__(self, here: Callable[[], Appender], ahead: Callable[[], float]) -> None:
        self._here, self._ahead = here, ahead

    @property
    def _trail(self) -> Trail:
        return self._here().trail

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See `Audit.append`."""
        check_records(records)
        for record in records:
            body_json(record)  # refuses what is no JSON, here and below: others' batches are not to suffer
            _ = record_line("", record)
        if records:
            await self._here().append([*records])

    async def head(self, writer: str) -> AuditRecord | Anchor:
        """See `Audit.head`."""
        name, trail = folder(writer), self._trail
        await trail.refresh(name)
        chain = trail.index.chains.get(name)
        return chain.last if chain else Anchor()

    async def anchor(self, writer: str) -> Anchor:
        """See `Audit.anchor`."""
        name, trail = folder(writer), self._trail
        async with self._in_time():
            await trail.refresh_anchors(name)
        chain = trail.index.chains.get(name)
        return chain.anchor if chain else Anchor()

    async def writers(self) -> list[str]:
        """See `Audit.writers`."""
        await self._trail.refresh()
        return sorted([chain.writer for chain in self._trail.index.chains.values()])

    async def unended(self, writer: str | None = None) -> list[AuditRecord]:
        """See `Audit.unended`. Of one writer, others' records are read only if it has open calls."""
        if writer is not None:
            await self._trail.refresh(folder(writer))
        unended = self._trail.index.unended
        if writer is None or any(place[0] == writer for place in unended):
            await self._trail.refresh()
        return [record for place, record in sorted(unended.items()) if writer in (None, place[0])]

    async def beat(self, writer: str, lease: float) -> None:
        """See `Audit.beat`. The store's clock counts from when the object was put."""
        check_times(lease=lease)
        key = self._trail.keys.alive(folder(writer))
        async with self._in_time():
            if lease <= 0:
                await self._trail.store.delete(key)
            else:
                seconds = min(lease, _LONGEST) + self._ahead()
                await self._trail.store.put(key, orjson.dumps({"writer": writer, "seconds": seconds}))

    async def lost(self) -> list[str]:
        """See `Audit.lost`.

        Chains of writers that live are read only if one that does not has open calls: they may end elsewhere.
        """
        trail = self._trail
        dead = await self._dead()
        for name in dead if len(dead) <= _FEW else (None,):
            await trail.refresh(name)
        if not {folder(writer) for writer, _ in trail.index.unended} & dead:
            return []
        await trail.refresh()
        return sorted([
            writer
            for writer in {writer for writer, _ in trail.index.unended}
            if not await self._lives(folder(writer))
        ])  # fmt: skip

    async def _dead(self) -> set[str]:
        """Writers (their folders) that have records, and no lease."""
        folders = await self._trail.folders()
        signed = {name async for name in self._trail.signs()}.intersection(folders)
        lives = await side_by_side([partial(self._lives, name) for name in signed])
        return {*folders} - {name for name, alive in zip(signed, lives, strict=True) if alive}

    async def _lives(self, name: str) -> bool:
        key = self._trail.keys.alive(name)
        held = await self._trail.store.get(key)
        if held is None:
            return False
        try:
            seconds = float(orjson.loads(held.data)["seconds"])
        except (ValueError, TypeError, KeyError):
            raise StoreDamaged(f"the object {key} of an audit trail is no sign of life: delete it") from None
        return held.age + self._ahead() < seconds

    async def query(
        self, query: AuditQuery, *, limit: int = 1000, after: AuditRecord | None = None
    ) -> list[AuditRecord]:
        """See `Audit.query`. Reads what is new, and what is known to have records of that time."""
        check_query(query)
        trail, name = self._trail, None if query.writer is None else folder(query.writer)
        found, seen = _Found(query, at_most(limit), after), set[Batch]()

        def add(batch: Batch, records: Sequence[AuditRecord]) -> None:
            seen.add(batch)
            seq = trail.index.chains[batch[0]].anchor.seq
            found.add([record for record in records if record.seq > seq])

        await trail.refresh_anchors(name)  # first: what was pruned takes nobody's place
        await trail.refresh_batches(name, add)
        spans = _spanning(trail, found, seen)
        async for batch, records in trail.read([*spans]):
            if spans[batch] > found.until:
                break  # they come in order of time
            add(batch, records)
        return found.best()

    async def prune(self, before: float) -> int:
        """See `Audit.prune`. Deletes objects of which nothing is left."""
        check_times(before=before)
        await self._trail.refresh()
        return await prune(self._trail, before)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        settings = self._trail.store.settings
        try:
            async with asyncio.timeout(settings.timeout):
                yield
        except TimeoutError:
            raise StoreUnavailable(f"{settings.place} did not answer in {settings.timeout:g} s") from None


def _spanning(trail: Trail, found: _Found, seen: Collection[Batch]) -> dict[Batch, float]:
    """Known batches that may have something to be found, and were not seen; with their times, in order."""
    query = found.query
    spans = [
        (earliest, (name, first))
        for name, chain in trail.index.chains.items()
        if query.writer in (None, chain.writer)
        for first, earliest, latest in zip(chain.firsts, chain.earliest, chain.latest, strict=True)
        if earliest < query.until and latest >= max(query.since, found.since) and (name, first) not in seen
    ]
    return {batch: earliest for earliest, batch in sorted(spans)}


def _order(record: AuditRecord) -> tuple[float, str, int]:
    return (record.at, record.writer, record.seq)


class _Found:
    """The first `limit` records that a query wants; no more than about twice as many are held."""

    def __init__(self, query: AuditQuery, limit: int, after: AuditRecord | None) -> None:
        self.query, self._limit = query, limit
        self._after = None if after is None else _order(after)
        self.since = -inf if after is None else after.at
        self.until = inf  # nothing later is among the first
        self._records: list[AuditRecord] = []

    def add(self, records: Sequence[AuditRecord]) -> None:
        self._records += [
            record
            for record in records
            if matches(record, self.query) and (self._after is None or _order(record) > self._after)
        ]
        if len(self._records) > 2 * self._limit + 100:
            self._records = self.best()
            self.until = self._records[-1].at if self._records else -inf

    def best(self) -> list[AuditRecord]:
        return heapq.nsmallest(self._limit, self._records, key=_order)
