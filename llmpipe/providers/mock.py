"""A provider that says what it is told to: for tests, demonstrations and work without a key."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from copy import copy
from decimal import Decimal
from typing import Any, TypeAlias, get_args

from attrs import evolve, frozen

from llmpipe.errors import ConfigError
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.provider import Capabilities
from llmpipe.pipeline.reply import Reply
from llmpipe.tokens import estimate_request, estimate_tokens
from llmpipe.types import (
    AnyRequest,
    Completion,
    EmbeddingRequest,
    Embeddings,
    Event,
    Finish,
    Message,
    ModelInfo,
    Ranked,
    Ranking,
    Request,
    RerankRequest,
    Start,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
    fold,
    is_content,
    unfold,
)

__all__ = ("MockProvider", "Wait")


@frozen
class Wait:
    """In a script: let `seconds` pass."""

    seconds: float


Step: TypeAlias = "str | Wait | Event | BaseException"
Line: TypeAlias = (
    "str | Completion | Embeddings | Ranking | BaseException | Sequence[Step] | Callable[[AnyRequest], Line]"
)
_EVENTS = get_args(Event)


class MockProvider:
    """Answers from a script, one line for each request.

    A line is a string (the answer), a `Completion`, `Embeddings`, a `Ranking`, an exception to raise, a
    sequence of steps, or a function of the request that gives any of these. Steps are strings (pieces
    of text), `Wait`, events, and exceptions, which are raised where they stand: before the first
    content they fail the attempt, after it they break the stream. Usage and finish are added where the
    steps bring none; the usage is what `llmpipe.tokens` counts.

    Args:
        script: the lines; the last one is not repeated.
        default: the line for requests beyond the script; None makes such a request a LookupError.
        chunk_chars: a string is streamed in pieces of this many characters.

    Attributes:
        requests: every request seen, in order.
        open: replies that have begun and are not over; 0 when nothing leaks.
    """

    version = "1"
    endpoint = "mock"
    capabilities = Capabilities(embeddings=True)

    def __init__(
        self,
        script: Iterable[Line] | str = (),
        *,
        default: Line | None = None,
        name: str = "mock",
        model: str = "mock-1",
        chunk_chars: int = 8,
        usage: Usage | None = None,
    ) -> None:
        size: Any = chunk_chars  # which a chain file may give, as the script
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"chunk_chars must be a whole number, at least 1, not {chunk_chars!r}")
        if not isinstance(script, Iterable):
            raise ConfigError(f"a script is a text or a list of lines, not {script!r}")
        self.name = name
        self.model = model
        self.default = default
        self.chunk_chars = chunk_chars
        self.usage = usage
        self.requests: list[AnyRequest] = []
        self.open = 0
        self._script = iter((script,) if isinstance(script, str) else tuple(script))

    async def __call__(self, call: Call) -> Reply:
        """The next line of the script as a reply, once its first content is there."""
        request = call.request
        self.requests.append(request)
        line = next(self._script, self.default)
        while callable(line) and not isinstance(line, BaseException):
            line = line(request)
        if line is None:
            raise LookupError(
                f"the script of provider {self.name!r} has no line for request {len(self.requests)}"
            )
        if isinstance(line, BaseException):
            raise _fresh(line)
        if isinstance(line, Embeddings | Ranking):
            return Reply.of(line)
        if isinstance(request, EmbeddingRequest):
            return Reply.of(self._embeddings(request))
        if isinstance(request, RerankRequest):
            return Reply.of(self._ranking(request))
        if isinstance(line, (str, Completion)) and not request.stream:
            return Reply.of(self._completion(request, line))
        events = self._events(request, line)
        if request.stream:
            return await self._stream(events)
        return Reply.of(fold([event async for event in events]))

    async def _stream(self, events: AsyncIterator[Event]) -> Reply:
        first: list[Event] = []
        async for event in events:
            first.append(event)
            if is_content(event):
                break  # there is always one: a Finish is
        self.open += 1
        return Reply.stream(_Script(self, events), first)

    def _completion(self, request: Request, line: str | Completion) -> Completion:
        if isinstance(line, str):
            line = Completion(message=Message("assistant", line), finish_reason="stop")
        return evolve(
            line,
            id=line.id or f"mock-{len(self.requests)}",
            model=line.model or request.model or self.model,
            provider=self.name,
            usage=line.usage or self.usage or self._count(request, line),
        )

    async def _events(self, request: Request, line: Any) -> AsyncIterator[Event]:
        if isinstance(line, (str, Completion)):
            line = _cut(self._completion(request, line), self.chunk_chars)
        elif isinstance(line, (Wait, *_EVENTS)):
            line = (line,)
        seen: list[Event] = []
        for step in line:
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                continue
            if isinstance(step, BaseException):
                raise _fresh(step)
            event: Event = TextDelta(step) if isinstance(step, str) else step
            if not seen and type(event) is not Start:
                start = Start(f"mock-{len(self.requests)}", request.model or self.model, self.name)
                seen.append(start)
                yield start
            seen.append(event)
            yield event
        partial = fold(seen)
        if partial.finish_reason is None:
            yield Finish("tool_calls" if partial.tool_calls else "stop")
        if partial.usage is None:
            yield UsageUpdate(self.usage or self._count(request, partial))

    def _count(self, request: Request, done: Completion) -> Usage:
        tools = "".join(call.name + call.arguments for call in done.tool_calls)
        output = sum(estimate_tokens(text) for text in (done.text, done.reasoning, tools) if text)
        return Usage(estimate_request(request), output)

    def _embeddings(self, request: EmbeddingRequest) -> Embeddings:
        size = request.dimensions or 8
        vectors = tuple([_vector(item, size) for item in request.inputs])
        return Embeddings(
            vectors, request.model or self.model, Usage(estimate_request(request)), provider=self.name
        )

    def _ranking(self, request: RerankRequest) -> Ranking:
        """The documents by how many of the query's words they have."""
        words = set(request.query.lower().split())
        scores = [len(words.intersection(text.lower().split())) for text in request.documents]
        best = sorted(range(len(scores)), key=lambda place: -scores[place])[: request.top_n]
        results = tuple([Ranked(place, scores[place] / (len(words) or 1)) for place in best])
        return Ranking(
            results, request.model or self.model, Usage(estimate_request(request)), provider=self.name
        )

    async def get_models(self) -> tuple[ModelInfo, ...]:
        """The one model there is."""
        return (ModelInfo(self.model, "llmpipe"),)

    async def validate_api_key(self) -> bool:
        """Always: there is no key."""
        return True

    def estimate_cost(self, request: AnyRequest) -> Decimal | None:
        """Nothing: a mock is free."""
        return Decimal(0)

    async def aclose(self) -> None:
        """Nothing to close."""

    def __repr__(self) -> str:
        return f"MockProvider(name={self.name!r}, model={self.model!r})"


