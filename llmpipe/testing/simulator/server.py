"""The server: dialects' server sides over real sockets, with faults down to the byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from random import Random
from time import time
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import orjson
from aiohttp import web
from attrs import evolve, fields
from multidict import CIMultiDict

from llmpipe import dialects
from llmpipe.dialects import Dialect
from llmpipe.dialects.codes import BY_STATUS
from llmpipe.errors import (
    AuthenticationFailed,
    ConfigError,
    InvalidRequest,
    LLMError,
    ServiceUnavailable,
    UnknownError,
)
from llmpipe.testing.simulator.answers import Answer, plain_answer, ranking, vectors
from llmpipe.testing.simulator.billing import Meter
from llmpipe.testing.simulator.book import Book, Entry
from llmpipe.testing.simulator.doors import DOORS, Door, body_of, key_of, listing_dialect, open_door
from llmpipe.testing.simulator.faults import Fault, Rule, choose
from llmpipe.testing.simulator.wire import Hangup, Wire
from llmpipe.types import (
    AnyRequest,
    Completion,
    EmbeddingRequest,
    ModelInfo,
    ReasoningDelta,
    Request,
    RerankRequest,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
    is_content,
    unfold,
)

__all__ = ("Simulator",)

_PRICES = {
    "anthropic.messages": "anthropic",
    "cohere.chat": "cohere",
    "gemini.generate": "google",
    "openai.chat": "openai",
    "openai.responses": "openai",
}
_REQUEST_ID = {"anthropic.messages": "request-id"}  # the header it goes in; others' is that of OpenAI
_FOREVER = 3600.0
_NO_FAULT = Fault()
_FAULTS = tuple(a.name for a in fields(Fault))
_MODELS = (
    "gpt-4o-mini", "gpt-4o", "claude-haiku-4-5", "claude-sonnet-4-5", "gemini-2.5-flash", "command-a-03-2025",
    "text-embedding-3-small",
)  # fmt: skip


class Simulator:
    """A provider on a loopback port, speaking every dialect that has a server side.

    Args:
        rules: what goes wrong and when; the first that matches a request decides.
        answer: from a request to a completion.
        keys: API keys it accepts; None accepts any, and none.
        prices: name of the provider whose prices it bills by, for each dialect's path.
        chunk_chars: characters of text in one stream event.
        seed: of the rules' chances.
        port: 0 for any free one.
        wall: seconds since the epoch; when its book says that requests came.

    Attributes: `book`, its own accounts; `rules`, which may be replaced while it runs.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        answer: Answer = plain_answer,
        keys: Collection[str] | None = None,
        prices: Mapping[str, str] | None = None,
        chunk_chars: int = 12,
        seed: int = 0,
        port: int = 0,
        wall: Callable[[], float] = time,
    ) -> None:
        if chunk_chars < 1:
            raise ConfigError(f"chunk_chars must be at least 1, not {chunk_chars}")
        self.rules = tuple(rules)
        self.answer = answer
        self.keys = keys
        self.book = Book()
        self._meter = Meter(prices or _PRICES)
        self._chunk_chars = chunk_chars
        self._seen: WeakSet[asyncio.BaseTransport] = WeakSet()
        self._random = Random(seed)  # noqa: S311  chances of faults, nothing secret
        self._port = port
        self._wall = wall
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for path in DOORS:
            app.router.add_post(path, self._answer)
        app.router.add_get("/{at:(.*/)?}models", self._models)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=0.2, keepalive_timeout=3600
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._began = asyncio.get_running_loop().time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Scheme, host and port. Paths are as at the providers, whatever stands before them: ``/v1/…``."""
        return f"http://127.0.0.1:{self._port}"

    # ------------------------------------------------------------ requests

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        """What all requests have in common: the books, the key, the fault, and how they end."""
        entry, door = self._enter(http), Door(dialects.get("openai.chat"), "chat")
        try:
            door = open_door(http)
            entry.dialect = door.dialect.name
            self._admit(http)
            request = door.read(await body_of(http))
        except LLMError as error:
            return self._refuse(entry, door.dialect, error)
        entry.model, entry.stream = request.model, request.stream
        fault = self._fault(entry, request)
        taken = self._meter.taken(request)
        if fault.status is None and door.kind != "count":
            entry.usage = taken
        try:
            await asyncio.sleep(_FOREVER if fault.silent else fault.headers_delay)
            if fault.status is not None:
                return self._refuse(entry, door.dialect, error_of(fault.status), fault, taken)
            wire = Wire(http, fault, {_REQUEST_ID.get(door.dialect.name, "x-request-id"): entry.request_id})
            if isinstance(request, Request) and door.kind == "chat":
                return await self._reply(door.dialect, request, entry, fault, wire)
            body, usage = self._other(door, request, taken)
            return await self._whole(door.dialect, entry, fault, wire, body, usage)
        except (Hangup, ConnectionError) as error:
            entry.end = "broken" if isinstance(error, Hangup) else "aborted"
            return web.Response()  # never sent: the connection is gone
        except asyncio.CancelledError:
            entry.end = "aborted" if entry.end == "open" else entry.end
            raise
        finally:
            self._meter.bill(entry)

    def _fault(self, entry: Entry, request: Any) -> Fault:
        seconds = asyncio.get_running_loop().time() - self._began
        fault = choose(self.rules, entry.number, seconds, request, self._random)
        if fault is None:
            return Fault()
        entry.fault = ", ".join(name for name in _FAULTS if getattr(fault, name) != getattr(_NO_FAULT, name))
        return fault

    async def _reply(
        self, dialect: Dialect, request: Request, entry: Entry, fault: Fault, wire: Wire
    ) -> web.StreamResponse:
        done = self._complete(request, entry)
        if request.stream:
            return await self._stream(dialect, request, done, entry, fault, wire)
        return await self._whole(dialect, entry, fault, wire, dialect.encode_reply(done), done.usage)

    @staticmethod
    def _other(door: Door, request: AnyRequest, taken: Usage) -> tuple[dict[str, Any], Usage | None]:
        """The reply to what is no chat, and what it used."""
        if isinstance(request, EmbeddingRequest):
            found = evolve(vectors(request, request.model), usage=taken)
            return door.dialect.encode_embeddings(found, request), taken
        if isinstance(request, RerankRequest):
            ranked = evolve(ranking(request, request.model), usage=taken)
            return door.dialect.encode_ranking(ranked, request), taken
        return door.counted(taken.input_tokens), None

    async def _whole(  # noqa: PLR0917  one row of the table above
        self, dialect: Dialect, entry: Entry, fault: Fault, wire: Wire, body: Any, usage: Usage | None
    ) -> web.StreamResponse:
        """A full reply, billed when the last byte of it is out."""
        await asyncio.sleep(fault.first_delay)
        entry.status = 200
        if fault.error_body:
            entry.end, entry.usage, usage = "refused", None, None
            body = dialect.encode_error(error_of(529))[2]
        response = await wire.send(orjson.dumps(body), fault.headers)
        if entry.end == "open":
            entry.end, entry.usage = "ok", usage
        return response

    def _complete(self, request: Request, entry: Entry) -> Completion:
        """What the model says, with the id, model and usage that are the simulator's to give."""
        done = self.answer(request)
        return evolve(
            done,
            id=done.id or f"sim-{entry.number}",
            model=done.model or request.model,
            created=done.created or 1_700_000_000,
            usage=done.usage or self._meter.whole(request, done),
        )

    async def _stream(  # noqa: PLR0917  as above
        self, dialect: Dialect, request: Request, done: Completion, entry: Entry, fault: Fault, wire: Wire
    ) -> web.StreamResponse:
        encoder = dialect.encoder(request)
        tally = self._meter.tally(request, entry, dialect)
        wire.sent = tally.add
        entry.status = 200
        response = await wire.start(fault.headers, "text/event-stream")
        began = False
        for count, event in enumerate(pieces(done, self._chunk_chars)):
            if is_content(event) and not began:
                began = True
                await asyncio.sleep(fault.first_delay)
            elif fault.between_delay:
                await asyncio.sleep(fault.between_delay)
            if await self._misbehave(count, encoder, fault, wire):
                entry.end = "broken"
                await wire.end()
                return response
            await wire.write(encoder.feed(event))
            if count == 0:  # Anthropic's streams tell the input at the start, and one token of output
                await wire.write(encoder.feed(UsageUpdate(Usage(tally.input_tokens, 1))))
        if fault.unfinished:
            entry.end = "broken"
        else:
            await wire.write(encoder.close())
            entry.end, entry.usage = "ok", done.usage
        await wire.end()
        return response

    async def _misbehave(self, count: int, encoder: Any, fault: Fault, wire: Wire) -> bool:
        """What is to happen before event `count`; whether it ends the stream."""
        if count == fault.cut_after:
            wire.hang_up(reset=False)
        if count == fault.reset_after:
            wire.hang_up(reset=True)
        if count == fault.malformed_after:
            await wire.write(b"data: {this is not JSON\n\n")
            return True
        if count == fault.error_after:
            await wire.write(encoder.fail(error_of(529)))
            return True
        return False

    async def _models(self, http: web.Request) -> web.StreamResponse:
        dialect = listing_dialect(http)
        try:
            self._admit(http)
        except LLMError as error:
            return self._refuse(self._enter(http), dialect, error)
        listed = tuple(ModelInfo(model, "simulator", 1_700_000_000) for model in _MODELS)
        return web.json_response(body=orjson.dumps(dialect.encode_models(listed)))

    # ------------------------------------------------------------ the desk

    def _enter(self, http: web.Request) -> Entry:
        number = len(self.book.entries) + 1
        entry = Entry(number, http.path, at=self._wall(), request_id=f"req-sim-{number}")
        self.book.entries.append(entry)
        if http.transport is not None and http.transport not in self._seen:
            self._seen.add(http.transport)
            self.book.connections += 1
        return entry

    def _admit(self, http: web.Request) -> None:
        if self.keys is not None and key_of(http) not in self.keys:
            raise AuthenticationFailed("the API key is not valid", code="invalid_api_key")

    def _refuse(
        self,
        entry: Entry,
        dialect: Dialect,
        error: LLMError,
        fault: Fault | None = None,
        taken: Usage | None = None,
    ) -> web.Response:
        """The dialect's own error, or what the script says in its place.

        Its bill is what a client has to fear: nothing, or with some statuses the input, `taken`.
        """
        status, own, told = dialect.encode_error(error)
        headers, body = CIMultiDict(own), orjson.dumps(told)
        if fault is not None:
            status = fault.status or status
            headers.update(fault.headers)
            body = body if fault.body is None else fault.body
        headers.setdefault("Content-Type", "application/json")
        headers.setdefault(_REQUEST_ID.get(dialect.name, "x-request-id"), entry.request_id)
        entry.status, entry.end = status, "refused"
        if dialect.decode_error(status, headers, body).billed != "no":
            entry.usage = taken
        return web.Response(status=status, headers=headers, body=body)


