"""The pump of a streamed reply: from its source, through its stages, to its consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol, cast, runtime_checkable

from attrs import evolve

from llmpipe.errors import LLMError, StreamBroken
from llmpipe.pipeline.outcome import Status
from llmpipe.pipeline.watch import Watch
from llmpipe.runtime import Alarm
from llmpipe.types import Completion, Event, Finish, fold, is_content, unfold

__all__ = ("Iterated", "Pump", "Relaying", "Source", "Stage", "through")

_DRAIN_SECONDS = 1.0  # for the usage that follows the last content of an OpenAI stream


class Stage(Protocol):
    """One transform of a reply, the same for whole and chunked text.

    A stage that holds text back gives it out before it passes `Finish` on, and from `flush`. One that changes
    nothing may have ``see(events)`` too: in a stream it is shown there what came together, in one go.
    """

    def feed(self, event: Event) -> Iterable[Event]:
        """What becomes of `event`: nothing, itself, or others."""
        ...

    def flush(self) -> Iterable[Event]:
        """What was still held back, at the end of the stream."""
        ...


@runtime_checkable
class Source(Protocol):
    """Where a streamed reply's events come from. No scope or lock is held between reads."""

    async def read(self) -> Sequence[Event]:
        """The next events, at least one; empty at the protocol's own end. Raises LLMError."""
        ...

    async def aclose(self) -> None:
        """Give the connection back, or up. May be called at any time, more than once."""
        ...


class Relaying(Source, Protocol):
    """A source that reads another reply: what ends one of the two ends the other, and in the same way.

    `llmpipe.pipeline.relay.Relay` is one. It has ``relays = True``, which is how a pump knows it.
    """

    def interrupt(self, error: LLMError) -> bool:
        """End the read of the other reply that is under way with `error`; whether there was one."""
        ...

    async def drain(self) -> Sequence[Event]:
        """End the other reply, all content of which was delivered; what came of it after that."""
        ...

    async def end(self, status: Status) -> None:
        """Close the other reply, which has ended so."""
        ...


_NOTHING = -1, Completion()

Mark = tuple[int, int]
"""A place in a pump: how many stages and how many amendments lie below it."""


