"""A reply: one answer, committed, with one consumer; the same for full and streamed calls.

When a reply is over, for whatever reason, the middlewares that yielded it are resumed, innermost
first, exactly once.
"""

from __future__ import annotations

import asyncio
import warnings
from asyncio import _get_running_loop, get_running_loop
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from llmpipe.errors import LLMError, ReplyClosed
from llmpipe.pipeline.ending import HARMLESS, Frame, How, close, resume
from llmpipe.pipeline.outcome import Outcome, Result, Status
from llmpipe.pipeline.pump import Iterated, Pump, Source, Stage, through
from llmpipe.pipeline.watch import Watch
from llmpipe.runtime import Runtime, shielded
from llmpipe.types import Completion, Event, TextDelta, is_content, unfold

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Attempt, Call

__all__ = ("Reply",)


class Reply:
    """One answer to a call. Read it as an async iterator of events, or whole with `full`.

    Made by `Reply.of` and `Reply.stream`. Whoever opens a reply and does not return it need not
    close it: the linker does. A reply that is iterated by hand is closed with `aclose`, or by
    ``async with``.

    Attributes:
        over: whether it has ended: read to its end, broken or closed.
    """

    __slots__ = (
        "__weakref__", "_attempt", "_call", "_cleaner", "_committed_at", "_ended", "_ended_at", "_error",
        "_frames", "_loop", "_origin", "_pump", "_rest", "_result", "_status", "adopted", "over",
    )  # fmt: skip

    def __init__(self, result: Result | None, pump: Pump | None) -> None:
        self._result = result
        self._pump = pump
        self.over = False
        self._frames: list[Frame] = []
        self._call: Call | None = None
        self._loop: Any = _get_running_loop()  # None where there is none
        self._attempt: Attempt | None = None
        self._origin: Any = None
        self._committed_at = 0.0
        self._status: Status = "ok"
        self._error: BaseException | None = None
        self._rest: list[Event] | None = None  # of a full reply that is read as a stream, last first
        self._ended: asyncio.Future[None] | None = None  # done when the clean-up is
        self._cleaner: asyncio.Task[Any] | None = None
        self.adopted = False

    # ------------------------------------------------------------ making and shaping

    @classmethod
    def of(cls, result: Result) -> Reply:
        """The reply that is `result`, whole."""
        return cls(result, None)

    @classmethod
    def stream(cls, source: Source | AsyncIterator[Event], first: Sequence[Event] = ()) -> Reply:
        """The reply whose events are `first`, already in hand, and then those of `source`."""
        return cls(None, Pump(source if isinstance(source, Source) else Iterated(source), first))

    def pipe(self, stage: Stage) -> Reply:
        """Run the reply through `stage`, after the stages it has; returns the reply itself.

        Raises: whatever the stage raises, at once for a full reply, from the pump for a stream;
        RuntimeError for a stream that is already being read.
        """
        if self._pump is not None:
            self._pump.add(stage)
        elif isinstance(self._result, Completion):
            self._result = through(stage, self._result)
        return self

    def amend(self, change: Callable[[Any], Any]) -> Reply:
        """Change what the reply amounts to (`full`, `completion`, outcomes) and not its events.

        `change` takes the completion, or the embeddings, and gives one of the same kind.
        """
        if self._pump is not None:
            self._pump.amends.append(change)
        else:
            self._result = change(self._result)
        return self

    def limit(
        self, *, idle: float | None = None, stall: float | None = None, deadline: float | None = None
    ) -> Reply:
        """Bound the waits of a stream: see `Watch`. Seconds; `deadline` in monotonic loop time."""
        pump = self._pump
        if pump is not None:
            if pump.watch is None:
                pump.watch = Watch(pump.interrupt)
                if pump.reader is not None:
                    pump.watch.begin()
            pump.watch.tighten(idle, stall, deadline)
        return self

    def when_over(self, tell: Callable[[Call, Outcome], object], call: Call, how: How = "call") -> Reply:
        """Do ``tell(call, outcome)`` when the reply is over, exactly once; returns the reply itself.

        ``return reply.when_over(self._ended, call)`` does for a middleware that waits for nothing at the
        end what yielding the reply does, in half the time (measured). The linker gives the generator of
        one that yielded, and `how` to resume it. What either raises is reported.
        """
        place = self._result if self._pump is None else self._pump.mark()
        if self._call is None:
            self._call, self._loop = call, get_running_loop()
            self._committed_at = self._loop.time()
        if not self.over:
            self._frames.append((tell, how, place, call))
            return self
        try:  # it has read the reply to its end itself
            tell(call, self._outcome(place))
        except HARMLESS as problem:  # reported: clean-up never replaces the outcome
            self._report(tell, problem)
        return self

    def attempted(self, attempt: Attempt, call: Call) -> None:
        """Settle `attempt` when the reply is over. For the chain, at the provider."""
        self._attempt, self._call, self._loop = attempt, call, get_running_loop()
        self._origin = self._result if self._pump is None else self._pump.mark()
        self._committed_at = attempt.committed_at = self._loop.time()

    def adopt(self) -> Reply:
        """Take the reply out of the linker's hands; returns the reply itself.

        For whatever reads it on after the middleware that opened it is done: a task of its own, such as
        the flight that several callers share, or a `Relay`. Whoever adopts a reply closes it.
        """
        self.adopted = True
        return self

    @property
    def streamed(self) -> bool:
        """Whether the events come one by one, rather than all at once."""
        return self._pump is not None

    @property
    def completion(self) -> Result:
        """What the reply amounts to: all of it once it is over, before that what has passed so far."""
        if self._pump is None:
            assert self._result is not None
            return self._result
        return self._pump.completion(self._pump.mark())

    # ------------------------------------------------------------ reading

    async def full(self) -> Result:
        """The whole reply. Raises what a stream broke with; `error.partial` has what had come."""
        pump = self._pump
        if pump is None:
            if not self.over and not self._settled("ok"):
                await self._wind_down()
            assert self._result is not None
            return self._result
        while not self.over:
            await self._advance(pump)
            pump.ready.clear()
        if self._status != "ok":
            raise self._failure()
        return pump.completion(pump.mark())

    async def texts(self) -> AsyncIterator[str]:
        """The reply's text, piece by piece."""
        async for event in self:
            if type(event) is TextDelta and event.text:
                yield event.text

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> Event:
        pump = self._pump
        if pump is None:
            if self._rest is None:
                self._rest = [*unfold(self._result)][::-1] if isinstance(self._result, Completion) else []
            if self._rest and not self.over:
                return self._rest.pop()
            await self._end("ok")
            if self._status != "ok":
                raise self._failure()
            raise StopAsyncIteration
        while not pump.ready:
            if self.over:
                if self._status != "ok":
                    raise self._failure()
                raise StopAsyncIteration
            await self._advance(pump)
        return pump.ready.popleft()

    async def _advance(self, pump: Pump) -> None:
        """Run the pump once, and end the reply where the stream ends or breaks."""
        if pump.draining:  # all content was delivered, and another task closes it
            await self.aclose()
            return
        if pump.reader is not None:
            raise RuntimeError("a reply has one consumer; a second task is reading it")
        try:
            if await pump.advance():
                return
        except GeneratorExit:  # the reader is being dropped and cannot wait: so are we, and close ourselves
            raise
        except BaseException as error:  # whatever it is ends the reply, is told to the frames, and goes on
            await self._break(error)
            raise
        await self._end("ok")

    @property
    def closed_early(self) -> Exception | None:
        """Why the reply ended before its end: what it broke with, or ReplyClosed; else None."""
        return self._failure() if self._status != "ok" else None

    def _failure(self) -> Exception:
        if isinstance(self._error, Exception):
            return self._error
        return ReplyClosed("the reply was closed before its end", partial=self._partial())

    # ------------------------------------------------------------ ending

    async def __aenter__(self) -> Reply:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        await self.aclose("cancelled" if cancelled else "abandoned")

    async def aclose(self, status: Status = "abandoned") -> None:
        """End the reply here. After its last content this is a success, before it `status`.

        Returns when the clean-up is done. May be called from any task, and more than once; a reader
        in another task gets ReplyClosed.
        """
        pump = self._pump
        if self.over:
            if self._ended is not None and self._cleaner is not asyncio.current_task():
                await asyncio.shield(self._ended)
            return
        if pump is None:
            if self._rest is not None and not any(map(is_content, self._rest)):
                status = "ok"
        elif pump.draining or (pump.reader is not None and pump.reader is not asyncio.current_task()):
            self._ended = self._ended or get_running_loop().create_future()
            if not pump.draining:  # else another task is closing it, and learns what was used
                pump.interrupt(ReplyClosed("the reply was closed while another task was reading it"))
            await asyncio.shield(self._ended)
            return
        elif pump.delivered():
            status = "ok"
            try:
                await pump.drain()
            except asyncio.CancelledError:
                await self._end(status)
                raise
            except Exception as error:  # noqa: BLE001  reported: all content was delivered before
                self._runtime().report("reading what follows the last content", error)
        await self._end(status)

    async def _break(self, error: BaseException) -> None:
        status: Status = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
        if isinstance(error, LLMError):
            if isinstance(error, ReplyClosed):
                status = "abandoned"
            # Not what another reply, further in, wrote there: our stages may hide things.
            error.partial = self._partial()
            if self._attempt is not None:
                self._attempt.sign(error)
        await self._end(status, error)

    def _partial(self) -> Result | None:
        try:
            return self.completion
        except Exception as error:  # noqa: BLE001  an amendment that cannot take half a reply changes no outcome
            self._runtime().report("amending a partial reply", error)
            return None

    async def _end(self, status: Status, error: BaseException | None = None) -> None:
        """The reply is over: close the source, settle the attempt, resume the frames. Once."""
        if self.over:
            return
        if not self._settled(status, error):
            await self._wind_down()
        elif self._ended is not None:
            self._ended.set_result(None)

    def _settled(self, status: Status, error: BaseException | None = None) -> bool:
        """Do of the end what cannot suspend; whether that was all.

        What cannot suspend cannot be cancelled half-way either, so it needs no task of its own.
        """
        self.over, self._status, self._error = True, status, error
        self._ended_at = get_running_loop().time()
        pump, frames = self._pump, self._frames
        if pump is not None:
            if pump.watch is not None:
                pump.watch.stop()
            if status != "ok":
                pump.ready.clear()
        place, outcome = self._origin, None
        if self._attempt is not None:
            outcome = self._outcome(place)
            self._attempt.settle(outcome)
        if pump is not None and not pump.exhausted:
            return False  # the source is to be closed first
        for done, (frame, how, here, call) in enumerate(frames):
            if how == "await":
                del frames[:done]
                return False
            if outcome is None or here is not place:
                place, outcome = here, self._outcome(here)
            try:
                if how == "call":
                    frame(call, outcome)
                else:
                    frame.asend(outcome).send(None)
            except StopAsyncIteration as end:
                if how == "call":  # of a function it is no end, but an error like any other
                    self._report(frame, end)
            except HARMLESS as problem:  # reported: clean-up never replaces the outcome
                self._report(frame, problem)
        frames.clear()
        return True

    async def _wind_down(self) -> None:
        """Do the rest of the end in a task that no cancellation reaches."""
        runtime = self._runtime()
        if self._ended is None:
            self._ended = get_running_loop().create_future()
        try:
            await shielded(self._resume(runtime), runtime, "clean-up of a reply")
        finally:
            self._ended.set_result(None)

    async def _resume(self, runtime: Runtime) -> None:
        self._cleaner = asyncio.current_task()
        if self._pump is not None and not self._pump.exhausted:
            await close(self._pump, self._status, runtime.cleanup_seconds / 2, runtime.report)
        await resume(self._frames, self._outcome, self._report)
        self._frames.clear()

    def _outcome(self, place: Any) -> Outcome:
        """How the reply ended, as it looks from `place`."""
        pump = self._pump
        return Outcome(
            self._status,
            self._error,
            place if pump is None else None,
            None if pump is None else partial(pump.completion, place),
            None if self._call is None else self._call.request,
            self._committed_at,
            self._ended_at,
        )

    def _runtime(self) -> Runtime:
        return Runtime() if self._call is None else self._call.runtime

    def _report(self, frame: Any, error: BaseException) -> None:
        name = getattr(getattr(frame, "func", frame), "__qualname__", "a middleware")  # or a partial of it
        self._runtime().report(f"{name}, after its reply was over", error)

    def __del__(self) -> None:
        if self.over or (self._pump is None and not self._frames):
            return
        if self._loop is not None and not self._loop.is_closed():  # first: the warning may be an error
            self._loop.call_soon_threadsafe(_close_orphan, self)
        warnings.warn(
            "a reply was never closed: use `async with chain.stream(...)`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )


def _close_orphan(reply: Reply) -> None:
    _ = reply._runtime().spawn(reply.aclose(), "closing a reply that nobody closed")
