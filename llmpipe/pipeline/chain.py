"""The chain: middlewares in order round a provider, and the front door to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from attrs import evolve, fields, has

from llmpipe.errors import ConfigError, InvalidRequest
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.pipeline.checks import (
    called,
    check_fields,
    check_middleware,
    check_settings,
    kind_of,
    nearest,
    refuse_class,
    refuse_single,
    seconds,
)
from llmpipe.pipeline.linker import Middleware, Ring, link
from llmpipe.pipeline.lint import Finding, lint
from llmpipe.pipeline.reply import Reply
from llmpipe.pipeline.streaming import Streaming
from llmpipe.runtime import Runtime
from llmpipe.types import (
    AnyRequest,
    Completion,
    EmbeddingRequest,
    Embeddings,
    Message,
    Ranking,
    Request,
    RerankRequest,
)
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.pipeline.explain import Explanation
    from llmpipe.pipeline.target import Target

__all__ = ("Chain",)

Prompt = str | Request | Message | Mapping[str, Any] | Iterable[Any]

_REQUEST_FIELDS = frozenset(a.name for a in fields(Request))
_EMBEDDING_FIELDS = frozenset(a.name for a in fields(EmbeddingRequest))
_RERANK_FIELDS = frozenset(a.name for a in fields(RerankRequest))


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
                f"a chain needs a provider at its core, with name, endpoint and model, not {called(core)}"
            )
        self.provider = provider
        self.runtime = runtime or Runtime()
        self._middleware: tuple[Middleware, ...] = ()
        self._kinds: dict[str, type] = {}
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
        less = Chain(self.provider, *kept, runtime=self.runtime)
        less._kinds = {m.name: self._kinds[m.name] for m in kept}
        return less

    def _arrange(self, middleware: Iterable[Middleware]) -> None:
        names: dict[str, Middleware] = {}
        kinds: dict[str, type] = {}  # of what the user gave, which is what options for a call are keyed by
        for item in middleware:
            refuse_class(item)
            rings = getattr(item, "rings", None)
            for ring in rings() if callable(rings) else (item,):
                check_middleware(ring)
                name = ring.name
                if name in names:
                    raise ConfigError(
                        f"two middlewares are called {name!r}: {kind_of(names[name])} and {kind_of(ring)}; "
                        f"give one of them another name"
                    )
                names[name] = ring
                kinds[name] = self._kinds.get(name) or _kind(item)
        for ring in _brought(self.provider, names.values()):
            names.setdefault(ring.name, ring)
            kinds.setdefault(ring.name, type(ring))
        self._kinds = kinds
        self._middleware = tuple(sorted(names.values(), key=lambda m: m.priority))  # stable: ties keep order
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
        if getattr(provider, "nests", False):  # the attempts are made, and counted, where it leads to
            nested: Reply = await provider(call.evolve(target=None, provider=provider))
            given.append(nested)
            return nested
        for guard in call.guards:
            call = await guard(call)
        for barrier in call.barriers:
            await barrier(call)
        attempts, now = call.ledger.attempts, call.runtime.now
        request = call.request
        attempt = Attempt(
            len(attempts) + 1,
            provider.name,
            request.model or provider.model,
            request,
            now(),
            sold_as=getattr(provider, "sold_as", ""),
            holds=call.holds,
        )
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
        for this call, ``{Retry: {"attempts": 1}}``, of middlewares here or in a chain that this one
        leads to), ``without`` (names of middlewares to skip).

        Raises: LLMError; ConfigError for what neither a request, a call nor a middleware takes.
        """
        call = self._call(prompt, options, stream=False)
        reply = await self._ring(call)([], call)
        done = await reply.full()
        assert isinstance(done, Completion)
        return done

    def stream(self, prompt: Prompt, /, **options: Any) -> Streaming:
        """The reply to `prompt` as it comes: ``async with chain.stream(...) as reply:``, then iterate it.

        Takes what `complete` takes. Entering waits for the first content and raises LLMError.
        """
        return Streaming(self.__call__, self._call(prompt, options, stream=True))

    async def embed(self, inputs: str | Iterable[str] | EmbeddingRequest, /, **options: Any) -> Embeddings:
        """Vectors for `inputs`, through the same chain.

        Keywords: any field of `EmbeddingRequest`, and those of the call as in `complete`.
        """
        changes = {key: options.pop(key) for key in tuple(options) if key in _EMBEDDING_FIELDS}
        if isinstance(inputs, EmbeddingRequest):
            request = evolve(inputs, **changes) if changes else inputs
        else:
            refuse_single(inputs, "embed takes an EmbeddingRequest, a text or a list of inputs")
            request = EmbeddingRequest(inputs=inputs, **changes)
        if not request.inputs:
            raise InvalidRequest("embed needs at least one input", sent=False, phase="validate")
        reply = await self(self.new_call(request, **options))
        done = await reply.full()
        assert isinstance(done, Embeddings)
        return done

    async def rerank(self, query: str, documents: Iterable[str], /, **options: Any) -> Ranking:
        """`documents` by how well they answer `query`, the best first, through the same chain.

        Keywords: any field of `RerankRequest` (``top_n=3``), and those of the call as in `complete`.
        """
        changes = {key: options.pop(key) for key in tuple(options) if key in _RERANK_FIELDS}
        refuse_single(documents, "rerank takes a query and a list of documents")
        request = RerankRequest(query=query, documents=documents, **changes)
        if not request.documents:
            raise InvalidRequest("rerank needs at least one document", sent=False, phase="validate")
        reply = await self(self.new_call(request, **options))
        done = await reply.full()
        assert isinstance(done, Ranking)
        return done

    def _call(self, prompt: Prompt, options: dict[str, Any], *, stream: bool) -> Call:
        changes: dict[str, Any] = {}
        if options:
            changes = {key: options.pop(key) for key in tuple(options) if key in _REQUEST_FIELDS}
        if isinstance(prompt, Request):
            request = evolve(prompt, **changes) if changes else prompt
            if request.stream is not stream:
                request = replace(request, stream=stream)
        else:
            changes["stream"] = stream
            try:
                request = Request(messages=prompt, **changes)
            except TypeError:
                refuse_single(prompt, "a prompt is a Request, a text, a message or a list of messages")
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
            fields["deadline"] = now + seconds(timeout)
        return Call(request, runtime, runtime.new_id("call-"), now, provider=self.provider, **fields)

    def _check_fields(self, request: AnyRequest, fields: dict[str, Any]) -> None:
        check_fields(request, fields)
        options = fields.get("options")
        if options:
            self._check_options(options)
        if "without" in fields:
            told = fields["without"]
            fields["without"] = frozenset((told,) if isinstance(told, str) else told)
            if wrong := fields["without"] - {m.name for m in self._middleware}:
                raise ConfigError(f"without names {sorted(wrong)}, which the chain does not have")

    def _check_options(self, options: Mapping[Any, Any]) -> None:
        if wrong := [kind for kind in options if not isinstance(kind, type)]:
            raise ConfigError(f"options are keyed by the middleware's class, {{Retry: {{...}}}}, not {wrong}")
        known = set(self._kinds.values())
        if not known.issuperset(options):
            known = _kinds_within(self)
        for kind, changes in options.items():
            if kind not in known:
                names = sorted(one.__name__ for one in known)
                hint = nearest(kind.__name__, names) or f"; it has {', '.join(names) or 'none'}"
                raise ConfigError(
                    f"options are for {kind.__name__}, and the chain has no middleware of that class{hint}"
                )
            check_settings(kind, changes)

    # ------------------------------------------------------------ looking at it

    def explain(self) -> Explanation:
        """What runs in which order and why, with settings and worst cases; print it."""
        from llmpipe.pipeline.explain import explain  # noqa: PLC0415  few calls need it, and it costs time

        return explain(self)

    def lint(self) -> list[Finding]:
        """Dangerous orders and settings, each with what to do about it; empty when there are none."""
        return lint(self._middleware, self)

    async def aclose(self) -> None:
        """End background work and close the provider's and the middlewares' connections.

        What is closed is not shut: a call made after this opens new connections, to be closed again.
        """
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


