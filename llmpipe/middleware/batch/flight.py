"""Calls that wait to be sent together, the request they become, and who still waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from attrs import define, evolve

from llmpipe.errors import BadReply, DeadlineExceeded, ReplyClosed
from llmpipe.middleware.batch.sharing import charges_of, shared_out
from llmpipe.middleware.faults import fresh
from llmpipe.pipeline.call import Attempt, Call, Ledger
from llmpipe.pipeline.outcome import Outcome
from llmpipe.runtime import Alarm, shielded
from llmpipe.types import Cost, EmbeddingRequest, Embeddings
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Result

__all__ = ("Flight",)


@define(eq=False)
class _Member:
    """A call on board."""

    call: Call
    weight: int
    done: asyncio.Future[None]
    share: Embeddings | None = None
    place: int = 0

    @property
    def request(self) -> EmbeddingRequest:
        return cast("EmbeddingRequest", self.call.request)


class Flight:
    """One request for several calls: open until it departs, then in a task of the runtime's.

    It stands in `table` under `key` while it is open. The ledger of the flight is its own; each call that
    was on board gets its attempts copied, with its part of the usage and the charge.

    Args: window is seconds from the first call to departure.
    """

    __slots__ = (
        "_error",
        "_key",
        "_ledger",
        "_members",
        "_next",
        "_parts",
        "_table",
        "_task",
        "_timer",
        "_waiting",
        "inputs",
        "over",
        "tokens",
    )

    def __init__(self, key: bytes, table: dict[bytes, Flight], call_next: Handler, window: float) -> None:
        self._key, self._table, self._next = key, table, call_next
        self._members: list[_Member] = []  # all that ever boarded and were on board at departure
        self._waiting = 0
        self._ledger = Ledger()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._parts: dict[int, list[tuple[Cost | None, Outcome | None]]] = {}
        self.inputs = self.tokens = 0
        self.over = False
        self._timer = asyncio.get_running_loop().call_later(window, self.depart)
        table[key] = self

    # ------------------------------------------------------------ on board

    async def ride(self, call: Call, tokens: int) -> Embeddings:
        """The part of the answer that is the call's. Raises DeadlineExceeded at the call's own deadline."""
        request = cast("EmbeddingRequest", call.request)
        member = _Member(call, max(1, tokens), asyncio.get_running_loop().create_future())
        self._members.append(member)
        self.inputs += len(request.inputs)
        self.tokens += member.weight
        self._waiting += 1
        try:
            deadline = call.deadline
            with nullcontext() if deadline is None else Alarm(deadline, partial(self._late, call)):
                await member.done
        except BaseException as error:  # goes on; it is this caller's alone
            self._copy(member, error)
            await self._leave(member)
            raise
        self._waiting -= 1
        self._copy(member, None)
        if self._error is not None:
            raise fresh(self._error)
        assert member.share is not None
        return member.share

    def _late(self, call: Call) -> DeadlineExceeded:
        sent = bool(self._ledger.attempts)
        return DeadlineExceeded(
            "the call ran out of time while it was sent together with others",
            sent=sent,
            billed="unknown" if sent else "no",
            phase="headers" if sent else "admit",
        )

    async def _leave(self, member: _Member) -> None:
        """One less who waits. The last one ends the flight, and waits until it has cleaned up."""
        self._waiting -= 1
        if self._task is None:  # not departed yet: as if it had never come
            self._members.remove(member)
            self.inputs -= len(member.request.inputs)
            self.tokens -= member.weight
            if not self._waiting:
                self._timer.cancel()
                self._leave_table()
        elif not self._waiting and not self.over:
            self._task.cancel()
            await shielded(self._down(self._task), member.call.runtime, "ending a batch nobody waits for")

    async def _down(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait((task,))

    # ------------------------------------------------------------ under way

    def depart(self) -> None:
        """Take nobody else on board, and send."""
        self._timer.cancel()
        self._leave_table()
        if not self._members or self._task is not None:
            return
        for place, member in enumerate(self._members):
            member.place = place
        runtime = self._members[0].call.runtime
        self._task = runtime.spawn(self._fly(), "batch")
        # Not in a `finally` of the work: a task that is cancelled before its first step runs none.
        self._task.add_done_callback(self._landed)

    def _leave_table(self) -> None:
        if self._table.get(self._key) is self:
            del self._table[self._key]

    async def _fly(self) -> None:
        members = self._members
        try:
            reply = await self._next(self._joint([member.call for member in members]))
            async with reply.adopt():
                result = await reply.full()
            assert isinstance(result, Embeddings)
            shares = shared_out(
                result, [member.request for member in members], [member.weight for member in members]
            )
            for member, share in zip(members, shares, strict=True):
                member.share = share
        except Exception as error:  # noqa: BLE001  whatever it is, those on board raise it
            self._error = error
        self._end()

    def _joint(self, calls: list[Call]) -> Call:
        """One call for all: the latest deadline, the highest priority, all inputs in order."""
        first = calls[0]
        deadlines = [call.deadline for call in calls if call.deadline is not None]
        inputs = tuple(item for call in calls for item in cast("EmbeddingRequest", call.request).inputs)
        if len(calls) > 1:
            for call in calls:
                call.note("batch.sent", calls=len(calls), inputs=len(inputs), leader=first.id)
        return first.evolve(
            request=replace(first.request, inputs=inputs),
            deadline=max(deadlines) if len(deadlines) == len(calls) else None,
            priority=max(call.priority for call in calls),
            ledger=self._ledger,
            guards=(partial(_admitted, calls),) if any(call.guards for call in calls) else (),
        )

    def _landed(self, task: asyncio.Task[None]) -> None:
        if not self.over:
            self._error = ReplyClosed("the runtime was closed while the batch was under way")
            self._end()

    def _end(self) -> None:
        self.over = True
        for member in self._members:
            if not member.done.done():
                member.done.set_result(None)

    # ------------------------------------------------------------ the books

    def _copy(self, member: _Member, error: BaseException | None) -> None:
        """Write into the ledger of a call what the flight did for it.

        `error` is why it leaves before the end, if it does: an attempt that is under way then ends so.
        """
        call, ledger = member.call, member.call.ledger
        ledger.notes.extend(self._ledger.notes)
        for attempt in self._ledger.attempts:
            copy = evolve(attempt, number=len(ledger.attempts) + 1, request=call.request, holds=call.holds)
            if attempt.ended_at is not None:
                copy.charge, copy.outcome = self._parts_of(attempt)[member.place]
            elif error is not None:
                copy.fail(error, call.runtime.now())
            ledger.attempts.append(copy)

    def _parts_of(self, attempt: Attempt) -> list[tuple[Cost | None, Outcome | None]]:
        """Charge and outcome of an attempt that is over, for each of the members. Worked out once."""
        parts = self._parts.get(attempt.number)
        if parts is None:
            weights = [member.weight for member in self._members]
            charges = charges_of(attempt.charge, weights)
            parts = list(zip(charges, self._outcomes(attempt.outcome, weights), strict=True))
            self._parts[attempt.number] = parts
        return parts

    def _outcomes(self, told: Outcome | None, weights: list[int]) -> list[Outcome | None]:
        """How an attempt ended, as each sees it: with the own part of the reply."""
        members = self._members
        if told is None or len(members) == 1:
            return [told] * len(members)
        results: Sequence[Result] = [Embeddings()] * len(members)
        if isinstance(told.completion, Embeddings):
            # Not what was asked, it is no part of anybody's answer; what it has cost is.
            with suppress(BadReply):
                results = shared_out(told.completion, [member.request for member in members], weights)
        return [
            Outcome(
                told.status,
                told.error,
                result,
                None,
                member.call.request,
                told.committed_at,
                told.ended_at,
            )
            for member, result in zip(members, results, strict=True)
        ]


async def _admitted(calls: list[Call], attempt: Call) -> Call:
    """Asked before an attempt: every member's own guards, each of its own part. One refusal refuses all."""
    for call in calls:
        own = call.evolve(target=attempt.target, provider=attempt.provider)
        for guard in call.guards:
            own = await guard(own)
    return attempt
