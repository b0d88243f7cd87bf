"""Calls that wait to be sent together, until they are, and who still waits for the answer."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, cast

from llmpipe.errors import DeadlineExceeded, ReplyClosed
from llmpipe.middleware.batch.leg import Leg, Member, Parted
from llmpipe.middleware.faults import fresh
from llmpipe.runtime import Alarm, shielded
from llmpipe.types import EmbeddingRequest, Embeddings

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler

__all__ = ("Flight",)


class Flight:
    """One request for several calls: open until it departs, then in a task of the runtime's.

    It stands in `table` under `key` while it is open. Where the guards of those on board do not all agree,
    it goes on as several requests, side by side.

    Args: window is seconds from the first call to departure.

    Attributes:
        inputs, tokens: on board.
        loop: whose it is. Only calls on that loop may ride: another would not wake for the answer.
    """

    __slots__ = (
        "_key",
        "_members",
        "_next",
        "_table",
        "_task",
        "_timer",
        "inputs",
        "loop",
        "tokens",
    )

    def __init__(self, key: bytes, table: dict[bytes, Flight], call_next: Handler, window: float) -> None:
        self._key, self._table, self._next = key, table, call_next
        self._members: list[Member] = []  # all that ever boarded and were on board at departure
        self._task: asyncio.Task[None] | None = None
        self.inputs = self.tokens = 0
        self.loop = asyncio.get_running_loop()
        self._timer = self.loop.call_later(window, self.depart)
        table[key] = self

    # ------------------------------------------------------------ on board

    async def ride(self, call: Call, tokens: int) -> Embeddings:
        """The part of the answer that is the call's. Raises DeadlineExceeded at the call's own deadline."""
        request = cast("EmbeddingRequest", call.request)
        member = Member(call, max(1, tokens), self.loop.create_future())
        self._members.append(member)
        self.inputs += len(request.inputs)
        self.tokens += member.weight
        try:
            deadline = call.deadline
            with nullcontext() if deadline is None else Alarm(deadline, partial(_late, member)):
                await member.done
        except BaseException as error:  # goes on; it is this caller's alone
            _copy(member, error)
            await self._leave(member)
            raise
        _copy(member, None)
        if member.error is not None:
            raise fresh(member.error)
        assert member.part is not None
        return member.part

    async def _leave(self, member: Member) -> None:
        """One less who waits. The last one of a request ends it, and waits until it has cleaned up."""
        if self._task is None:  # not departed yet: as if it had never come
            self._members.remove(member)
            self.inputs -= len(member.request.inputs)
            self.tokens -= member.weight
            if not self._members:
                self._timer.cancel()
                self._leave_table()
            return
        _ = member.done.cancel()
        task = member.legs[-1].task
        if not task.done() and all(other.done.done() for other in member.legs[-1].members):
            task.cancel()
            await shielded(self._down(task), member.call.runtime, "ending a batch nobody waits for")

    async def _down(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait((task,))

    # ------------------------------------------------------------ under way

    def depart(self) -> None:
        """Take nobody else on board, and send."""
        self._timer.cancel()
        self._leave_table()
        if not self._members or self._task is not None:
            return
        calls = [member.call for member in self._members]
        if len(calls) > 1:
            for call in calls:
                call.note("batch.sent", calls=len(calls), inputs=self.inputs, leader=calls[0].id)
        leg = Leg(self._members)
        self._task = leg.task = calls[0].runtime.spawn(self._send(leg), "batch")
        # Not in a `finally` of the work: a task that is cancelled before its first step runs none.
        self._task.add_done_callback(self._landed)

    def _leave_table(self) -> None:
        if self._table.get(self._key) is self:
            del self._table[self._key]

    async def _send(self, leg: Leg) -> None:
        """Make one request, or as many as it has to become; its members have their parts, or errors."""
        try:
            reply = await self._next(leg.joint())
            async with reply.adopt():
                result = await reply.full()
            assert isinstance(result, Embeddings)
            for member, part in zip(leg.members, leg.part_of(result), strict=True):
                member.part = part
        except Parted as parted:
            async with asyncio.TaskGroup() as tasks:
                for one in map(Leg, parted.groups):
                    one.task = tasks.create_task(self._send(one))
            return
        except Exception as error:  # noqa: BLE001  whatever it is, those on board raise it
            for member in leg.members:
                member.error = error
        _tell(leg.members)

    def _landed(self, task: asyncio.Task[None]) -> None:
        left = [member for member in self._members if not member.done.done()]
        for member in left:
            member.error = ReplyClosed("the runtime was closed while the batch was under way")
        _tell(left)


def _tell(members: list[Member]) -> None:
    for member in members:
        if not member.done.done():
            member.done.set_result(None)


def _copy(member: Member, error: BaseException | None) -> None:
    for leg in member.legs:
        leg.copy(member, error)


def _late(member: Member) -> DeadlineExceeded:
    sent = any(leg.ledger.attempts for leg in member.legs)
    return DeadlineExceeded(
        "the call ran out of time while it was sent together with others",
        sent=sent,
        billed="unknown" if sent else "no",
        phase="headers" if sent else "admit",
    )
