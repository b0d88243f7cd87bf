"""Give the stored answer to a question that means the same.

Two questions are the same when all of this holds: they are of one tenant; everything but the text of the
last user's message is equal (model, system prompt, history, settings); numbers, names, negations and
quotations agree to the letter; and the cosine of their vectors is at least `threshold`.

======================  ===============================================================================
note                    detail
======================  ===============================================================================
``semantic.hit``        ``similarity``, ``age`` in seconds, ``saved``: nano-USD, None if unknown
``semantic.would_hit``  the same, in mode ``shadow``
``semantic.failed``     the embedder failed or took too long: ``error``: the name of its class
======================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any, ClassVar, Literal, cast

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.canonical import key_of, uses_server_state
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.reply import Reply
from llmpipe.runtime import Alarm, Runtime
from llmpipe.state.freeze import freeze
from llmpipe.types import Completion, Cost, Message, Request, Text
from llmpipe.types.copying import recharged, replace
from llmpipe.types.frozen import EMPTY
from llmpipe_semantic_cache.guard import facts
from llmpipe_semantic_cache.index import Found, Index, Kept, Vector, unit

__all__ = ("Embedder", "SemanticCache", "facts")

Embedder = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[float]]]]
"""Gives a vector for each text."""


class _Question:
    """What is asked, taken apart: where it may be answered from, what must agree, and its vector."""

    __slots__ = ("facts", "key", "vector")

    def __init__(self, key: bytes, told: tuple[str, ...], vector: Vector) -> None:
        self.key, self.facts, self.vector = key, told, vector


@frozen(kw_only=True)
class SemanticCache:
    """Answers a question from the stored answer to one that means the same.

    Attributes:
        embedder: an async function of texts that gives their vectors; a provider or chain that embeds; or
            where to find either, as ``package.module:name``.
        mode: ``off``; ``shadow`` looks and stores and only notes what it would have given; ``on``.
        threshold: the least cosine, above 0 and at most 1.
        ttl: seconds an answer is given.
        max_entries: of one tenant in one context (model, system prompt, history, settings).
        max_contexts: of all tenants; the longest unused go first.
        timeout: seconds the embedder may take; then the call goes on as if nothing were stored.

    Only whole answers in text that ended with ``stop`` are stored. Requests with tools, with anything but
    text in the question, or that use what a server remembers are left alone.
    """

    embedder: Any
    mode: Literal["off", "shadow", "on"] = "off"
    threshold: float = 0.95
    ttl: float = 3600.0
    max_entries: int = 1000
    max_contexts: int = 1000
    timeout: float = 2.0
    name: str = "semantic_cache"
    priority: int = bands.SHORTCUT + 5

    _embed: Callable[[Call], Embedder] = field(init=False, repr=False, eq=False)

    why: ClassVar[str] = (
        "inside redaction, so it stores nothing secret; behind the exact cache, which costs nothing to ask"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"stores", "waits"})

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        if self.mode not in ("off", "shadow", "on"):
            raise ConfigError(f"{self.name}: mode is 'off', 'shadow' or 'on', not {self.mode!r}")
        if not 0 < self.threshold <= 1:
            raise ConfigError(f"{self.name}: threshold is above 0 and at most 1, not {self.threshold}")
        for name in ("ttl", "max_entries", "max_contexts", "timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{self.name}: {name} must be above 0, not {getattr(self, name)}")
        object.__setattr__(self, "_embed", _embedding(self.embedder, self.name))  # frozen: construction

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """The stored answer to a question that means the same, or else a fresh one, which is stored."""
        cfg = call.opt(self)
        question = await cfg._question(call) if cfg.mode != "off" else None
        found = None if question is None else cfg._find(call, question)
        if found is not None and cfg.mode == "on":
            yield Reply.of(found.kept.result)
            return
        outcome = yield await call_next(call)
        if question is not None and found is None and outcome.ok:
            cfg._keep(call, question, outcome.completion)

    async def _question(self, call: Call) -> _Question | None:
        request = call.request
        text = _text_of(request)
        if not text:
            return None
        assert isinstance(request, Request)
        rest = Message("user", (), request.messages[-1].name)
        context = replace(request, messages=(*request.messages[:-1], rest))
        key = key_of(call.evolve(request=context))
        if key is None:
            return None
        try:
            with Alarm(call.runtime.now() + min(self.timeout, call.remaining()), TimeoutError):
                (vector,) = await self._embed(call)([text])
            row = unit(vector)
        except Exception as error:  # noqa: BLE001  an embedder is anybody's code, and none of its failures is the call's
            call.note("semantic.failed", error=type(error).__name__)
            return None
        return None if row is None else _Question(key, facts(text), row)

    def _find(self, call: Call, question: _Question) -> Found | None:
        index = self._index(call.runtime)
        now = call.runtime.now()
        found = index.find(question.key, question.vector, question.facts, self.threshold, now)
        if found is not None:
            kind = "semantic.hit" if self.mode == "on" else "semantic.would_hit"
            kept = found.kept
            call.note(kind, similarity=found.similarity, age=now - kept.stored_at, saved=kept.saved_nano)
        return found

    def _keep(self, call: Call, question: _Question, result: Any) -> None:
        """Store `result` if it is a whole answer in text."""
        if not isinstance(result, Completion) or result.finish_reason != "stop" or not result.text:
            return
        if any(type(part) is not Text for part in result.message.parts):
            return
        now, charge = call.runtime.now(), result.charge
        free = cast("Completion", recharged(freeze(result)[0], Cost(), EMPTY))
        kept = Kept(question.facts, free, None if charge is None else charge.total_nano, now, now + self.ttl)
        self._index(call.runtime).add(question.key, question.vector, kept)

    def _index(self, runtime: Runtime) -> Index:
        index = runtime.state("semantic_cache", self.name, lambda: Index(self.max_entries, self.max_contexts))
        index.most, index.most_partitions = self.max_entries, self.max_contexts
        return index

    def clear(self, runtime: Runtime) -> None:
        """Forget all answers, of all tenants."""
        self._index(runtime).clear()


def _text_of(request: Any) -> str:
    """The question: the text of the last message, which is a user's and nothing else; "" for none."""
    if not isinstance(request, Request) or request.tools or not request.messages:
        return ""
    last = request.messages[-1]
    if last.role != "user" or last.extra or any(type(part) is not Text or part.extra for part in last.parts):
        return ""
    return "" if request.extra and uses_server_state(request) else last.text.strip()


def _embedding(told: Any, name: str) -> Callable[[Call], Embedder]:
    """How to embed on behalf of a call, from what people give."""
    if isinstance(told, str):
        module, colon, attribute = told.partition(":")
        try:
            if not colon:
                raise AttributeError(f"{told!r} has no colon")
            told = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{name}: embedder is 'package.module:name': {error}") from None
    if isinstance(told, Chain):
        return lambda call: _through(told, call)
    if hasattr(told, "endpoint") and callable(told):
        return lambda call: _through(Chain(told, runtime=call.runtime), call)
    if not callable(told):
        raise ConfigError(
            f"{name}: embedder is an async function, a provider or a chain, not a {type(told).__name__}"
        )
    return lambda call: cast("Embedder", told)


def _through(chain: Chain, call: Call) -> Embedder:
    """Embed through `chain`, as the tenant and user of `call`."""

    async def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
        return (await chain.embed(texts, tenant=call.tenant, user=call.user)).vectors

    return embed
