"""A reply: one answer, committed, with one consumer; the same for full and streamed calls.

When a reply is over, for whatever reason, the middlewares that yielded it are resumed, innermost
first, exactly once.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attrs import evolve

from llmpipe.errors import LLMError, ReplyClosed
from llmpipe.pipeline.outcome import Outcome, Result, Status
from llmpipe.pipeline.pump import Pump, Source, Stage
from llmpipe.pipeline.watch import Watch
from llmpipe.runtime import Runtime, shielded
from llmpipe.types import Completion, Event, TextDelta, fold, is_content, unfold

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Attempt, Call

__all__ = ("Reply",)

_Frame = tuple[AsyncGenerator["Reply", Outcome], bool, Any]
"""A middleware that yielded: its generator, whether resuming it cannot suspend, and what passed
it: the result of a full reply, a place in the pump of a streamed one."""


class Reply:
    """One answer to a call. Read it as an async iterator of events, or whole with `full`.

    Made by `Reply.of` and `Reply.stream`. Whoever opens a reply and does not return it need not
    close it: the linker does. A reply that is iterated by hand is closed with `aclose`, or by
    ``async with``.
    """

    __slots__ = (
        "__weakref__",
        "_attempt",
        "_call",
        "_committed_at",
        "_ended",
        "_ended_at",
        "_error",
        "_frames",
        "_loop",
        "_origin",
        "_over",
        "_pump",
        "_rest",
        "_result",
        "_status",
    )

    def __init__(self, result: Result | None, pump: Pump | None) -> None:
        self._result = result
        self._pump = pump
        self._over = False
        self._frames: list[_Frame] = []
        self._call: Call | None = None
        self._attempt: Attempt | None = None
        self._origin: Any = None
        self._committed_at = 0.0
        self._status: Status = "ok"
        self._error: BaseException | None = None
        self._rest: list[Event] | None = None  # of a full reply that is read as a stream, last first
        self._ended: asyncio.Future[None] | None = None

    # ------------------------------------------------------------ making and shaping

    @classmethod
    def of(cls, result: Result) -> Reply:
        """The reply that is `result`, whole."""
        return cls(result, None)

    @classmethod
    def stream(cls, source: Source | AsyncIterator[Event], first: Sequence[Event] = ()) -> Reply:
        """The reply whose events are `first`, already in hand, and then those of `source`."""
        return cls(None, Pump(source if isinstance(source, Source) else _Iterated(source), first))

    def pipe(self, stage: Stage) -> Reply:
        """Run the reply through `stage`, after the stages it has; returns the reply itself.

        Raises: whatever the stage raises, at once for a full reply, from the pump for a stream.
        """
        if self._pump is not None:
            self._pump.stages.append(stage)
        elif isinstance(self._result, Completion):
            self._result = _through(stage, self._result)
        return self

    def amend(self, change: Callable[[Completion], Completion]) -> Reply:
        """Change what the reply amounts to (`full`, `completion`, outcomes) and not its events."""
        if self._pump is not None:
            self._pump.amends.append(change)
        elif isinstance(self._result, Completion):
            self._result = change(self._result)
        return self

    def limit(
        self, *, idle: float | None = None, stall: float | None = None, deadline: float | None = None
    ) -> Reply:
        """Bound the waits of a stream: see `Watch`. Seconds; `deadline` in monotonic loop time."""
        if self._pump is not None:
            if self._pump.watch is None:
                self._pump.watch = Watch(self._pump.interrupt)
            self._pump.watch.tighten(idle, stall, deadline)
        return self

    def hold(self, frame: AsyncGenerator[Reply, Outcome], at_once: bool, call: Call) -> None:
        """Resume `frame`, a middleware that yielded this reply, when the reply is over.

        For the linker. `at_once`: resuming it cannot suspend.
        """
        if self._call is None:
            self._call, self._loop = call, asyncio.get_running_loop()
            self._committed_at = self._loop.time()
        self._frames.append((frame, at_once, self._result if self._pump is None else self._pump.mark()))

    def attempted(self, attempt: Attempt, call: Call) -> None:
        """Settle `attempt` when the reply is over. For the chain, at the provider."""
        self._attempt, self._call, self._loop = attempt, call, asyncio.get_running_loop()
        self._origin = self._result if self._pump is None else self._pump.mark()
        self._committed_at = attempt.committed_at = self._loop.time()

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
            if not self._over and not self._settled("ok"):
                await self._wind_down()
            assert self._result is not None
            return self._result
        while not self._over:
            await self._advance(pump)
            pump.ready.clear()
        if self._error is not None:
            raise self._error
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
            if self._rest and not self._over:
                return self._rest.pop()
            await self._end("ok")
            raise StopAsyncIteration
        while not pump.ready:
            if self._over:
                if self._error is None or isinstance(self._error, asyncio.CancelledError):
                    raise StopAsyncIteration
                raise self._error
            await self._advance(pump)
        return pump.ready.popleft()

    async def _advance(self, pump: Pump) -> None:
        """Run the pump once, and end the reply where the stream ends or breaks."""
        try:
            if await pump.advance():
                return
        except BaseException as error:  # whatever it is ends the reply, is told to the frames, and goes on
            await self._break(error)
            raise
        await self._end("ok")

    # ------------------------------------------------------------ ending

    async def __aenter__(self) -> Reply:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        await self.aclose("cancelled" if cancelled else "abandoned")

    async def aclose(self, status: Status = "abandoned") -> None:
        """End the reply here. After its last content this is a success, before it `status`.

        May be called from any task, and more than once; a reader in another task gets ReplyClosed.
        """
        pump = self._pump
        if self._over:
            if self._ended is not None:
                await asyncio.shield(self._ended)
            return
        if pump is None:
            if self._rest is not None and not any(map(is_content, self._rest)):
                status = "ok"
        elif pump.reader is not None and pump.reader is not asyncio.current_task():
            self._ended = self._ended or asyncio.get_running_loop().create_future()
            pump.interrupt(ReplyClosed("the reply was closed while another task was reading it"))
            await asyncio.shield(self._ended)
            return
        elif pump.delivered():
            try:
                await pump.drain()
            except asyncio.CancelledError:
                await self._end("ok")
                raise
            status = "ok"
        await self._end(status)

    async def _break(self, error: BaseException) -> None:
        status: Status = "cancelled" if isinstance(error, asyncio.CancelledError) else "error"
        if isinstance(error, LLMError):
            if isinstance(error, ReplyClosed):
                status = "abandoned"
            if error.partial is None:
                error.partial = self.completion
            if self._attempt is not None and not error.attempt:
                error.attempt = self._attempt.number
        await self._end(status, error)

    async def _end(self, status: Status, error: BaseException | None = None) -> None:
        """The reply is over: close the source, settle the attempt, resume the frames. Once."""
        if self._over:
            return
        try:
            if not self._settled(status, error):
                await self._wind_down()
        finally:
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    def _settled(self, status: Status, error: BaseException | None = None) -> bool:
        """Do of the end what cannot suspend; whether that was all.

        What cannot suspend cannot be cancelled half-way either, so it needs no task of its own.
        """
        self._over, self._status, self._error = True, status, error
        self._ended_at = asyncio.get_running_loop().time()
        pump, frames = self._pump, self._frames
        if pump is not None and pump.watch is not None:
            pump.watch.stop()
        place, outcome = self._origin, None
        if self._attempt is not None:
            outcome = self._outcome(place)
            self._attempt.settle(outcome)
        if pump is not None and not pump.exhausted:
            return False  # the source is to be closed first
        for done, (frame, at_once, here) in enumerate(frames):
            if not at_once:
                del frames[:done]
                return False
            if outcome is None or here is not place:
                place, outcome = here, self._outcome(here)
            try:
                frame.asend(outcome).send(None)
            except StopAsyncIteration:
                continue
            except StopIteration:
                self._report(frame, _YIELDED_TWICE)
            except Exception as problem:  # noqa: BLE001  reported: clean-up never replaces the outcome
                self._report(frame, problem)
        frames.clear()
        return True

    async def _wind_down(self) -> None:
        """Do the rest of the end in a task that no cancellation reaches."""
        runtime = self._runtime()
        await shielded(self._resume(runtime), runtime, "clean-up of a reply")

    async def _resume(self, runtime: Runtime) -> None:
        """Close the source and resume the frames, whatever any of them raises."""
        if self._pump is not None and not self._pump.exhausted:
            try:
                await self._pump.source.aclose()
            except Exception as error:  # noqa: BLE001  reported: clean-up never replaces the outcome
                runtime.report("closing a stream", error)
        for frame, _, place in self._frames:
            try:
                await frame.asend(self._outcome(place))
            except StopAsyncIteration:
                continue
            except Exception as error:  # noqa: BLE001  reported: clean-up never replaces the outcome
                self._report(frame, error)
            else:
                self._report(frame, _YIELDED_TWICE)
                await frame.aclose()
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

    def _report(self, frame: AsyncGenerator[Reply, Outcome], error: BaseException) -> None:
        name = getattr(frame, "__qualname__", "a middleware")
        self._runtime().report(f"{name}, after its reply was over", error)

    def __del__(self) -> None:
        if self._over or (self._pump is None and not self._frames):
            return
        warnings.warn(
            "a reply was never closed: use `async with chain.stream(...)`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        if self._call is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_close_orphan, self)


_YIELDED_TWICE = RuntimeError("the middleware yielded twice; it must yield exactly one reply")


class _Iterated:
    """A source over any async iterator of events."""

    __slots__ = ("_events",)

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events

    async def read(self) -> Sequence[Event]:
        try:
            return (await self._events.__anext__(),)
        except StopAsyncIteration:
            return ()

    async def aclose(self) -> None:
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()


def _close_orphan(reply: Reply) -> None:
    _ = reply._runtime().spawn(reply.aclose(), "closing a reply that nobody closed")


def _through(stage: Stage, completion: Completion) -> Completion:
    """A whole completion through a stage; what no event carries is kept."""
    events = [later for event in unfold(completion) for later in stage.feed(event)]
    events.extend(stage.flush())
    return evolve(fold(events), charge=completion.charge, warnings=completion.warnings)
