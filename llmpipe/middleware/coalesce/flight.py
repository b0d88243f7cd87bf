"""One request under way, and those who ride along."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from llmpipe.errors import DeadlineExceeded, LLMError, ReplyClosed
from llmpipe.middleware.rate_limit.admission import raise_priority
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Alarm, shielded
from llmpipe.state.freeze import freeze
from llmpipe.types import Completion, Cost, Event
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Result

__all__ = ("Flight",)


class Flight:
    """One request, flown in a task of the runtime's for all who ask the same meanwhile.

    It stands in `table` under `key` from its start until it is over or empty.

    Attributes: loop is whose it is. Only calls on that loop may ride: another would not wake for the news.
    """

    __slots__ = (
        "_error",
        "_key",
        "_result",
        "_riders",
        "_shared",
        "_table",
        "_task",
        "_waiting",
        "call",
        "loop",
        "over",
        "priority",
        "streamed",
        "tape",
    )

    def __init__(self, call: Call, key: bytes, table: dict[bytes, Flight]) -> None:
        self.call = call if call.deadline is None else call.evolve(deadline=None)
        self.loop = asyncio.get_running_loop()
        self.priority = call.priority
        self.streamed = False  # the reply has begun, as a stream
        self.over = False
        self.tape: list[Event] = []  # of a stream: what has come so far
        self._key, self._table = key, table
        self._riders = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._result: Result | None = None
        self._shared: Result | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None]
        table[key] = self

    def start(self, call_next: Handler) -> None:
        """Take off."""
        self._task = self.call.runtime.spawn(self._fly(call_next), "coalesce")
        # Not in a `finally` of the work: a task that is cancelled before its first step runs none.
        self._task.add_done_callback(self._landed)

    async def _fly(self, call_next: Handler) -> None:
        try:
            reply = await call_next(self.call)
            if reply.streamed:
                async with reply.adopt():
                    self.streamed = True
                    async for event in reply:
                        self.tape.append(event)
                        self._tell()
            self._result = await reply.full()
            if self._riders > 1:
                self._share()  # before the leader has it, and may change it
        except Exception as error:  # noqa: BLE001  whatever it is, those on board raise it
            self._error = error
        self._end()

    def _landed(self, task: asyncio.Task[None]) -> None:
        if not self.over:
            self._error = ReplyClosed("the runtime was closed while the shared request was under way")
            self._end()

    def _end(self) -> None:
        self.over = True
        self._leave_table()
        self._tell()

    def _leave_table(self) -> None:
        if self._table.get(self._key) is self:
            del self._table[self._key]

    def _tell(self) -> None:
        """Wake those who wait for news."""
        if self._waiting:
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)
            self._waiting.clear()

    async def news(self) -> None:
        """Return when something has happened: an event, or the end."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    def raise_priority(self, priority: int) -> None:
        """Somebody more important is on board."""
        self.priority = priority
        raise_priority(self.call, priority)

    # ------------------------------------------------------------ riding

    async def ride(self, call: Call) -> Reply:
        """The reply, for the one who leads."""
        return await self._board(call, leads=True)

    async def join(self, call: Call) -> Reply:
        """The reply, for one who joins."""
        return await self._board(call, leads=False)

    async def _board(self, call: Call, *, leads: bool) -> Reply:
        deadline, stream = call.deadline, call.request.stream
        self._riders += 1
        try:
            with nullcontext() if deadline is None else Alarm(deadline, partial(_late, call, leads)):
                while not (self.over or (stream and self.streamed)):
                    await self.news()
        except BaseException:  # goes on; it is this caller's alone
            await self.leave()
            raise
        if stream and self.streamed:
            reply = Reply.stream(Rider(self, leads)).amend(partial(self._charged, leads))
            return reply if deadline is None else reply.limit(deadline=deadline)
        self._riders -= 1
        if self._error is not None:
            raise self.error(leads)
        assert self._result is not None
        return Reply.of(self._result if leads else self._share())

    def error(self, leads: bool) -> BaseException:
        """What the flight failed with: the leader's own, a copy for each of the others."""
        error = self._error
        assert error is not None
        if leads or not isinstance(error, LLMError):
            return error
        # An error collects a traceback, and what the reader had got, wherever it is raised.
        copy = type(error).__new__(type(error), *error.args)
        copy.__dict__.update(error.__dict__)
        copy.metadata = dict(error.metadata)
        copy.__cause__ = error
        return copy

    @property
    def failed(self) -> bool:
        """Whether the flight is over without a reply."""
        return self._error is not None

    def _share(self) -> Result:
        """The reply for those who joined: they pay nothing, and cannot change what others have."""
        if self._shared is None:
            assert self._result is not None
            self._shared = freeze(replace(self._result, charge=Cost()))[0]
        return self._shared

    def _charged(self, leads: bool, completion: Completion) -> Completion:
        """What no event carries."""
        done = self._result if isinstance(self._result, Completion) else completion
        return replace(completion, charge=done.charge if leads else Cost(), warnings=done.warnings)

    async def leave(self) -> None:
        """One less on board. The last one ends the flight, and waits until it has cleaned up."""
        self._riders -= 1
        if self._riders or self.over:
            return
        self._leave_table()
        self._task.cancel()
        await shielded(self._down(), self.call.runtime, "ending a request that nobody waits for")

    async def _down(self) -> None:
        await asyncio.wait((self._task,))


class Rider:
    """The source of one caller's stream: the flight's tape from its beginning, then what follows."""

    __slots__ = ("_at", "_flight", "_leads", "_left")

    def __init__(self, flight: Flight, leads: bool) -> None:
        self._flight = flight
        self._leads = leads
        self._at = 0
        self._left = False

    async def read(self) -> Sequence[Event]:
        """What has come since the last read."""
        flight = self._flight
        while True:
            if self._at < len(flight.tape):
                events = flight.tape[self._at :]
                self._at += len(events)
                return events
            if flight.over:
                if flight.failed:
                    raise flight.error(self._leads)
                return ()
            await flight.news()

    async def aclose(self) -> None:
        """Leave the flight."""
        if not self._left:
            self._left = True
            await self._flight.leave()


def _late(call: Call, leads: bool) -> DeadlineExceeded:
    sent = bool(call.ledger.attempts)  # who joined has none; the leader's may still be in a queue
    return DeadlineExceeded(
        "the call ran out of time" if leads else "the call ran out of time beside the one it had joined",
        sent=sent,
        billed="unknown" if sent else "no",
        phase="headers" if sent else "admit",
    )
