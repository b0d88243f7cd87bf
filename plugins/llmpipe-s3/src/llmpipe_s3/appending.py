"""Appending: what is asked for at the same time goes into one object for each writer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby

from attrs import define, field

from llmpipe.errors import LLMError, StoreUnavailable
from llmpipe.state import AuditRecord
from llmpipe_s3.batches import batch_data
from llmpipe_s3.keys import folder
from llmpipe_s3.trail import Batch, Trail

__all__ = ("Appender",)

_ROUNDS = 8
_MOST = 1000
"""Records in one object that were asked for by several."""


@define(eq=False)
class _Asked:
    """Records that somebody wants kept, and what has come of it."""

    records: Sequence[AuditRecord]
    done: asyncio.Future[None]


@define
class _Plan:
    """What is to be put, and what each is told when that is done.

    It goes by how the chains stood when it was begun: what comes between is met by the put, which fails then.
    """

    new: dict[str, dict[int, AuditRecord]] = field(factory=dict)  # by folder and number
    told: list[tuple[_Asked, ValueError | None]] = field(factory=list)
    looked: set[str] = field(factory=set)  # folders of chains that were looked at
    read: dict[Batch, dict[int, AuditRecord]] = field(
        factory=dict
    )  # batches in which records were looked for


class Appender:
    """Puts batches of one trail, from one event loop. While one is under way, others gather for the next."""

    def __init__(self, trail: Trail) -> None:
        self.trail = trail
        self._asked: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def append(self, records: Sequence[AuditRecord]) -> None:
        """See `Audit.append`. It goes on when whoever asked has been cancelled."""
        one = _Asked(records, asyncio.get_running_loop().create_future())
        one.done.add_done_callback(_heard)
        self._asked.append(one)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="llmpipe-s3: appending")
        await asyncio.shield(one.done)

    async def finish(self) -> None:
        """Return when nothing is under way."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        await asyncio.sleep(0)  # who asks in this turn of the loop is in the first batch
        while self._asked:
            asked, self._asked = self._asked, []
            # What one asks for of several writers goes by itself, so that nobody else's depends on it.
            alone = [one for one in asked if len({record.writer for record in one.records}) > 1]
            by_writer: dict[str, list[_Asked]] = {}
            for one in asked:
                if one not in alone:
                    by_writer.setdefault(one.records[0].writer, []).append(one)
            await asyncio.gather(*[self._keep_or_fail(each) for each in by_writer.values()])
            for one in alone:
                await self._keep_or_fail([one])

    async def _keep_or_fail(self, asked: Sequence[_Asked]) -> None:
        try:
            async with asyncio.timeout(self.trail.store.settings.timeout):
                await self._keep(asked)
        except TimeoutError:
            place = self.trail.store.settings.place
            _fail(asked, StoreUnavailable(f"{place} did not answer in time; what was asked may be kept"))
        except asyncio.CancelledError:  # the loop ends
            _fail(asked, StoreUnavailable("the store was closed; it is not known whether this was done"))
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait are told
            _fail(asked, error)

    async def _keep(self, asked: Sequence[_Asked]) -> None:
        waiting = [*asked]
        for _ in range(_ROUNDS):
            plan = await self._plan(waiting)
            if await self._put(plan):
                for one, error in plan.told:
                    if one.done.done():
                        continue
                    if error is None:
                        one.done.set_result(None)
                    else:
                        one.done.set_exception(error)
                waiting = [one for one in waiting if not one.done.done()]
            if not waiting:
                return
        raise StoreUnavailable(
            f"{self.trail.store.settings.place}: others write in the same chain all the time"
        )

    async def _plan(self, asked: Sequence[_Asked]) -> _Plan:
        """What to put for those of `asked` that fit into one batch; the others wait for the next round."""
        plan, count = _Plan(), 0
        for one in asked:
            if count and count + len(one.records) > _MOST:
                break
            try:
                new = await self._new(one.records, plan)
            except ValueError as error:
                plan.told.append((one, error))
                continue
            for writer, records in new.items():
                plan.new.setdefault(writer, {}).update(records)
                count += len(records)
            plan.told.append((one, None))
        return plan

    async def _new(self, records: Sequence[AuditRecord], plan: _Plan) -> dict[str, dict[int, AuditRecord]]:
        """Those that are not there yet. Raises: ValueError if one is, as another."""
        new: dict[str, dict[int, AuditRecord]] = {}
        for record in sorted(records, key=lambda each: each.seq):
            name = folder(record.writer)
            staged, mine = plan.new.get(name, {}), new.setdefault(name, {})
            chain = self.trail.index.chains.get(name)
            follows = chain is not None and chain.last.seq + 1 == record.seq
            known = record.seq - 1 in mine or record.seq - 1 in staged or follows
            if not known and name not in plan.looked:
                await self.trail.refresh(name)  # it is not simply the next: look
                plan.looked.add(name)
            found = mine.get(record.seq) or staged.get(record.seq)
            found = found or await self._stored(name, record.seq, plan)
            if found is not None and found.hash != record.hash:
                raise ValueError(
                    f"record {record.seq} of writer {record.writer!r} is there, and is another one"
                )
            chain = self.trail.index.chains.get(name)
            if found is None and record.seq > (chain.anchor.seq if chain else 0):
                mine[record.seq] = record
        return {name: each for name, each in new.items() if each}

    async def _stored(self, name: str, seq: int, plan: _Plan) -> AuditRecord | None:
        """The record that is there, unless it was pruned."""
        chain = self.trail.index.chains.get(name)
        if chain is None or seq > chain.last.seq or seq <= chain.anchor.seq:
            return None
        first = chain.holder(seq)
        if first is not None and (name, first) in plan.read:
            return plan.read[name, first].get(seq)
        records = None if first is None else await self.trail.batch(name, first)
        if first is None or records is None:
            await self.trail.refresh_anchors(name)  # it was pruned, most likely
            return None
        plan.read[name, first] = {record.seq: record for record in records}
        return plan.read[name, first].get(seq)

    async def _put(self, plan: _Plan) -> bool:
        """Put what is planned; False if another was first, so that the plan is to be made anew."""
        for name, records in plan.new.items():
            for run in _runs(records):
                if not await self._put_batch(name, run):
                    return False
        return True

    async def _put_batch(self, name: str, records: Sequence[AuditRecord]) -> bool:
        trail, first = self.trail, records[0].seq
        if await trail.store.put_new(trail.keys.batch(name, first), batch_data(trail.name, records)):
            trail.index.enter(name, first, records)
            return True
        there = await trail.batch(name, first)
        if there is None:  # pruned since: the anchor says so
            await trail.refresh(name)
            return False
        trail.index.enter(name, first, there)
        if there == [*records]:  # our own, put by a try that we did not hear the end of
            return True
        await trail.refresh(name)
        return False


def _runs(records: dict[int, AuditRecord]) -> list[list[AuditRecord]]:
    """The records in stretches that follow one another."""
    numbered = enumerate(sorted(records))
    return [
        [records[seq] for _, seq in group]
        for _, group in groupby(numbered, key=lambda each: each[1] - each[0])
    ]


def _fail(asked: Sequence[_Asked], error: Exception) -> None:
    for one in asked:
        if not one.done.done():
            own = error
            if isinstance(error, LLMError):  # a traceback belongs to one task
                own = type(error)(error.message, code=error.code, retry_after=error.retry_after)
                own.__cause__ = error
            one.done.set_exception(own)


def _heard(done: asyncio.Future[None]) -> None:
    """Whoever asked may have been cancelled: the error is nobody's then."""
    if not done.cancelled():
        done.exception()