class _Script:
    """The rest of a scripted stream, as a source that counts itself off when it is over."""

    def __init__(self, provider: MockProvider, events: AsyncIterator[Event]) -> None:
        self._provider: MockProvider | None = provider
        self._events = events

    async def read(self) -> Sequence[Event]:
        async for event in self._events:
            return (event,)
        self._over()
        return ()

    async def aclose(self) -> None:
        self._over()
        await self._events.aclose()  # type: ignore[attr-defined]  # always an async generator

    def _over(self) -> None:
        if self._provider is not None:
            self._provider.open -= 1
            self._provider = None


def _fresh(error: BaseException) -> BaseException:
    """`error`, or a copy of one that was raised before: a call writes into its error whose it is."""
    return error if error.__traceback__ is None else copy(error)


def _vector(item: object, size: int) -> list[float]:
    """The same numbers for the same input, in every process; `hash` of a string is not."""
    return [byte / 255 for byte in hashlib.shake_128(str(item).encode()).digest(size)]


def _cut(completion: Completion, size: int) -> Iterable[Event]:
    """The events of a completion with its text, and tool arguments, in pieces of `size` characters."""
    for event in unfold(completion):
        if type(event) is TextDelta and len(event.text) > size:
            for at in range(0, len(event.text), size):
                yield TextDelta(event.text[at : at + size], event.index, event.extra if at == 0 else None)
        elif type(event) is ToolDelta and len(event.arguments) > size:
            yield evolve(event, arguments="")
            for at in range(0, len(event.arguments), size):
                yield ToolDelta(event.index, arguments=event.arguments[at : at + size])
        else:
            yield event
