"""The pump of a streamed reply: from its source, through its stages, to its consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from llmpipe.errors import LLMError, StreamBroken
from llmpipe.pipeline.watch import Watch
from llmpipe.runtime import Alarm
from llmpipe.types import Completion, Event, Finish, fold, is_content

__all__ = ("Pump", "Source", "Stage")

_DRAIN_SECONDS = 1.0  # for the usage that follows the last content of an OpenAI stream


class Stage(Protocol):
    """One transform of a reply, the same for whole and chunked text.

    A stage that holds text back gives it out before it passes `Finish` on, and from `flush`.
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


Mark = tuple[int, int]
"""A place in a pump: how many stages and how many amendments lie below it."""


class Pump:
    """Reads batches of events, runs them through a flat list of stages, and notes what passed.

    One batch is one read of the source, so a burst costs one pass through the stages, not one
    coroutine for each event and stage.
    """

    __slots__ = (
        "_first",
        "_interruption",
        "_mark",
        "_tapes",
        "exhausted",
        "amends",
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
        self.exhausted = False  # the source has come to its own end
        self.watch: Watch | None = None
        self.reader: asyncio.Task[object] | None = None
        self._first: Sequence[Event] | None = first
        self._tapes: dict[int, list[Event]] = {0: []}
        self._mark: Mark = (0, 0)
        self._interruption: LLMError | None = None

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
        completion = fold(self._tapes[depth])
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
                self.exhausted = True
                self.ready.extend(self._flush())
                return False
        self.ready.extend(self._run(batch))
        return True

    async def _read(self) -> Sequence[Event]:
        if self.reader is not None:
            raise RuntimeError("a reply has one consumer; a second task is reading it")
        watch = self.watch
        task = asyncio.current_task()
        assert task is not None
        self.reader, cancelling = task, task.cancelling()
        batch: Sequence[Event] = ()
        if watch is not None:
            watch.begin()
        try:
            batch = await self.source.read()
        except asyncio.CancelledError:
            if self._interruption is not None and task.uncancel() <= cancelling:
                raise self._interruption from None
            raise
        finally:
            self.reader = None
            if watch is not None:
                watch.end(any(map(is_content, batch)))
        return batch

    def interrupt(self, error: LLMError) -> None:
        """End the read that is under way with `error`."""
        if self.reader is not None and self._interruption is None:
            self._interruption = error
            self.reader.cancel()

    def _run(self, batch: Sequence[Event]) -> Sequence[Event]:
        """A batch through the stages, noting at each depth where somebody will ask what passed."""
        tapes = self._tapes
        tapes[0].extend(batch)
        for depth, stage in enumerate(self.stages, 1):
            feed = stage.feed
            batch = [later for event in batch for later in feed(event)]
            if depth in tapes:
                tapes[depth].extend(batch)
        return batch

    def _flush(self) -> Sequence[Event]:
        """What the stages still hold, at the end. Raises StreamBroken if the source never finished."""
        if not self.finished():
            raise StreamBroken("the stream ended without a finish", phase="stream")
        batch: list[Event] = []
        for depth, stage in enumerate(self.stages, 1):
            batch = [later for event in batch for later in stage.feed(event)]
            batch.extend(stage.flush())
            if depth in self._tapes:
                self._tapes[depth].extend(batch)
        return batch

    def finished(self) -> bool:
        """Whether the source has said that the model is done."""
        return any(type(event) is Finish for event in reversed(self._tapes[0]))

    def delivered(self) -> bool:
        """Whether the consumer has had all content, the finish included."""
        return not any(map(is_content, self.ready)) and self.finished()

    async def drain(self) -> None:
        """Read what follows the last content, so that the usage is known; give up after a second."""
        try:
            with Alarm(asyncio.get_running_loop().time() + _DRAIN_SECONDS, TimeoutError):
                while batch := await self._read():
                    self._run(batch)
            self.exhausted = True
        except (LLMError, TimeoutError):
            pass  # all content was delivered: the usage is estimated, the call stays a success
