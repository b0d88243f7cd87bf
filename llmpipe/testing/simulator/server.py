"""The server: dialects' server sides over real sockets, with faults down to the byte."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from random import Random
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web
from attrs import evolve, fields_dict

from llmpipe import dialects
from llmpipe.dialects import Dialect
from llmpipe.errors import (
    AuthenticationFailed,
    ConfigError,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    UnknownError,
)
from llmpipe.testing.simulator.answers import Answer, plain_answer, vectors
from llmpipe.testing.simulator.billing import Meter
from llmpipe.testing.simulator.book import Book, Entry
from llmpipe.testing.simulator.faults import Fault, Rule, choose
from llmpipe.testing.simulator.wire import Hangup, Wire
from llmpipe.types import (
    Completion,
    EmbeddingRequest,
    ModelInfo,
    Request,
    TextDelta,
    ToolDelta,
    is_content,
    unfold,
)

__all__ = ("Simulator",)

_PATHS = {"/v1/chat/completions": "openai.chat", "/v1/messages": "anthropic.messages"}
_MODELS = ("gpt-4o-mini", "gpt-4o", "claude-haiku-4-5", "claude-sonnet-4-5", "text-embedding-3-small")


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
    ) -> None:
        if chunk_chars < 1:
            raise ConfigError(f"chunk_chars must be at least 1, not {chunk_chars}")
        self.rules = tuple(rules)
        self.answer = answer
        self.keys = keys
        self.book = Book()
        self._meter = Meter(prices or {"openai.chat": "openai", "anthropic.messages": "anthropic"})
        self._chunk_chars = chunk_chars
        self._random = Random(seed)  # noqa: S311  chances of faults, nothing secret
        self._port = port
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for path in _PATHS:
            app.router.add_post(path, self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
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
        """Scheme, host and port; the dialects' paths begin with ``/v1``."""
        return f"http://127.0.0.1:{self._port}"

    # ------------------------------------------------------------ requests

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        dialect = dialects.get(_PATHS[http.path])
        entry = self._enter(http)
        try:
            self._admit(http)
            request = dialect.decode_request(await _body(http))
        except LLMError as error:
            return self._refuse(entry, dialect, error, {})
        entry.model, entry.stream = request.model, request.stream
        fault = self._fault(entry, request)
        try:
            return await self._reply(http, dialect, request, entry, fault)
        except (Hangup, ConnectionError):
            entry.end = "broken"
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
        entry.fault = ", ".join(name for name in fields_dict(Fault) if _is_set(fault, name))
        return fault

    async def _reply(
        self, http: web.Request, dialect: Dialect, request: Request, entry: Entry, fault: Fault
    ) -> web.StreamResponse:
        if fault.status is None:
            entry.usage = self._meter.usage(request, None)
        if fault.silent:
            await asyncio.sleep(3600)
        if fault.headers_delay:
            await asyncio.sleep(fault.headers_delay)
        if fault.status is not None:
            return self._refuse(
                entry, dialect, error_of(fault.status), fault.headers, fault.body, fault.status
            )
        done = self._complete(request, entry)
        wire = Wire(http, fault)
        if request.stream:
            return await self._stream(dialect, request, done, entry, fault, wire)
        if fault.first_delay:
            await asyncio.sleep(fault.first_delay)
        entry.status = 200
        if fault.error_body:
            entry.end, entry.usage = "refused", None
            body = dialect.encode_error(error_of(529))[2]
        else:
            body = dialect.encode_reply(done)
        response = await wire.send(orjson.dumps(body), "application/json", fault.headers)
        if entry.end == "open":
            entry.end, entry.usage = "ok", done.usage
        return response

    def _complete(self, request: Request, entry: Entry) -> Completion:
        """What the model says, with the id, model and usage that are the simulator's to give."""
        done = self.answer(request)
        return evolve(
            done,
            id=done.id or f"sim-{entry.number}",
            model=done.model or request.model,
            created=done.created or 1_700_000_000,
            usage=done.usage or self._meter.usage(request, done),
        )

    async def _stream(
        self, dialect: Dialect, request: Request, done: Completion, entry: Entry, fault: Fault, wire: Wire
    ) -> web.StreamResponse:
        encoder = dialect.encoder(request)
        tally = self._meter.tally(request, entry)
        entry.status = 200
        response = await wire.start("text/event-stream", fault.headers)
        began = False
        for count, event in enumerate(pieces(done, self._chunk_chars)):
            if is_content(event) and not began:
                began = True
                if fault.first_delay:
                    await asyncio.sleep(fault.first_delay)
            elif fault.between_delay:
                await asyncio.sleep(fault.between_delay)
            if (ended := await self._misbehave(count, encoder, fault, wire)) is not None:
                entry.end = ended
                return response
            await wire.write(encoder.feed(event))
            tally.add(event)
        if fault.unfinished:
            entry.end = "broken"
        else:
            await wire.write(encoder.close())
            entry.end, entry.usage = "ok", done.usage
        await response.write_eof()
        return response

    async def _misbehave(self, count: int, encoder: Any, fault: Fault, wire: Wire) -> str | None:
        """What is to happen before event `count`; how the stream ended, if it did."""
        if count == fault.cut_after:
            wire.hang_up(reset=False)
        if count == fault.reset_after:
            wire.hang_up(reset=True)
        if count == fault.malformed_after:
            await wire.write(b"data: {this is not JSON\n\n")
            return "broken"
        if count == fault.error_after:
            await wire.write(encoder.fail(error_of(529)))
            return "broken"
        return None

    async def _embeddings(self, http: web.Request) -> web.StreamResponse:
        dialect: Any = dialects.get("openai.chat")
        entry = self._enter(http)
        try:
            self._admit(http)
            request: EmbeddingRequest = dialect.decode_embedding_request(await _body(http))
        except LLMError as error:
            return self._refuse(entry, dialect, error, {})
        entry.model = request.model
        fault = self._fault(entry, request)
        if fault.status is not None:
            return self._refuse(
                entry, dialect, error_of(fault.status), fault.headers, fault.body, fault.status
            )
        done = evolve(vectors(request, request.model), usage=self._meter.usage(request, None))
        entry.status, entry.end, entry.usage = 200, "ok", done.usage
        self._meter.bill(entry)
        return web.json_response(body=orjson.dumps(dialect.encode_embeddings(done)))

    async def _models(self, http: web.Request) -> web.StreamResponse:
        dialect: Any = dialects.get("anthropic.messages" if "x-api-key" in http.headers else "openai.chat")
        try:
            self._admit(http)
        except LLMError as error:
            return self._refuse(self._enter(http), dialect, error, {})
        listed = tuple(ModelInfo(model, "simulator", 1_700_000_000) for model in _MODELS)
        return web.json_response(body=orjson.dumps(dialect.encode_models(listed)))

    # ------------------------------------------------------------ the desk

    def _enter(self, http: web.Request) -> Entry:
        entry = Entry(len(self.book.entries) + 1, http.path)
        self.book.entries.append(entry)
        return entry

    def _admit(self, http: web.Request) -> None:
        key = http.headers.get("x-api-key") or http.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.keys is not None and key not in self.keys:
            raise AuthenticationFailed("the API key is not valid", code="invalid_api_key")

    def _refuse(
        self,
        entry: Entry,
        dialect: Dialect,
        error: LLMError,
        headers: Mapping[str, str],
        body: bytes | None = None,
        status: int | None = None,
    ) -> web.Response:
        """The dialect's own error, or what the script says in its place."""
        usual, own, told = dialect.encode_error(error)
        entry.status, entry.end = status or usual, "refused"
        return web.Response(
            status=entry.status,
            headers={**own, **headers},
            body=orjson.dumps(told) if body is None else body,
            content_type="application/json",
        )


def error_of(status: int) -> LLMError:
    """An error that a provider would answer with this status."""
    kinds: dict[int, type[LLMError]] = {400: InvalidRequest, 401: AuthenticationFailed, 429: RateLimited}
    kind = kinds.get(
        status, Overloaded if status in (503, 529) else ServiceUnavailable if status >= 500 else UnknownError
    )
    return kind(f"simulated {status}", status=status)


def pieces(done: Completion, chars: int) -> Iterable[Any]:
    """The events of a completion, text and tool arguments in pieces of `chars` characters."""
    for event in unfold(done):
        if isinstance(event, TextDelta) and len(event.text) > chars:
            for at in range(0, len(event.text), chars):
                yield TextDelta(event.text[at : at + chars], event.index)
        elif isinstance(event, ToolDelta) and len(event.arguments) > chars:
            yield evolve(event, arguments="")
            for at in range(0, len(event.arguments), chars):
                yield ToolDelta(event.index, arguments=event.arguments[at : at + chars])
        else:
            yield event


async def _body(http: web.Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await http.read())
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    return body


def _is_set(fault: Fault, name: str) -> bool:
    return not name.startswith("_") and getattr(fault, name) not in (None, False, 0.0, {})
