"""The chain: middlewares in order round a provider, and the front door to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from math import isnan
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attrs import evolve, fields

from llmpipe.errors import ConfigError, InvalidRequest
from llmpipe.pipeline.call import AnyRequest, Attempt, Call
from llmpipe.pipeline.linker import Middleware, Ring, link
from llmpipe.pipeline.lint import Finding, lint
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Runtime
from llmpipe.types import Completion, EmbeddingRequest, Embeddings, Message, Request

if TYPE_CHECKING:
    from llmpipe.pipeline.explain import Explanation
    from llmpipe.pipeline.provider import Target

__all__ = ("Chain",)

Prompt = str | Request | Message | Mapping[str, Any] | Iterable[Any]

_REQUEST_FIELDS = frozenset(a.name for a in fields(Request))
_CALL_FIELDS: dict[str, Any] = {
    "tenant": str,
    "user": str,
    "priority": int,
    "tags": Mapping,
    "options": Mapping,
    "without": Iterable,
}


class Chain:
    """Middlewares in order of priority round a provider. Itself a handler, so chains nest.

    Args:
        provider: what answers in the end: a provider, or another chain.
        middleware: in any order; each has a `name`, unique in the chain, and a `priority`.
        runtime: clock, randomness and state; by default the chain's own.

    Raises: ConfigError for two middlewares of one name, or something that is no middleware.
    """

    def __init__(self, provider: Target, *middleware: Middleware, runtime: Runtime | None = None) -> None:
        core: Any = provider
        if isinstance(core, type) or not callable(core) or not hasattr(core, "endpoint"):
            raise ConfigError(
                f"a chain needs a provider at its core, with name, endpoint and model, not {_called(core)}"
            )
        self.provider = provider
        self.runtime = runtime or Runtime()
        self._middleware: tuple[Middleware, ...] = ()
        self._arrange(middleware)

    @property
    def middleware(self) -> tuple[Middleware, ...]:
        """The middlewares, outermost first."""
        return self._middleware

    def use(self, middleware: Middleware) -> Chain:
        """Add `middleware` where its priority puts it; calls under way are not touched.

        Returns the chain itself. Raises ConfigError if the name is taken.
        """
        self._arrange((*self._middleware, middleware))
        return self

    def without(self, *names: str) -> Chain:
        """A chain like this one, on the same runtime, that lacks the middlewares of these names.

        Raises: ConfigError for a name the chain does not have.
        """
        known = {m.name for m in self._middleware}
        for name in names:
            if name not in known:
                raise ConfigError(f"the chain has no middleware {name!r}; it has: {', '.join(sorted(known))}")
        kept = [m for m in self._middleware if m.name not in names]
        return Chain(self.provider, *kept, runtime=self.runtime)

    def _arrange(self, middleware: Iterable[Middleware]) -> None:
        layers: list[Middleware] = []
        for item in middleware:
            rings = getattr(item, "rings", None)
            layers.extend(rings() if callable(rings) else (item,))
        names: dict[str, Middleware] = {}
        for item in layers:
            _check(item)
            if item.name in names:
                raise ConfigError(
                    f"two middlewares are called {item.name!r}: {_kind(names[item.name])} and {_kind(item)}; "
                    f"give one of them another name"
                )
            names[item.name] = item
        self._middleware = tuple(sorted(layers, key=lambda m: m.priority))  # stable: ties keep their order
        self._rings = {frozenset[str](): self._linked(frozenset())}

    def _linked(self, without: frozenset[str]) -> Ring:
        ring: Ring = self._terminal
        for item in reversed(self._middleware):
            if item.name not in without:
                ring = link(item, ring)
        return ring

    async def _terminal(self, given: list[Reply], call: Call) -> Reply:
        """The core: one attempt at the call's target."""
        provider = call.target or self.provider
        if isinstance(provider, Chain):
            return await provider._ring(call)(given, call.evolve(target=None, provider=provider.provider))
        attempts, now = call.ledger.attempts, call.runtime.now
        request = call.request
        attempt = Attempt(len(attempts) + 1, provider.name, request.model or provider.model, request, now())
        attempts.append(attempt)
        try:
            reply: Any = await provider(call)
            if not isinstance(reply, Reply) or reply.over:
                what = "a reply that is over" if isinstance(reply, Reply) else f"a {type(reply).__name__}"
                raise TypeError(f"provider {provider.name!r} gave {what} instead of a new Reply")
        except BaseException as error:  # goes on; the attempt must know how it ended
            attempt.fail(error, now())
            raise
        reply.attempted(attempt, call)
        given.append(reply)
        return reply

    # ------------------------------------------------------------ the front door

    @property
    def name(self) -> str:
        """The provider's name; with the next two, what makes a chain a target like a provider."""
        return self.provider.name

    @property
    def endpoint(self) -> str:
        """The provider's endpoint."""
        return self.provider.endpoint

    @property
    def model(self) -> str:
        """The provider's default model."""
        return self.provider.model

    async def __call__(self, call: Call) -> Reply:
        """Answer `call`, committed. For those who nest chains; others use `complete` and `stream`."""
        return await self._ring(call)([], call)

    def _ring(self, call: Call) -> Ring:
        """The outermost ring for `call`, which may leave some out."""
        ring = self._rings.get(call.without)
        if ring is None:
            ring = self._rings[call.without] = self._linked(call.without)
        return ring

    async def complete(self, prompt: Prompt, /, **options: Any) -> Completion:
        """The whole reply to `prompt`: a `Request`, a string, a message or a list of messages.

        Keywords: any field of `Request` (``max_tokens=20``); of the call: ``tenant``, ``user``,
        ``priority``, ``tags``, ``timeout`` (seconds for the whole call), ``options`` (settings changed
        for this call: ``{Retry: {"attempts": 1}}``), ``without`` (names of middlewares to skip).

        Raises: LLMError.
        """
        reply = await self(self._call(prompt, options, stream=False))
        done = await reply.full()
        assert isinstance(done, Completion)
        return done

    def stream(self, prompt: Prompt, /, **options: Any) -> Streaming:
        """The reply to `prompt` as it comes: ``async with chain.stream(...) as reply:``, then iterate it.

        Takes what `complete` takes. Entering waits for the first content and raises LLMError.
        """
        return Streaming(self, self._call(prompt, options, stream=True))

    async def embed(self, inputs: str | Iterable[str] | EmbeddingRequest, /, **options: Any) -> Embeddings:
        """Vectors for `inputs`, through the same chain.

        Keywords: any field of `EmbeddingRequest`, and those of the call as in `complete`.
        """
        call_options = {key: options.pop(key) for key in (*_CALL_FIELDS, "timeout") if key in options}
        if isinstance(inputs, EmbeddingRequest):
            request = evolve(inputs, **options) if options else inputs
        else:
            _refuse_single(inputs, "embed takes an EmbeddingRequest, a text or a list of inputs")
            request = EmbeddingRequest(inputs=inputs, **options)
        if not request.inputs:
            raise InvalidRequest("embed needs at least one input", sent=False, phase="validate")
        reply = await self(self.new_call(request, **call_options))
        done = await reply.full()
        assert isinstance(done, Embeddings)
        return done

    def _call(self, prompt: Prompt, options: dict[str, Any], *, stream: bool) -> Call:
        changes: dict[str, Any] = {}
        if options:
            changes = {key: options.pop(key) for key in tuple(options) if key in _REQUEST_FIELDS}
        if isinstance(prompt, Request):
            if prompt.stream is not stream:
                changes["stream"] = stream
            request = evolve(prompt, **changes) if changes else prompt
        else:
            changes["stream"] = stream
            try:
                request = Request(messages=prompt, **changes)
            except TypeError:
                _refuse_single(prompt, "a prompt is a Request, a text, a message or a list of messages")
                raise
        return self.new_call(request, **options)

    def new_call(self, request: AnyRequest, *, timeout: float | None = None, **fields: Any) -> Call:
        """A fresh call for `request`, as the front door makes it; `timeout` in seconds.

        Raises: ConfigError for a keyword that neither a request nor a call has, or of the wrong type.
        """
        if fields:
            self._check_fields(request, fields)
        runtime = self.runtime
        now = runtime.now()
        if timeout is not None:
            fields["deadline"] = now + _seconds(timeout)
        return Call(request, runtime, runtime.new_id("call-"), now, provider=self.provider, **fields)

    def _check_fields(self, request: AnyRequest, fields: dict[str, Any]) -> None:
        if unknown := [key for key in fields if key not in _CALL_FIELDS]:
            raise ConfigError(
                f"unknown keyword {', '.join(map(repr, unknown))}; a call takes {', '.join(_CALL_FIELDS)}, "
                f"timeout, and the fields of {type(request).__name__}"
            )
        for key, value in fields.items():
            kind = _CALL_FIELDS[key]
            if not isinstance(value, kind):
                raise ConfigError(f"{key} is {_called(value)}; expected {kind.__name__}")
        if wrong := [kind for kind in fields.get("options", ()) if not isinstance(kind, type)]:
            raise ConfigError(f"options are keyed by the middleware's class, {{Retry: {{...}}}}, not {wrong}")
        if "without" in fields:
            told = fields["without"]
            fields["without"] = frozenset((told,) if isinstance(told, str) else told)
            if wrong := fields["without"] - {m.name for m in self._middleware}:
                raise ConfigError(f"without names {sorted(wrong)}, which the chain does not have")

    # ------------------------------------------------------------ looking at it

    def explain(self) -> Explanation:
        """What runs in which order and why, with settings and worst cases; print it."""
        from llmpipe.pipeline.explain import explain  # noqa: PLC0415  few calls need it, and it costs time

        return explain(self)

    def lint(self) -> list[Finding]:
        """Dangerous orders and settings, each with what to do about it; empty when there are none."""
        return lint(self._middleware, self)

    async def aclose(self) -> None:
        """End background work and close the provider's and the middlewares' connections."""
        async with AsyncExitStack() as stack:  # one that fails to close keeps no other from closing
            for part in (self.provider, *reversed(self._middleware), self.runtime):
                close = getattr(part, "aclose", None)
                if close is not None:
                    stack.push_async_callback(close)

    async def __aenter__(self) -> Chain:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"Chain({self.provider!r}, {', '.join(m.name for m in self._middleware)})"


