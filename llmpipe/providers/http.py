"""A provider over HTTP: a dialect, an endpoint, a key and a profile."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast

import orjson
from attrs import evolve

from llmpipe import dialects
from llmpipe.dialects import Dialect, StreamDecoder
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import excerpt, parse_object
from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ConfigError,
    InvalidRequest,
    LLMError,
    PermissionDenied,
    Unsupported,
)
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.provider import Capabilities
from llmpipe.pipeline.reply import Reply
from llmpipe.pricing import worst_case_cost
from llmpipe.providers.address import checked_base_url
from llmpipe.providers.profiles import Profile
from llmpipe.providers.transport import Transport
from llmpipe.secret import Secret, scrub
from llmpipe.types import (
    AnyRequest,
    Completion,
    EmbeddingRequest,
    Embeddings,
    Event,
    ModelInfo,
    Ping,
    Request,
    Start,
    is_content,
)
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.providers.exchange import Exchange

__all__ = ("HTTPProvider",)

_Done: TypeAlias = Completion | Embeddings
_CREDENTIAL = re.compile("auth|cookie|key|password|secret|token", re.IGNORECASE)  # in a header's name
_LEAST_SECRET = 6  # characters; what is shorter is no key, and would be struck out of ordinary words


class _Embedding(Protocol):
    """The embeddings half of a dialect that has one."""

    def encode_embedding_request(self, request: EmbeddingRequest) -> dict[str, Any]: ...
    def decode_embeddings(self, body: dict[str, Any], headers: Mapping[str, str]) -> Embeddings: ...


class _Models(Protocol):
    """The models half of a dialect that has one."""

    def decode_models(self, body: dict[str, Any]) -> tuple[ModelInfo, ...]: ...


class HTTPProvider:
    """Sends each call once, in its dialect, and never retries.

    Args:
        profile: the provider's data.
        api_key: kept as a `Secret`; sent in a header and never elsewhere.
        base_url: overrides the profile's; the host is never the caller's choice.
        model: for requests that name none.
        wire: ``"auto"`` asks for a stream only when the caller wants one; ``"stream"`` always.
        headers: sent with every request, over the profile's.
        dialect: overrides the profile's, with quirks of one's own.
        transport: keywords of `Transport`.

    Raises: ConfigError for a missing key, a base URL that is not plain http or https, and for settings
    of another kind than these.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        api_key: str | Secret | None = None,
        base_url: str | None = None,
        model: str = "",
        name: str | None = None,
        wire: Literal["auto", "stream"] = "auto",
        headers: Mapping[str, str] | None = None,
        dialect: Dialect | None = None,
        transport: Mapping[str, Any] | None = None,
    ) -> None:
        for setting, given in (("model", model), ("name", name or "")):
            if not isinstance(given, str):
                raise ConfigError(f"{setting} must be text, not {given!r}")
        for setting, table in (("headers", headers or {}), ("transport", transport or {})):
            if not isinstance(table, Mapping):
                raise ConfigError(
                    f"{setting} must be a mapping of names to values, not a {type(table).__name__}"
                )
        if dialect is not None and not hasattr(dialect, "encode_request"):
            raise ConfigError(f"dialect must be a dialect, such as OpenAIChat(), not {dialect!r}")
        self.profile = profile
        self.name = name or profile.name
        self.version = profile.version
        self.model = model
        self.capabilities: Capabilities = profile.capabilities
        if wire not in ("auto", "stream"):
            raise ConfigError(f"wire must be 'auto' or 'stream', not {wire!r}")
        self.wire = wire
        self.dialect = dialect or evolve(cast(Any, dialects.get(profile.dialect)), **profile.quirks)
        url, self.endpoint = checked_base_url(base_url or profile.base_url, profile.name)
        self._key = None if api_key is None else Secret(api_key)
        if self._key is None and profile.key_required:
            raise ConfigError(
                f"provider {profile.name!r} needs an API key: pass api_key=… or set {profile.key_env}"
            )
        sent = {**profile.headers, **(headers or {})}
        if self._key is not None:
            sent[profile.key_header] = profile.key_prefix + self._key.reveal()
        self._secrets = _secrets(sent, self._key)
        self._transport = Transport(url, sent, **_known(transport or {}))
        self._chat_route = self._transport.route("POST", profile.chat_path)

    async def __call__(self, call: Call) -> Reply:
        """One exchange. Returns when the first content is in hand; raises LLMError."""
        request = call.request
        try:
            if isinstance(request, Request):
                return await self._chat(call, request)
            if isinstance(request, EmbeddingRequest):
                return await self._embed(call, request)
            raise Unsupported(f"provider {self.name!r} does not take a {type(request).__name__}")
        except LLMError as error:
            error.model = error.model or request.model or self.model
            raise self._signed(error)  # noqa: B904  it is the same error

    async def _chat(self, call: Call, request: Request) -> Reply:
        if not request.model:
            request = replace(request, model=self._default_model())
        stream = request.stream or self.wire == "stream"
        if stream is not request.stream:
            request = replace(request, stream=stream)
        body = _encoded(self.dialect.encode_request(request))
        exchange = await self._transport.send(self._chat_route, body, call.connect_timeout)
        try:
            if exchange.status != 200:
                raise await self._refused(exchange)
            if not stream or exchange.content_type == "application/json":
                return await self._whole(exchange, self.dialect.decode_reply)
            return await self._stream(exchange)
        except BaseException:  # cancelled or failed: goes on when the connection is given up
            exchange.drop()
            raise

    async def _stream(self, exchange: Exchange) -> Reply:
        if exchange.content_type not in ("text/event-stream", ""):
            raise await self._wrong_type(exchange, "an event stream")
        source = _EventSource(exchange, self.dialect.decoder(exchange.content_type), self._signed)
        first: list[Event] = []
        committed = False
        while not committed and (events := await source.read()):
            committed = any(map(is_content, events))
            first += events
        if Ping in map(type, first):
            first = [event for event in first if type(event) is not Ping]
        found = headers_of_interest(exchange.headers)
        for place, event in enumerate(first):
            if type(event) is Start:
                ident = event.request_id or request_id_in(found)
                first[place] = replace(event, provider=self.name, headers=found, request_id=ident)
                break
        else:
            first.insert(0, Start(provider=self.name, headers=found, request_id=request_id_in(found)))
        return Reply.stream(source, first)

    async def _embed(self, call: Call, request: EmbeddingRequest) -> Reply:
        path = self.profile.embeddings_path
        if not path or not hasattr(self.dialect, "encode_embedding_request"):
            raise Unsupported(f"provider {self.name!r} has no embeddings")
        dialect = cast(_Embedding, self.dialect)
        if not request.model:
            request = replace(request, model=self._default_model())
        body = _encoded(dialect.encode_embedding_request(request))
        exchange = await self._transport.send(self._transport.route("POST", path), body, call.connect_timeout)
        try:
            if exchange.status != 200:
                raise await self._refused(exchange)
            return await self._whole(exchange, dialect.decode_embeddings)
        except BaseException:  # cancelled or failed: goes on when the connection is given up
            exchange.drop()
            raise

    async def _whole(
        self, exchange: Exchange, decode: Callable[[dict[str, Any], Mapping[str, str]], _Done]
    ) -> Reply:
        if "json" not in exchange.content_type:
            raise await self._wrong_type(exchange, "JSON")
        done = decode(parse_object(await exchange.body(), "the reply"), exchange.headers)
        # Frozen, and ours alone as yet: a signed copy would cost 2 µs.
        object.__setattr__(done, "provider", self.name)
        return Reply.of(done)

    async def _refused(self, exchange: Exchange) -> LLMError:
        """The error that a status other than 200 stands for."""
        return self.dialect.decode_error(exchange.status, exchange.headers, await exchange.refusal())

    async def _wrong_type(self, exchange: Exchange, expected: str) -> LLMError:
        kind = exchange.content_type or "no content type"
        said = excerpt(await exchange.refusal(), max_chars=512)
        return BadReply(
            f"expected {expected} and got {scrub(kind, max_chars=100)}: {said}",
            code="wrong_content_type",
            phase="headers",
            request_id=request_id_in(headers_of_interest(exchange.headers)),
        )

    def _signed(self, error: LLMError) -> LLMError:
        """`error` as ours: it says whose it is, and holds neither a key nor what a decoder had in hand."""
        error.provider = error.provider or self.name
        error.__cause__ = error.__context__ = None  # such as a JSONDecodeError, which has all of the body
        for secret in self._secrets:
            hide = secret.hidden_in
            error.message = hide(error.message)
            error.args = (error.message,)
            error.code = error.code and hide(error.code)
            error.request_id = error.request_id and hide(error.request_id)
            error.metadata = {
                name: hide(value) if isinstance(value, str) else value
                for name, value in error.metadata.items()
            }
        return error

    def _default_model(self) -> str:
        if not self.model:
            raise Unsupported(
                f"the request names no model and provider {self.name!r} has no default; "
                f"pass model=… to the call or to the provider",
                rescue="none",
            )
        return self.model

    async def get_models(self) -> tuple[ModelInfo, ...]:
        """The models this key may use, as the provider lists them. Raises LLMError."""
        if not self.profile.models_path or not hasattr(self.dialect, "decode_models"):
            raise Unsupported(f"provider {self.name!r} lists no models")
        try:
            body = await self._listed(self.profile.models_path)
            return cast(_Models, self.dialect).decode_models(body)
        except LLMError as error:
            raise self._signed(error)  # noqa: B904  it is the same error

    async def _listed(self, path: str) -> dict[str, Any]:
        exchange = await self._transport.send(self._transport.route("GET", path))
        try:
            if exchange.status != 200:
                raise await self._refused(exchange)
            if "json" not in exchange.content_type:
                raise await self._wrong_type(exchange, "JSON")
            return parse_object(await exchange.body(), "the list of models")
        except BaseException:  # cancelled or failed: goes on when the connection is given up
            exchange.drop()
            raise

    async def validate_api_key(self) -> bool:
        """Whether the provider accepts the key, asked at the free list of models.

        Raises: LLMError if it cannot tell.
        """
        try:
            await self.get_models()
        except PermissionDenied:
            return True  # it knows whose key this is, and that it may not list models
        except AuthenticationFailed:
            return False
        return True

    def estimate_cost(self, request: AnyRequest) -> Decimal | None:
        """USD this request costs at most; None where the price is unknown."""
        charge = worst_case_cost(self.profile.prices or self.name, request.model or self.model, request)
        return None if charge is None else charge.usd

    @property
    def connections_in_use(self) -> int:
        """Connections that carry an exchange now; 0 when nothing is under way."""
        return self._transport.in_use

    async def aclose(self) -> None:
        """Close all connections; the next call opens new ones."""
        await self._transport.aclose()

    def __repr__(self) -> str:
        return f"<provider {self.name} at {self.endpoint}, model {self.model or 'as asked'}>"