class Pump:
    """Reads batches of events, runs them through a flat list of stages, and notes what passed.

    One batch is one read of the source, so a burst costs one pass through the stages, not one
    coroutine for each event and stage.
    """

    __slots__ = (
        "_first",
        "_folded",
        "_interruption",
        "_mark",
        "_tapes",
        "amends",
        "draining",
        "exhausted",
        "reader",
        "ready",
        "source",
        "stages",
        "watch",
    )

    def __init__(self, source: Source, first: Sequence[Event]) -> None:
        self.source = source
        self.stages: list[Stage] = []
        self.amends: list[Callable[[Completion], Completion]] = []
        self.ready: deque[Event] = deque()
        self.draining = False  # somebody closes it, and reads what follows the last content
        self.exhausted = False  # the source has come to its own end
        self.watch: Watch | None = None
        self.reader: asyncio.Task[object] | None = None
        self._first: Sequence[Event] | None = first
        self._tapes: dict[int, list[Event]] = {0: [*first]}
        self._folded: dict[int, tuple[int, Completion]] = {}
        self._mark: Mark = (0, 0)
        self._interruption: LLMError | None = None

    @property
    def relay(self) -> Relaying | None:
        """The source, if it reads another reply."""
        return cast("Relaying", self.source) if getattr(self.source, "relays", False) else None

    def add(self, stage: Stage) -> None:
        """Put `stage` above those there are. Raises RuntimeError when reading has begun."""
        if self._first is None:
            raise RuntimeError("a reply that is being read takes no further stages")
        self.stages.append(stage)

    def mark(self) -> Mark:
        """The place above all stages and amendments so far; what passes it from now on is noted."""
        here = (len(self.stages), len(self.amends))
        if here != self._mark:
            self._mark = here
            self._tapes.setdefault(here[0], [])
        return self._mark  # the same object for the same place, so that `is` compares

    def completion(self, mark: Mark) -> Completion:
        """What has passed at `mark` so far, folded."""
        depth, amends = mark
        tape = self._tapes[depth]
        while depth and hasattr(self.stages[depth - 1], "see"):
            below = self._tapes.get(depth - 1, ())
            if len(below) != len(tape):  # it raised, so that not all has passed it
                break
            depth -= 1  # what passed it is what passed below, and may be folded already
        length, completion = self._folded.get(depth, _NOTHING)
        if length != len(tape):  # several will ask at the end, and it is the same for all of one depth
            completion = fold(tape)
            self._folded[depth] = len(tape), completion
        for change in self.amends[:amends]:
            completion = change(completion)
        return completion

    async def advance(self) -> bool:
        """Make events ready; False at the end. Raises what the source or a stage raises."""
        if self._first is not None:
            batch, self._first = self._first, None
            self.mark()
        else:
            batch = await self._read()
            if not batch:
                self.ready.extend(self._flush())
                return False
        self.ready.extend(self._run(batch))
        return True

    async def _read(self) -> Sequence[Event]:
        """One read of the source, which may be interrupted; what came is noted."""
        task = asyncio.current_task()
        assert task is not None
        self.reader, cancelling = task, task.cancelling()
        batch: Sequence[Event] = ()
        if self.watch is not None:
            self.watch.begin()
        try:
            batch = await self.source.read()
        except BaseException as error:  # goes on, unless it is our own interruption
            if self._interruption is None:
                raise
            if task.uncancel() > cancelling and isinstance(error, asyncio.CancelledError):
                raise
            raise self._interruption from None
        finally:
            self.reader = None
            if self.watch is not None:  # asked anew: it may have been set meanwhile
                self.watch.end(any(map(is_content, batch)))
        if self._interruption is not None:  # the source has swallowed it
            task.uncancel()
            raise self._interruption
        if batch:
            self._tapes[0].extend(batch)
        else:
            self.exhausted = True
        return batch

    def interrupt(self, error: LLMError) -> bool:
        """End the read that is under way with `error`; whether there was one."""
        if self.reader is None:
            return False
        relay = self.relay
        if self._interruption is None and (relay is None or not relay.interrupt(error)):
            self._interruption = error
            self.reader.cancel()
        return True

    def _run(self, batch: Sequence[Event]) -> Sequence[Event]:
        """A batch through the stages, noting at each depth where somebody will ask what passed."""
        tapes = self._tapes
        for depth, stage in enumerate(self.stages, 1):
            batch = _fed(stage, batch)
            if depth in tapes:
                tapes[depth].extend(batch)
        return batch

    def _flush(self) -> Sequence[Event]:
        """What the stages still hold, at the end. Raises StreamBroken if the source never finished."""
        if not any(type(event) is Finish for event in reversed(self._tapes[0])):
            raise StreamBroken("the stream ended without a finish", phase="stream")
        batch: Sequence[Event] = ()
        for depth, stage in enumerate(self.stages, 1):
            batch = [*_fed(stage, batch), *stage.flush()]
            if depth in self._tapes:
                self._tapes[depth].extend(batch)
        return batch

    def passed(self) -> Sequence[Event]:
        """All that has passed the topmost place where it is noted. Grows under way."""
        return self._tapes[self._mark[0]]

    def delivered(self) -> bool:
        """Whether the consumer has had all content, the finish included."""
        return (
            self._first is None
            and not any(map(is_content, self.ready))
            and any(type(event) is Finish for event in reversed(self.passed()))
        )

    async def drain(self) -> None:
        """Read what follows the last content, so that the usage is known; give up after a second."""
        relay, self.draining = self.relay, True
        try:
            if relay is not None:  # which gives up by itself
                batch = await relay.drain()
                self.exhausted = True
                self._tapes[0].extend(batch)
                self._run(batch)
            else:
                with Alarm(asyncio.get_running_loop().time() + _DRAIN_SECONDS, TimeoutError):
                    while batch := await self._read():
                        self._run(batch)
            self._flush()
        except (LLMError, TimeoutError):
            pass  # all content was delivered: the usage is estimated, the call stays a success
        finally:
            self.draining = False


def _fed(stage: Stage, batch: Sequence[Event]) -> Sequence[Event]:
    """What `stage` makes of `batch`."""
    see = getattr(stage, "see", None)
    if see is not None:
        if batch:
            see(batch)
        return batch
    feed = stage.feed
    return [later for event in batch for later in feed(event)]


class Iterated:
    """A source over any async iterator of events."""

    __slots__ = ("_events",)

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events

    async def read(self) -> Sequence[Event]:
        """The next event; empty where the iterator ends."""
        try:
            return (await self._events.__anext__(),)
        except StopAsyncIteration:
            return ()

    async def aclose(self) -> None:
        """Close the iterator, if it can be."""
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()


def through(stage: Stage, completion: Completion) -> Completion:
    """A whole completion through a stage; what no event carries is kept."""
    events = [later for event in unfold(completion) for later in stage.feed(event)]
    events.extend(stage.flush())
    return evolve(fold(events), charge=completion.charge, warnings=completion.warnings)