def _kind(item: Middleware) -> type:
    """What options for `item` are keyed by: its class, or, of one ring alone, that which it is a ring of."""
    config = getattr(item, "config", None)
    return type(config) if callable(getattr(config, "rings", None)) else type(item)


def _brought(provider: object, middleware: Iterable[Middleware]) -> Iterator[Middleware]:
    """What the targets need round them, such as `Credentials` for a provider with several keys."""
    targets = [provider, *(target for one in middleware for target in getattr(one, "targets", ()))]
    for target in targets:
        brings = getattr(target, "brings", None)
        if callable(brings) and not isinstance(target, Chain):
            yield from brings()


def _kinds_within(chain: Chain) -> set[type]:
    """Classes of the middlewares of `chain` and of the chains that it or they lead to, however deep."""
    kinds: set[type] = set()
    chains = [chain]
    for one in chains:  # grows under way
        kinds.update(one._kinds.values())
        for part in (one.provider, *one._middleware):
            for other in _leads_to(part):
                if not any(other is known for known in chains):
                    chains.append(other)
    return kinds


def _leads_to(part: object) -> Iterator[Chain]:
    if isinstance(part, Chain):
        yield part
        return
    kind: Any = type(part)
    held = [getattr(part, a.name, None) for a in fields(kind)] if has(kind) else []
    held.extend(getattr(part, "__dict__", {}).values())
    for value in held:
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, Chain):
                yield item
