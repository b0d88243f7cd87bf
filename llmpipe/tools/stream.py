"""A tool loop as it comes: what the model says, and which tools run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING

from llmpipe.tools.result import LoopEvent, LoopResult, StepEnd, ToolEnd, ToolStart
from llmpipe.types import Completion, TextDelta

if TYPE_CHECKING:
    from llmpipe.pipeline.chain import Chain
    from llmpipe.pipeline.reply import Reply
    from llmpipe.tools.talk import Talk

__all__ = ("LoopStream",)


class LoopStream:
    """The events of a tool loop, step after step; to be entered with ``async with``, then iterated.

    Each step gives all events of the model's reply as they come, `Start` to `Finish` (so a loop has one
    `Finish` for each step), then a `ToolStart` for each tool it asks for, and when all have run a `ToolEnd`
    for each and a `StepEnd`. The text of every step streams, for nobody knows beforehand which is the last.

    Nothing runs ahead: the model's reply is read, and the tools start, when the next event is asked for.
    Leaving the block early closes the reply, and starts nothing more.
    """

    def __init__(self, chain: Chain, talk: Talk) -> None:
        self._chain = chain
        self._talk = talk
        self._reply: Reply | None = None
        self._events: AsyncGenerator[LoopEvent, None] | None = None
        self._first: list[LoopEvent] = []

    @property
    def result(self) -> LoopResult:
        """What it has come to: at the end all of it; before, and after a failure, the steps that are done."""
        return self._talk.result()

    async def texts(self) -> AsyncIterator[str]:
        """The text of all steps, piece by piece."""
        async for event in self:
            if type(event) is TextDelta and event.text:
                yield event.text

    async def __aenter__(self) -> LoopStream:
        self._events = self._run()
        self._first.append(await anext(self._events))  # so that what fails at once fails here
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reply is not None:
            await self._reply.__aexit__(kind, error, trace)
        if self._events is not None:
            await self._events.aclose()

    def __aiter__(self) -> LoopStream:
        return self

    async def __anext__(self) -> LoopEvent:
        if self._first:
            return self._first.pop()
        if self._events is None:
            raise TypeError("a stream is entered first: async with loop.stream(...) as run")
        return await anext(self._events)

    async def _run(self) -> AsyncGenerator[LoopEvent, None]:
        talk = self._talk
        while talk.over is None:
            self._reply = reply = await self._chain(talk.next_call())
            try:
                async for event in reply:
                    yield event
            finally:
                await reply.aclose()
            done = reply.completion
            assert isinstance(done, Completion)
            calls = talk.heard(done)
            for call in calls:
                yield ToolStart(call)
            step = await talk.answer(calls)
            for run in step.runs:
                yield ToolEnd(run)
            yield StepEnd(step)