def error_of(status: int) -> LLMError:
    """An error that a provider would answer with this status."""
    kind: type[LLMError] | None = BY_STATUS.get(status)
    if kind is None:
        kind = ServiceUnavailable if status >= 500 else InvalidRequest if status >= 400 else UnknownError
    return kind(f"simulated {status}", status=status)


def pieces(done: Completion, chars: int) -> Iterable[Any]:
    """The events of a completion, texts and tool arguments in pieces of `chars` characters."""
    for event in unfold(done):
        if isinstance(event, TextDelta) and len(event.text) > chars:
            for at in range(0, len(event.text), chars):
                yield TextDelta(event.text[at : at + chars], event.index)
        elif isinstance(event, ReasoningDelta) and len(event.text) > chars:
            for at in range(0, len(event.text), chars):
                extra = None if at else event.extra
                yield ReasoningDelta(
                    event.text[at : at + chars], event.index, extra=extra, origin=event.origin
                )
            if event.signature is not None or event.encrypted is not None:  # what proves it comes after it
                yield evolve(event, text="", extra=None)
        elif isinstance(event, ToolDelta) and len(event.arguments) > chars:
            yield evolve(event, arguments="")
            for at in range(0, len(event.arguments), chars):
                yield ToolDelta(event.index, arguments=event.arguments[at : at + chars])
        else:
            yield event