class Streaming:
    """A stream to be entered: ``async with`` gives its `Reply` and closes it."""

    __slots__ = ("_call", "_chain", "_reply")

    def __init__(self, chain: Chain, call: Call) -> None:
        self._chain = chain
        self._call = call

    @property
    def call(self) -> Call:
        """The call, with its ledger."""
        return self._call

    async def __aenter__(self) -> Reply:
        self._reply = await self._chain(self._call)
        return self._reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reply.__aexit__(kind, error, trace)


def _kind(item: object) -> str:
    return getattr(item, "__qualname__", type(item).__qualname__)


def _seconds(told: Any) -> float:
    # A timer at NaN would never be due, nor any of the loop's that stand behind it.
    if not isinstance(told, int | float) or isnan(told):
        raise ConfigError(f"timeout is {told!r}; it must be a number of seconds")
    return told


def _called(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _refuse_single(value: object, right: str) -> None:
    if not isinstance(value, Iterable):
        raise ConfigError(f"{right}, not {_called(value)}")


def _check(item: object) -> None:
    if isinstance(item, type):
        raise ConfigError(f"middleware {item.__name__} is a class; make one of it: {item.__name__}(...)")
    if not callable(item):
        raise ConfigError(f"{item!r} is no middleware: it cannot be called with (call, call_next)")
    name, priority = getattr(item, "name", None), getattr(item, "priority", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"middleware {_kind(item)} has no name; give it `name` and `priority`, "
            f"or decorate a function with @middleware(priority=...)"
        )
    if not isinstance(priority, int) or isinstance(priority, bool):
        raise ConfigError(f"middleware {name!r} has no integer priority; see llmpipe.pipeline.bands")
