"""Send fewer tokens that say the same: without idle spaces, repetitions and turns beyond the budget.

What changes is prose: the text of system, user and assistant messages. Code (fenced, indented, inline),
JSON, tables, tool calls and results, tool schemas, pictures, documents, reasoning and every message
with signed reasoning go out as they came in, to the byte. Embedding and rerank requests are data, and
pass.

======================  ===============================================================================
note                    detail
======================  ===============================================================================
``optimise.saved``      estimated ``tokens`` that were saved, ``messages`` that were left out
======================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from anyio import to_thread
from attrs import field, frozen

from llmpipe.errors import ConfigError, ContextTooLong
from llmpipe.middleware.names import names
from llmpipe.middleware.numeric import check_numbers
from llmpipe.middleware.optimise.prose import squeezed
from llmpipe.middleware.optimise.turns import fitted
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.tokens import estimate_request
from llmpipe.types import Message, Part, Reasoning, Request, Text, ToolCall, ToolResult
from llmpipe.types.copying import replace

__all__ = ("Optimise",)

_ROLES = ("system", "user", "assistant")


@frozen(kw_only=True)
class Optimise:
    """Shortens what is sent where that changes nothing, and leaves out old turns where it must.

    Optimising twice is optimising once.

    Attributes:
        whitespace: one space for several, none at line ends, one blank line for several.
        repeated_paragraphs: in messages of which roles a paragraph that stands there twice is left out
            the second time. Not the user's by default: a refrain is part of a song.
        repeated_messages: leave out a message that is the same as the one before it.
        max_input_tokens: what a request may have, estimated; None for no bound.
        truncate: which turns go when there are more: the ``oldest`` first, or those in the ``middle``,
            after the first one. System messages and the last turn always stay, and a turn goes whole, so
            that no tool result is without its call.
        overflow: what to do when that is not enough: ``refuse``, or ``send`` all the same.
        thread_above: a request with more characters of text is worked on in a thread, so that others
            are not kept waiting.

    Raises: ContextTooLong (code ``max_input_tokens``) where the last turn alone is too long.
    """

    whitespace: bool = True
    repeated_paragraphs: tuple[str, ...] = field(default=("system",), converter=names)
    repeated_messages: bool = True
    max_input_tokens: int | None = None
    truncate: Literal["oldest", "middle"] = "oldest"
    overflow: Literal["refuse", "send"] = "refuse"
    thread_above: int = 65_536
    name: str = "optimise"
    priority: int = bands.GUARD + 60

    why: ClassVar[str] = (
        "inside redaction, which must see every word; outside the cache, so that equal meanings share a key"
    )

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        if self.max_input_tokens is not None and self.max_input_tokens < 1:
            raise ConfigError(
                f"{self.name}: max_input_tokens is at least 1, or None, not {self.max_input_tokens}"
            )
        if self.truncate not in ("oldest", "middle"):
            raise ConfigError(f"{self.name}: truncate is 'oldest' or 'middle', not {self.truncate!r}")
        if self.overflow not in ("refuse", "send"):
            raise ConfigError(f"{self.name}: overflow is 'refuse' or 'send', not {self.overflow!r}")
        if wrong := sorted(set(self.repeated_paragraphs) - set(_ROLES)):
            raise ConfigError(
                f"{self.name}: repeated_paragraphs names roles {', '.join(_ROLES)}, not {wrong}"
            )

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply to the shorter request."""
        request = call.request
        if not isinstance(request, Request):
            return await call_next(call)
        cfg = call.opt(self)
        if _length(request) <= cfg.thread_above:
            shorter = cfg.optimised(request)
        else:
            shorter = await to_thread.run_sync(cfg.optimised, request)
        if shorter is not request:
            call.note(
                "optimise.saved",
                tokens=estimate_request(request) - estimate_request(shorter),
                messages=len(request.messages) - len(shorter.messages),
            )
            call = call.evolve(request=shorter)
        return await call_next(call)

    def optimised(self, request: Request) -> Request:
        """`request`, shortened; the same object where there is nothing to do. Raises as the class says."""
        messages = self._deduplicated([self._message(message) for message in request.messages])
        shorter = request if _same(messages, request.messages) else replace(request, messages=tuple(messages))
        if self.max_input_tokens is None:
            return shorter
        fitting = fitted(shorter, self.max_input_tokens, self.truncate)
        if fitting is not shorter:  # two equal messages may have come together
            fitting = replace(fitting, messages=tuple(self._deduplicated(fitting.messages)))
        if self.overflow == "refuse" and (tokens := estimate_request(fitting)) > self.max_input_tokens:
            raise ContextTooLong(
                f"the last turn, system messages and tools are about {tokens} tokens, above the "
                f"{self.max_input_tokens} that {self.name!r} lets pass; nothing was sent",
                code="max_input_tokens",
                sent=False,
                phase="validate",
            )
        return fitting

    def _deduplicated(self, messages: Sequence[Message]) -> list[Message]:
        """Without those that only say again what the one before them says."""
        told: list[Message] = []
        for message in messages:
            if not (self.repeated_messages and told and _repeats(message, told[-1])):
                told.append(message)
        return told

    def _message(self, message: Message) -> Message:
        repeats = message.role in self.repeated_paragraphs
        if not (self.whitespace or repeats) or message.role not in _ROLES or _signed(message):
            return message
        parts: list[Part] = []
        for part in message.parts:
            if type(part) is Text:
                text = squeezed(part.text, spaces=self.whitespace, repeats=repeats)
                parts.append(part if text == part.text else replace(part, text=text))
            else:
                parts.append(part)
        if _same(parts, message.parts):
            return message
        return replace(message, parts=tuple(parts))


def _same(new: Sequence[object], old: Sequence[object]) -> bool:
    return len(new) == len(old) and all(one is other for one, other in zip(new, old, strict=True))


def _signed(message: Message) -> bool:
    """Whether the message holds a proof of the provider's, which may cover the text beside it."""
    return any(
        type(part) is Reasoning and (part.signature is not None or part.encrypted is not None)
        for part in message.parts
    )


def _repeats(message: Message, before: Message) -> bool:
    """Whether a message only says again what the one before it says."""
    return (
        message == before
        and message.dialect == before.dialect
        and not _signed(message)
        and not any(type(part) in (ToolCall, ToolResult) for part in message.parts)
    )


def _length(request: Request) -> int:
    length = 0
    for message in request.messages:
        for part in message.parts:
            if type(part) is Text:
                length += len(part.text)
    return length