_SIGN_OF_LIFE = (Ping(),)


class _EventSource:
    """The events of one exchange, batch by batch."""

    __slots__ = ("_decoder", "_exchange", "_over", "_sign")

    def __init__(
        self, exchange: Exchange, decoder: StreamDecoder, sign: Callable[[LLMError], LLMError]
    ) -> None:
        self._exchange = exchange
        self._sign = sign
        self._decoder = decoder
        self._over = False

    async def read(self) -> Sequence[Event]:
        if self._over:
            return ()
        decoder = self._decoder
        if decoder.finished:
            self._over = True
            await self._exchange.finish()
            return ()
        try:
            decoder.feed(b"")  # raises what stood behind the events of the last read
            if data := await self._exchange.read():
                # Bytes that complete no event yet are a sign of life all the same.
                return decoder.feed(data) or _SIGN_OF_LIFE
            self._over = True
            events = decoder.close()
        except LLMError as error:
            raise self._sign(error)  # noqa: B904  it is the same error
        self._exchange.release()
        return events

    async def aclose(self) -> None:
        self._over = True
        self._exchange.drop()


def _known(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keywords of `Transport` that a user may set. Raises ConfigError for others."""
    known = [*signature(Transport).parameters][2:]
    for name in options:
        if name not in known:
            raise ConfigError(f"transport takes no {name!r}; it takes {', '.join(known)}")
    return options


def _secrets(headers: Mapping[str, str], key: Secret | None) -> tuple[Secret, ...]:
    """What no error may show: the key, and what travels in headers that are named like a credential's."""
    found = [] if key is None else [key]
    for name, value in headers.items():
        if _CREDENTIAL.search(str(name)) is None or not str(value).isascii():
            continue
        bare = str(value).strip().rpartition(" ")[2]  # without "Bearer" before it
        if len(bare) >= _LEAST_SECRET and bare.isprintable():
            found.append(Secret(bare))
    return tuple(dict.fromkeys(found))


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:  # a lone surrogate, an integer beyond 64 bits, an object in `extra`
        problem = f"the request cannot be written as JSON: {error}"
    raise InvalidRequest(problem, sent=False, health="ignore", phase="validate")
