"""Refuse what cannot succeed, and what must not be sent, before anything is stored, counted or spent.

=================  ==========================================================================
raises             when
=================  ==========================================================================
InvalidRequest     the request breaks rules of the common chat protocol; names all of them
RequestTooLarge    its only fault is its size
FeatureDisabled    it uses a feature that is switched off here
ContentFiltered    a filter, or a blocked phrase, refused its text
=================  ==========================================================================

All of them say ``sent=False`` and ``phase="validate"``. It writes no notes.
"""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from attrs import frozen

from llmpipe.errors import (
    ConfigError,
    ContentFiltered,
    FeatureDisabled,
    InvalidRequest,
    RequestTooLarge,
)
from llmpipe.middleware.validate.rules import (
    SIZE,
    Problem,
    chat_problems,
    embedding_problems,
    rerank_problems,
)
from llmpipe.middleware.validate.texts import texts_of
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.secret import scrub
from llmpipe.types import AnyRequest, EmbeddingRequest, Request

__all__ = ("Filter", "Finding", "Validate")

Finding = str | Iterable[str] | None
"""What a filter says of a text: None (or nothing) to let it pass, else why not."""

Filter = Callable[[str], Finding | Awaitable[Finding]]
"""A content filter, plain or async. What it raises ends the call: one that fails lets nothing through."""

_NAMED = 10  # problems spelled out in the message; metadata has up to a hundred
_LISTED = 100


@frozen(kw_only=True)
class Validate:
    """Checks every request: its shape, its size, the features it uses and, with filters, its text.

    Attributes:
        max_bytes: most text a request may carry, in bytes of UTF-8: messages with names and ids, tools,
            schemas, metadata, `extra`.
        max_media_bytes: most image, audio and document data, in characters of base64.
        max_stop: most stop sequences.
        url_schemes: what an image or document URL may begin with.
        blocked: phrases that no text may contain, whatever their case, width or composition.
        filters: functions of a text that say why it must not be sent, or None.
        streaming, tools, vision, embeddings: False switches the feature off.
    """

    max_bytes: int = 1_000_000
    max_media_bytes: int = 20_000_000
    max_stop: int = 16
    url_schemes: tuple[str, ...] = ("https", "data")
    blocked: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    streaming: bool = True
    tools: bool = True
    vision: bool = True
    embeddings: bool = True
    name: str = "validate"
    priority: int = bands.GUARD

    traits: ClassVar[frozenset[str]] = frozenset({"checks"})
    why: ClassVar[str] = "first of the guards: what is refused here is neither masked, stored nor counted"

    def __attrs_post_init__(self) -> None:
        for field in ("max_bytes", "max_media_bytes", "max_stop"):
            if getattr(self, field) < 1:
                raise ConfigError(f"validate: {field} must be at least 1, not {getattr(self, field)}")
        blocked: object = self.blocked
        if isinstance(blocked, str) or not all(self.blocked):
            raise ConfigError("validate: blocked is a list of phrases, none of them empty")
        for check in self.filters:
            if not callable(check):
                raise ConfigError(f"validate: a filter is a function of a text, not a {type(check).__name__}")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply, if nothing is wrong with the request."""
        cfg = call.opt(self)
        request = call.request
        if problems := cfg.problems(request):
            raise _refusal(problems)
        if cfg.filters or cfg.blocked:
            await cfg._filter(request)
        return await call_next(call)

    def problems(self, request: AnyRequest) -> Sequence[Problem]:
        """All that is wrong with `request`, as pairs of path and problem; empty when nothing is.

        Raises: FeatureDisabled for a feature that is switched off here.
        """
        if isinstance(request, Request):
            if request.stream and not self.streaming:
                raise _disabled("streaming")
            if request.tools and not self.tools:
                raise _disabled("tools")
            problems, vision = chat_problems(request, self)
            if vision and not self.vision:
                raise _disabled("vision")
            return problems
        if not self.embeddings:
            raise _disabled("embeddings")
        if isinstance(request, EmbeddingRequest):
            return embedding_problems(request, self)
        return rerank_problems(request, self)

    async def _filter(self, request: AnyRequest) -> None:
        blocked = [_plain(phrase) for phrase in self.blocked]
        found: list[Problem] = []
        for path, text in texts_of(request):
            if blocked:
                plain = _plain(text)
                if any(phrase in plain for phrase in blocked):
                    found.append((path, "a blocked phrase"))
            for check in self.filters:
                verdict = check(text)
                said = await verdict if inspect.isawaitable(verdict) else verdict
                found.extend((path, scrub(reason, max_chars=200)) for reason in _reasons(said))
        if found:
            raise ContentFiltered(
                f"the request was refused by a content filter: {_listing(found)}",
                sent=False,
                billed="no",
                health="ignore",
                rescue="none",  # the filter stands before every target
                phase="validate",
                metadata={"findings": [{"path": path, "reason": reason} for path, reason in found[:_LISTED]]},
            )


def _refusal(problems: Sequence[Problem]) -> InvalidRequest:
    only_size = all(path == SIZE for path, _ in problems)
    return (RequestTooLarge if only_size else InvalidRequest)(
        f"the request is not valid: {_listing(problems)}",
        sent=False,
        health="ignore",
        phase="validate",
        metadata={"errors": [{"path": path, "problem": problem} for path, problem in problems[:_LISTED]]},
    )


def _listing(problems: Sequence[Problem]) -> str:
    named = "; ".join(f"{path}: {problem}" for path, problem in problems[:_NAMED])
    more = len(problems) - _NAMED
    return f"{named}; and {more} more" if more > 0 else named


def _disabled(feature: str) -> FeatureDisabled:
    return FeatureDisabled(
        f"{feature} is switched off by configuration (validate.{feature} = false)",
        code="feature_disabled",
        phase="validate",
        metadata={"feature": feature},
    )


def _plain(text: str) -> str:
    """`text` as it is compared: one composition, one width, one case."""
    return unicodedata.normalize("NFKC", text).casefold()


def _reasons(said: Finding) -> Iterator[str]:
    if isinstance(said, str):
        if said:
            yield said
    elif said is not None:
        yield from map(str, said)
