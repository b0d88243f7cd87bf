"""A provider over HTTP: a dialect, an endpoint, a key and a profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast

import orjson
from attrs import evolve

from llmpipe import dialects
from llmpipe.dialects import Dialect
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import excerpt, parse_object
from llmpipe.dialects.losses import Losses
from llmpipe.errors import (
    AuthenticationFailed,
    BadReply,
    ConfigError,
    InvalidRequest,
    LLMError,
    PermissionDenied,
    Unsupported,
)
from llmpipe.middleware.credentials import Credentials, Keys
from llmpipe.pipeline.asked import asked_of, field_of
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.provider import Capabilities
from llmpipe.pipeline.reply import Reply
from llmpipe.pricing import worst_case_cost
from llmpipe.providers.auth import Auth
from llmpipe.providers.endpoint import APIKey, Endpoint
from llmpipe.providers.options import check_types, speaking
from llmpipe.providers.profile import Profile
from llmpipe.providers.source import EventSource
from llmpipe.secret import scrub
from llmpipe.types import (
    AnyRequest,
    EmbeddingRequest,
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

_Done = TypeVar("_Done")
_Decode: TypeAlias = Callable[[dict[str, Any], Mapping[str, str]], _Done]
# What of a chat a provider either has or cannot do. JSON that it lacks is emulated by its dialect, and a
# stream is made of the whole reply.
_CHECKED = ("tools", "vision", "documents", "audio", "reasoning")


class HTTPProvider:
    """Sends each call once, in its dialect, and never retries.

    Args:
        profile: the provider's data.
        api_key: kept as a `Secret`, sent in a header and never elsewhere; or several, see `Keys`; or a
            function that gives it, such as `KeyVault.source` makes.
        base_url: overrides the profile's; the host is never the caller's choice.
        model: for requests that name none.
        wire: ``"auto"`` asks for a stream only when the caller wants one; ``"stream"`` always.
        headers: sent with every request, over the profile's.
        dialect: the name of another dialect that the provider speaks; or a dialect, with quirks of one's own.
        transport: keywords of `Transport`.
        auth: takes the place of the key.
        capabilities: what it can do with every model, where that is not what the profile says.
        on_loss: what of a request the wire cannot say and could leave out is, by default, left out with a
            warning on the reply (``"warn"``); ``"refuse"`` makes it an error before anything is sent.

    Raises: ConfigError for a missing key, a base URL that is not plain http or https, and for settings
    of another kind than these.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        api_key: APIKey | None = None,
        base_url: str | None = None,
        model: str = "",
        name: str | None = None,
        wire: Literal["auto", "stream"] = "auto",
        headers: Mapping[str, str] | None = None,
        dialect: Dialect | str | None = None,
        transport: Mapping[str, Any] | None = None,
        auth: Auth | None = None,
        capabilities: Capabilities | None = None,
        on_loss: Literal["warn", "refuse"] = "warn",
    ) -> None:
        check_types(
            {"model": model, "name": name or ""},
            {"headers": headers or {}, "transport": transport or {}},
        )
        if isinstance(dialect, str):
            profile, dialect = speaking(profile, dialect), None
        if dialect is not None and not hasattr(dialect, "encode_request"):
            raise ConfigError(f"dialect must be a dialect, such as OpenAIChat(), not {dialect!r}")
        if wire not in ("auto", "stream"):
            raise ConfigError(f"wire must be 'auto' or 'stream', not {wire!r}")
        if on_loss not in ("warn", "refuse"):
            raise ConfigError(f"on_loss must be 'warn' or 'refuse', not {on_loss!r}")
        self.profile = profile = evolve(profile, base_url=base_url) if base_url is not None else profile
        self.name = name or profile.name
        self.sold_as = profile.prices
        self.version = profile.version
        self.model = model
        self.wire = wire
        self.capabilities: Capabilities = capabilities or profile.capabilities
        self._told_capabilities = capabilities is not None
        self._lacks = frozenset(name for name in _CHECKED if not getattr(self.capabilities, name))
        self.on_loss = on_loss
        self.dialect = dialect or evolve(cast(Any, dialects.get(profile.dialect)), **profile.quirks)
        self._encode = _telling(self.dialect.encode_request)
        self._at = Endpoint(profile, api_key, auth, headers or {}, transport or {})
        # Where it is the same for all chats, the route is made once.
        self._chat_route = None if profile.stream_path else self._at.always(profile.chat_path)

    @property
    def endpoint(self) -> str:
        """Host, and the port unless it is 443."""
        return self._at.host

    @property
    def keys(self) -> Keys | None:
        """The keys, where there are several."""
        return self._at.keys

    def capabilities_of(self, model: str) -> Capabilities:
        """`capabilities`, as far as `model` is known to have them; all of those that were passed in."""
        return self.capabilities if self._told_capabilities else self.profile.capabilities_of(model)

    def brings(self) -> tuple[Any, ...]:
        """The middlewares a chain needs round this provider: `Credentials` where it has several keys."""
        return () if self.keys is None else (Credentials(),)

    # ------------------------------------------------------------ calls

    async def __call__(self, call: Call) -> Reply:
        """One exchange. Returns when the first content is in hand; raises LLMError."""
        request = call.request
        try:
            if self._lacks and (missing := self._lacks & asked_of(request)):
                raise self._unable(request, min(missing))
            if isinstance(request, Request):
                return await self._chat(call, request)
            if isinstance(request, EmbeddingRequest):
                return await self._other(
                    call, self.profile.embeddings_path, "encode_embedding_request", "decode_embeddings"
                )
            return await self._other(
                call, self.profile.rerank_path, "encode_rerank_request", "decode_ranking"
            )
        except LLMError as error:
            error.model = error.model or request.model or self.model
            raise self._signed(error)  # noqa: B904  it is the same error

    def _unable(self, request: AnyRequest, capability: str) -> Unsupported:
        what, where = capability.replace("_", " "), field_of(request, capability)
        return Unsupported(
            f"provider {self.name!r} has no {what}, which {where} asks for",
            code="unsupported_capability",
            phase="validate",
            metadata={"capability": capability},
        )

    async def _chat(self, call: Call, request: Request) -> Reply:
        if not request.model:
            request = replace(request, model=self._default_model())
        stream = (request.stream or self.wire == "stream") and self.capabilities.streaming
        if stream is not request.stream:
            request = replace(request, stream=stream)
        profile, losses = self.profile, Losses()
        body = self._encode(request, losses)
        warnings = self._told(losses)
        if profile.body or profile.without:
            body = {**{name: body[name] for name in body if name not in profile.without}, **profile.body}
        data = _encoded(body)
        if self._chat_route is not None:
            exchange = await self._at.transport.send(self._chat_route, data, call.connect_timeout)
        else:
            path = (profile.stream_path if stream else "") or profile.chat_path
            exchange = await self._at.send("POST", path, model=request.model, body=data, call=call)
        try:
            if exchange.status != 200:
                raise await self._refused(exchange)
            if not stream or exchange.content_type == "application/json":
                done = await self._read(exchange, self.dialect.decode_reply)
                if not done.model:  # Bedrock's replies do not say
                    object.__setattr__(done, "model", request.model)
                reply = Reply.of(done)
            else:
                reply = await self._stream(exchange, request.model)
        except BaseException:  # cancelled or failed: goes on when the connection is given up
            exchange.drop()
            raise
        if warnings:
            reply.amend(partial(_warned, warnings))
        return reply

    def _told(self, losses: Losses) -> tuple[str, ...]:
        """The warnings of `losses`. Raises: Unsupported for such where they are to be refused."""
        if not losses:
            return ()
        if self.on_loss == "refuse":
            raise Unsupported("; ".join(losses.warnings), code="lossy", phase="validate")
        return losses.warnings

    async def _stream(self, exchange: Exchange, model: str) -> Reply:
        if exchange.content_type not in (self.profile.stream_type, ""):
            raise await self._wrong_type(exchange, f"a stream of {self.profile.stream_type}")
        source = EventSource(exchange, self.dialect.decoder(exchange.content_type), self._signed)
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
                first[place] = replace(
                    event,
                    model=event.model or model,
                    provider=self.name,
                    headers=found,
                    request_id=ident,
                )
                break
        else:
            ident = request_id_in(found)
            start = Start("", model, self.name, None, ident, found, dialect=self.dialect.name)
            first.insert(0, start)
        return Reply.stream(source, first)

    async def _other(self, call: Call, path: str, encode: str, decode: str) -> Reply:
        """A call that is no chat, by the dialect's methods of those names."""
        request = call.request
        what = "embeddings" if isinstance(request, EmbeddingRequest) else "reranking"
        if not path or not hasattr(self.dialect, encode):
            raise Unsupported(f"provider {self.name!r} has no {what}")
        if not request.model:
            request = replace(request, model=self._default_model())
        losses = Losses()
        body = _encoded(_telling(getattr(self.dialect, encode))(request, losses))
        warnings = self._told(losses)
        decoded = getattr(self.dialect, decode)
        done: Any = await self._fetch(decoded, path, model=request.model, body=body, call=call)
        return Reply.of(_warned(warnings, done))

    # ------------------------------------------------------------ beside the calls

    async def count_tokens(self, prompt: Request | str) -> int:
        """Input tokens of a request, as the provider counts them.

        Raises: Unsupported where it does not; LLMError.
        """
        request = prompt if isinstance(prompt, Request) else Request(messages=prompt)
        encode, decode = (
            getattr(self.dialect, name, None) for name in ("encode_count_request", "decode_count")
        )
        if not self.profile.count_path or encode is None or decode is None:
            raise Unsupported(f"provider {self.name!r} counts no tokens; llmpipe.tokens estimates them")
        try:
            if not request.model:
                request = replace(request, model=self._default_model())
            sent, path = _encoded(encode(request)), self.profile.count_path
            return await self._fetch(lambda body, _: decode(body), path, model=request.model, body=sent)
        except LLMError as error:
            raise self._signed(error)  # noqa: B904  it is the same error

    async def get_models(self) -> tuple[ModelInfo, ...]:
        """The models this key may use, as the provider lists them. Raises LLMError."""
        decode: Any = getattr(self.dialect, "decode_models", None)
        if not self.profile.models_path or decode is None:
            raise Unsupported(f"provider {self.name!r} lists no models")
        try:
            return await self._fetch(lambda body, _: decode(body), self.profile.models_path, method="GET")
        except LLMError as error:
            raise self._signed(error)  # noqa: B904  it is the same error

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

    # ------------------------------------------------------------ the exchange

    async def _fetch(self, decode: _Decode[_Done], path: str, *, method: str = "POST", **sent: Any) -> _Done:
        """What `decode` makes of the JSON that the provider answers with; `sent` as in `Endpoint.send`."""
        exchange = await self._at.send(method, path, **sent)
        try:
            if exchange.status != 200:
                raise await self._refused(exchange)
            return await self._read(exchange, decode)
        except BaseException:  # cancelled or failed: goes on when the connection is given up
            exchange.drop()
            raise

    async def _read(self, exchange: Exchange, decode: _Decode[_Done]) -> _Done:
        if "json" not in exchange.content_type:
            raise await self._wrong_type(exchange, "JSON")
        done = decode(parse_object(await exchange.body(), "the reply"), exchange.headers)
        if hasattr(done, "provider"):
            # Frozen, and ours alone as yet: a signed copy would cost 2 µs.
            object.__setattr__(done, "provider", self.name)
        return done

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
        self._at.hide(error)
        return error

    def _default_model(self) -> str:
        if not self.model:
            raise Unsupported(
                f"the request names no model and provider {self.name!r} has no default; "
                f"pass model=… to the call or to the provider",
                rescue="none",
            )
        return self.model

    @property
    def connections_in_use(self) -> int:
        """Connections that carry an exchange now; 0 when nothing is under way."""
        return self._at.transport.in_use

    async def aclose(self) -> None:
        """Close all connections; the next call opens new ones."""
        await self._at.aclose()

    def __repr__(self) -> str:
        return f"<provider {self.name} at {self.endpoint}, model {self.model or 'as asked'}>"


def _warned(warnings: tuple[str, ...], result: Any) -> Any:
    return replace(result, warnings=(*result.warnings, *warnings)) if warnings else result


def _telling(encode: Callable[..., dict[str, Any]]) -> Callable[[Any, Losses], dict[str, Any]]:
    """`encode` as it tells of losses, also where it is of a third party that knows none."""
    if "losses" in signature(encode).parameters:
        return encode
    return lambda request, losses: encode(request)


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:  # a lone surrogate, an integer beyond 64 bits, an object in `extra`
        problem = f"the request cannot be written as JSON: {error}"
    raise InvalidRequest(problem, sent=False, health="ignore", phase="validate")
