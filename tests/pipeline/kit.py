"""What the tests of the pipeline share: a runtime that remembers, and small middlewares."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.types import Event, Finish, TextDelta


class Boom(Exception):
    """An error the pipeline has never heard of."""


class Remembering(Runtime):
    """A runtime that keeps what is reported to it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(seed=1, **options)
        self.reports: list[tuple[str, BaseException]] = []

    def report(self, what: str, error: BaseException) -> None:
        self.reports.append((what, error))


class Ends(list[tuple[str, Outcome]]):
    """The outcomes that yielding middlewares were resumed with, in order."""

    def yielder(self, name: str = "yielder", priority: int = 500, *, waits: float | None = None) -> Any:
        """A middleware that writes down its outcome, after `waits` seconds if given."""
        ends = self

        if waits is None:

            @layer(priority=priority, name=name)
            async def at_once(call: Call, call_next: Handler) -> Any:
                outcome = yield await call_next(call)
                ends.append((name, outcome))

            return at_once

        @layer(priority=priority, name=name)
        async def later(call: Call, call_next: Handler) -> Any:
            outcome = yield await call_next(call)
            await asyncio.sleep(waits)
            ends.append((name, outcome))

        return later

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self]

    @property
    def statuses(self) -> list[str]:
        return [outcome.status for _, outcome in self]


class Feed:
    """A source that gives what it is told to; a float is seconds, a callable is called.

    `closed` counts calls of aclose.
    """

    def __init__(
        self, *steps: Any, close_seconds: float = 0.0, close_error: BaseException | None = None
    ) -> None:
        self.steps = list(steps)
        self.closed = 0
        self.close_seconds = close_seconds
        self.close_error = close_error

    async def read(self) -> Sequence[Event]:
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, BaseException):
                raise step
            elif callable(step):
                step()
            elif isinstance(step, str):
                return (TextDelta(step),)
            elif isinstance(step, tuple):
                return step
            else:
                return (step,)
        return ()

    async def aclose(self) -> None:
        self.closed += 1
        if self.close_seconds:
            await asyncio.sleep(self.close_seconds)
        if self.close_error is not None:
            raise self.close_error


def streaming(feed: Feed, first: Sequence[Event] = ()) -> MockProvider:
    """A provider whose one answer is `feed`."""

    class Fed(MockProvider):
        async def __call__(self, call: Call) -> Reply:
            self.requests.append(call.request)
            return Reply.stream(feed, first)

    return Fed()


STOP = Finish("stop")


async def texts(events: AsyncIterator[Event]) -> str:
    return "".join([event.text async for event in events if isinstance(event, TextDelta)])


def chain(provider: Any, *layers: Any, runtime: Runtime | None = None) -> Chain:
    return Chain(provider, *layers, runtime=runtime or Remembering())


async def turns(count: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)


def plain(priority: int, name: str) -> Callable[[Any], Any]:
    return layer(priority=priority, name=name)
