"""The server's side of a stream: events in, the chunks OpenAI would send out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from attrs import evolve

from llmpipe.dialects import sse
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_chat.errors import encode_error_body
from llmpipe.dialects.openai_chat.messages import encode_tool_call
from llmpipe.dialects.openai_chat.reasoning import IN_CONTENT, encode_reasoning
from llmpipe.dialects.openai_chat.reply import list_of_calls
from llmpipe.dialects.openai_chat.server import finish_word, split_extra
from llmpipe.dialects.openai_chat.thoughts import GEMINI, SIGNERS, as_block, only_signs, origin_of
from llmpipe.dialects.openai_chat.usage import encode_usage
from llmpipe.dialects.openai_chat.words import NAME, ChatWriting
from llmpipe.errors import LLMError
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Ping,
    Reasoning,
    ReasoningDelta,
    RefusalDelta,
    Request,
    Start,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    UsageUpdate,
)

if TYPE_CHECKING:
    from llmpipe.dialects.openai_chat.quirks import Quirks

__all__ = ("ChatEncoder",)

_dumps = orjson.dumps
_PLACE = ("type", "format", "index", "field")


class ChatEncoder:
    """One stream's events to its bytes.

    The role comes first, calls are numbered from 0 in the order they began, usage comes in a
    chunk of its own before the end and only if the caller asked for it
    (``stream_options.include_usage``), ``[DONE]`` comes last.

    Where another dialect's provider answers, what it says beyond our fields is not shown. Its reasoning
    comes in `reasoning_details` too where it may be signed at its end, and a signature without text waits
    for the call that it signs.
    """

    __slots__ = (
        "_calls",
        "_head",
        "_held",
        "_numbers",
        "_ready",
        "_refused",
        "_sealed",
        "_thoughts",
        "_usage",
        "_wants_usage",
        "_writing",
    )

    def __init__(self, request: Request, quirks: Quirks) -> None:
        options = request.extra.get("stream_options") if request.dialect in ("", NAME) else None
        self._wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._writing = ChatWriting("", Losses(), "assistant", quirks)
        self._head = b""  # what all chunks begin with; empty until the first
        self._held: ReasoningDelta | None = None  # a signature of what follows
        self._ready = False  # begun, and nothing is held
        self._refused = False  # the refusal itself was said
        self._calls: dict[int, int] = {}  # the wire's number of each call; -1 for a function_call
        self._thoughts: dict[int, dict[str, Any]] = {}  # where each reasoning part stands on the wire
        self._numbers: dict[int, int] = {}  # the wire's, of the reasoning parts of another dialect
        self._sealed: set[int] = set()  # reasoning parts whose proof has begun
        self._usage: Usage | None = None

    def feed(self, event: Event) -> bytes:
        """The bytes for `event`; may be empty."""
        if type(event) is TextDelta and self._ready:  # the hot path: only the text is written anew
            return self._text(event.text)
        if type(event) is Start:
            return self._start(event)
        if type(event) is Ping:
            return b": ping\n\n"
        if type(event) is UsageUpdate:
            self._usage = event.usage
            return b""
        before = self._begin(event)
        return before + (self._text(event.text) if type(event) is TextDelta else self._other(event))

    def close(self) -> bytes:
        """Usage, where it was asked for, and the end."""
        last = self._begin(None)
        if self._wants_usage and self._usage is not None:
            usage = encode_usage(self._usage, foreign=self._writing.foreign)
            last += self._chunk({"choices": [], "usage": usage})
        return last + b"data: [DONE]\n\n"

    def fail(self, error: LLMError) -> bytes:
        """An error inside the stream, after which there is no ``[DONE]``."""
        return sse.encode(_dumps(encode_error_body(error)))

    def _begin(self, event: Event | None) -> bytes:
        """What comes before `event`: the start, where there was none, and a signature that was held."""
        out = b"" if self._head else self._start(Start())
        held = self._held
        if held is None:
            return out
        self._held, self._ready = None, True
        call = ToolCall(event.id or "", "") if isinstance(event, ToolDelta) else None
        part = Reasoning("", held.signature, None, {}, held.origin)
        return out + self._delta(self._fields(as_block(part, call, self._number(held.index))))

    def _start(self, start: Start) -> bytes:
        head = {
            "id": start.id,
            "object": "chat.completion.chunk",
            "created": int(start.created or 0),
            "model": start.model,
        }
        self._head = b"data: " + _dumps(head)[:-1] + b","
        self._ready = True
        if start.dialect:
            self._writing = ChatWriting(start.dialect, Losses(), "assistant", self._writing.quirks)
        top, choice, others = split_extra(self._own(start.extra))
        delta = {"role": "assistant", "content": ""}
        out = self._chunk({**top, "choices": [_choice(delta, choice)]})
        for other in others:
            out += self._chunk({"choices": [_as_delta(other)]})
        return out

    def _text(self, text: str) -> bytes:
        return (
            self._head
            + b'"choices":[{"index":0,"delta":{"content":'
            + _dumps(text)
            + b'},"logprobs":null,"finish_reason":null}]}\n\n'
        )

    def _other(self, event: Event) -> bytes:
        if isinstance(event, ToolDelta):
            return self._delta(self._tool(event))
        if isinstance(event, ReasoningDelta):
            fields = self._reasoning(event)
            return self._delta(fields) if fields else b""
        if isinstance(event, RefusalDelta):
            self._refused = True
            return self._delta({"refusal": event.text})
        if isinstance(event, Finish):
            _, choice, _ = split_extra(self._own(event.extra))
            word = finish_word(event.reason, refused=self._refused)
            return self._chunk({"choices": [_choice({}, choice, word)]})
        if isinstance(event, Extra):
            return self._extra(event)
        return b""

    def _reasoning(self, event: ReasoningDelta) -> dict[str, Any]:
        """The delta of a thought. Where its first piece stands, the others do."""
        extra = dict(self._own(event.extra))
        if self._writing.foreign or event.origin not in ("", NAME, origin_of(extra)):
            return self._foreign(event)
        place = self._thoughts.setdefault(
            event.index, {name: extra[name] for name in _PLACE if name in extra}
        )
        part = Reasoning(event.text, event.signature, event.encrypted, {**place, **extra}, event.origin)
        if part.extra.get("type") in IN_CONTENT:  # their place is the content's list, and this is a string
            part = Reasoning(event.text)
        return self._fields(part)

    def _foreign(self, event: ReasoningDelta) -> dict[str, Any]:
        """The delta of a thought that another dialect's provider had."""
        origin = event.origin or self._writing.written_in
        part = Reasoning(event.text, event.signature, event.encrypted, {}, origin)
        if origin not in SIGNERS:
            return self._fields(Reasoning(event.text)) if event.text else {}
        if only_signs(part) and origin == GEMINI and event.index not in self._numbers:
            self._held, self._ready = event, False
            return {}
        block = as_block(part, None, self._number(event.index), string=True)
        if event.index in self._sealed:  # the first piece says whose it is
            block = evolve(block, signature=event.signature, encrypted=event.encrypted)
        elif event.signature or event.encrypted:
            self._sealed.add(event.index)
        return self._fields(block)

    def _fields(self, part: Reasoning) -> dict[str, Any]:
        field = self._writing.quirks.reasoning_field or "reasoning_content"
        return encode_reasoning([part], field, lossless=True)

    def _number(self, index: int) -> int:
        """The wire's number of a reasoning part of another dialect."""
        return self._numbers.setdefault(index, len(self._numbers))

    def _own(self, extra: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """What the wire had beyond our fields, where it was this one."""
        return {} if extra is None or self._writing.foreign else extra

    def _tool(self, event: ToolDelta) -> dict[str, Any]:
        """The delta of a call: its id and name once, then pieces of its arguments."""
        known = self._calls.get(event.index)
        if known is None:
            call = ToolCall(event.id or "", event.name or "", event.arguments, dict(self._own(event.extra)))
            if call.extra.get("type") == "function_call":
                self._calls[event.index] = -1
                return {"function_call": {"name": call.name, "arguments": call.arguments}}
            number = self._calls[event.index] = sum(1 for index in self._calls.values() if index >= 0)
            return {"tool_calls": [{"index": number, **encode_tool_call(call, self._writing, "")}]}
        if known < 0:
            return {"function_call": {"arguments": event.arguments}}
        more = dict(self._own(event.extra))
        if event.id:
            more["id"] = event.id
        function = (
            {"name": event.name, "arguments": event.arguments}
            if event.name
            else {"arguments": event.arguments}
        )
        return {"tool_calls": [{"index": known, "function": function, **more}]}

    def _extra(self, event: Extra) -> bytes:
        if event.of == "message":
            data = self._own(event.data)
            return self._delta(dict(data)) if data or not self._writing.foreign else b""
        top, choice, others = split_extra(self._own(event.data))
        out = b""
        if top or choice:
            out = self._chunk({**top, "choices": [_choice({}, choice)] if choice else []})
        for other in others:
            out += self._chunk({"choices": [_as_delta(other)]})
        return out

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._chunk({"choices": [_choice(delta, {})]})

    def _chunk(self, fields: dict[str, Any]) -> bytes:
        return self._head + _dumps(fields)[1:] + b"\n\n"


def _choice(delta: dict[str, Any], extra: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason, **extra}


def _as_delta(choice: dict[str, Any]) -> dict[str, Any]:
    """One of several choices (``n`` > 1), whole, as a delta."""
    delta = dict(choice)
    message = delta.pop("message", None)
    message = dict(message) if isinstance(message, dict) else {}
    if "tool_calls" in message:
        calls = list_of_calls(message["tool_calls"])
        message["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return {**delta, "delta": message}
