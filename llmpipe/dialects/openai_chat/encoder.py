"""The server's side of a stream: events in, the chunks OpenAI would send out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from llmpipe.dialects import sse
from llmpipe.dialects.openai_chat.errors import encode_error_body
from llmpipe.dialects.openai_chat.messages import encode_tool_call
from llmpipe.dialects.openai_chat.reasoning import IN_CONTENT, encode_reasoning
from llmpipe.dialects.openai_chat.reply import list_of_calls
from llmpipe.dialects.openai_chat.server import FINISH_WORDS, split_extra
from llmpipe.dialects.openai_chat.usage import encode_usage
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


class ChatEncoder:
    """One stream's events to its bytes.

    The role comes first, calls are numbered from 0 in the order they began, usage comes in a
    chunk of its own before the end and only if the caller asked for it
    (``stream_options.include_usage``), ``[DONE]`` comes last.
    """

    __slots__ = ("_calls", "_head", "_quirks", "_thoughts", "_usage", "_wants_usage")

    def __init__(self, request: Request, quirks: Quirks) -> None:
        options = request.extra.get("stream_options")
        self._wants_usage = isinstance(options, dict) and options.get("include_usage") is True
        self._quirks = quirks
        self._head = b""  # what all chunks begin with; empty until the first
        self._calls: dict[int, int] = {}  # the wire's number of each call; -1 for a function_call
        self._thoughts: dict[int, dict[str, Any]] = {}  # where each reasoning part stands on the wire
        self._usage: Usage | None = None

    def feed(self, event: Event) -> bytes:
        """The bytes for `event`; may be empty."""
        if type(event) is TextDelta:  # the hot path: only the text is written anew
            if self._head:
                return self._text(event.text)
            return self._start(Start()) + self._text(event.text)
        if type(event) is Start:
            return self._start(event)
        if type(event) is Ping:
            return b": ping\n\n"
        if type(event) is UsageUpdate:
            self._usage = event.usage
            return b""
        return (b"" if self._head else self._start(Start())) + self._other(event)

    def close(self) -> bytes:
        """Usage, where it was asked for, and the end."""
        last = b"" if self._head else self._start(Start())
        if self._wants_usage and self._usage is not None:
            last += self._chunk({"choices": [], "usage": encode_usage(self._usage)})
        return last + b"data: [DONE]\n\n"

    def fail(self, error: LLMError) -> bytes:
        """An error inside the stream, after which there is no ``[DONE]``."""
        return sse.encode(_dumps(encode_error_body(error)))

    def _start(self, start: Start) -> bytes:
        head = {
            "id": start.id,
            "object": "chat.completion.chunk",
            "created": int(start.created or 0),
            "model": start.model,
        }
        self._head = b"data: " + _dumps(head)[:-1] + b","
        top, choice, others = split_extra(start.extra or {})
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
            return self._delta({"refusal": event.text})
        if isinstance(event, Finish):
            _, choice, _ = split_extra(event.extra or {})
            return self._chunk({"choices": [_choice({}, choice, FINISH_WORDS[event.reason])]})
        if isinstance(event, Extra):
            return self._extra(event)
        return b""

    def _reasoning(self, event: ReasoningDelta) -> dict[str, Any]:
        """The delta of a thought. Where its first piece stands, the others do."""
        extra = dict(event.extra or {})
        place = self._thoughts.setdefault(
            event.index, {name: extra[name] for name in ("type", "index", "field") if name in extra}
        )
        part = Reasoning(event.text, event.signature, event.encrypted, {**place, **extra})
        if part.extra.get("type") in IN_CONTENT:  # their place is the content's list, and this is a string
            part = Reasoning(event.text)
        return encode_reasoning([part], self._quirks.reasoning_field or "reasoning_content", lossless=True)

    def _tool(self, event: ToolDelta) -> dict[str, Any]:
        """The delta of a call: its id and name once, then pieces of its arguments."""
        known = self._calls.get(event.index)
        if known is None:
            call = ToolCall(event.id or "", event.name or "", event.arguments, dict(event.extra or {}))
            if call.extra.get("type") == "function_call":
                self._calls[event.index] = -1
                return {"function_call": {"name": call.name, "arguments": call.arguments}}
            number = self._calls[event.index] = sum(1 for index in self._calls.values() if index >= 0)
            return {"tool_calls": [{"index": number, **encode_tool_call(call, self._quirks)}]}
        if known < 0:
            return {"function_call": {"arguments": event.arguments}}
        more = dict(event.extra or {})
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
            return self._delta(dict(event.data or {}))
        top, choice, others = split_extra(event.data or {})
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
