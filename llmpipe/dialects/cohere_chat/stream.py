"""A stream of the wire as our events.

``message-start``; a ``tool-plan-delta`` for each piece of the plan; for each content block
``content-start``, its deltas and ``content-end``, with citations between them; for each tool call
``tool-call-start``, its deltas and ``tool-call-end``; then ``message-end`` with the finish reason and the
usage, which is the end: without it the stream was cut. ``[DONE]`` follows. Unknown events are passed over.

Source: https://docs.cohere.com/v2/docs/streaming, the event types of Cohere's Python SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmpipe.dialects.cohere_chat.errors import error_in
from llmpipe.dialects.cohere_chat.parts import NAME, PLAN
from llmpipe.dialects.cohere_chat.reply import arguments_text, call_of, decode_finish, unmodelled
from llmpipe.dialects.cohere_chat.usage import decode_usage
from llmpipe.dialects.decoding import Decoding
from llmpipe.dialects.jsonbody import excerpt, lines_of_json
from llmpipe.dialects.problem import says_error, stray_error
from llmpipe.dialects.sse import SSEParser
from llmpipe.errors import BadReply, LLMError, StreamBroken
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Opaque,
    Ping,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolDelta,
    UsageUpdate,
)

__all__ = ("ChatDecoder",)

_loads = orjson.loads
_PING = Ping()
_CONTENT = frozenset(("text", "thinking", "type"))
_MESSAGE = frozenset(("citations", "content", "role", "tool_calls", "tool_plan"))
_END = frozenset(("error", "error_type", "finish_reason", "usage"))
_START = frozenset(("delta", "id", "type"))


class ChatDecoder(Decoding):
    """The decoder of one stream, which ends with ``message-end``."""

    __slots__ = (
        "_called",
        "_calls",
        "_count",
        "_indexes",
        "_opaque",
        "_parser",
        "_planned",
        "_reply_id",
        "_started",
    )

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        super().__init__()
        self._parser = SSEParser(max_event_bytes)
        self._started = False
        self._reply_id = ""
        self._indexes: dict[object, int] = {}  # of events, by the wire's index of a block; the plan is one
        self._count = 0  # of blocks that have begun
        self._planned = False
        self._opaque: dict[object, dict[str, Any]] = {}  # blocks we do not model, until they end
        self._calls: dict[object, int] = {}  # of events, by the wire's index of a call
        self._called = 0

    def _read(self, data: bytes, events: list[Event]) -> None:
        for name, raw in self._parser.feed(data):
            if not raw:
                events.append(_PING)
            elif self._take(name, raw, events):
                break

    def _end(self, events: list[Event]) -> None:
        ended = False
        for name, raw in self._parser.close():
            if raw and not ended and _is_whole(raw):
                ended = self._take(name, raw, events)
        if not ended:
            raise self._broken()

    def _broken(self) -> LLMError:
        """Why the stream has no end: cut, or never a stream but an error as plain JSON."""
        stray = self._parser.stray.strip()
        if stray and (told := stray_error(stray)) is not None:
            return error_in(told, phase="stream")
        if stray and _is_message(stray):
            return error_in(_loads(stray), phase="stream")
        hint = f"; it has {excerpt(stray)!r}, which is no event" if stray else ""
        return StreamBroken(
            f"the stream ended before message-end{hint}", phase="stream", billed="unknown", code="stream_cut"
        )

    def _take(self, name: str | None, raw: bytes, events: list[Event]) -> bool:
        """One event: its data, and its name where the data does not tell its type; whether it is the end."""
        try:
            event = _loads(raw)
        except orjson.JSONDecodeError as problem:
            if raw.strip() == b"[DONE]":  # too early: `close` says that message-end is missing
                return False
            if lines := lines_of_json(raw, b"[DONE]"):  # a server that leaves out the blank line
                return any(self._take(None, line, events) for line in lines)
            raise BadReply(
                f"an event of the stream is not JSON: {problem.msg} at character {problem.pos}; "
                f"it begins {excerpt(raw)!r}",
                code="event_not_json",
                phase="stream",
            ) from None
        try:
            kind = event.get("type", name)
            if kind == "content-delta":
                self._delta(event, events)
            elif (step := _STEPS.get(kind)) is not None:
                step(self, event, events)
            elif kind == "error" or says_error(event) or (kind is None and event.get("message")):
                raise error_in(event, phase="stream")
        except (AttributeError, KeyError, TypeError) as problem:
            # Reaching into JSON of another shape than the protocol's raises one of these.
            raise BadReply(
                f"an event of the stream is not the protocol's ({type(problem).__name__}: {problem}); "
                f"it begins {excerpt(raw)!r}",
                code="bad_event",
                phase="stream",
            ) from None
        return self.finished

    def _delta(self, event: Mapping[str, Any], events: list[Event]) -> None:
        """The hot path: one of these for every token. Empty deltas give nothing."""
        key = event.get("index")
        content = event["delta"]["message"]["content"]
        if not content:
            return
        if self._opaque and key in self._opaque:
            _grow(self._opaque[key], content)
            return
        index = self._indexes.get(key)
        if index is None:
            index = self._place(key)
        text = content.get("text")
        if text:
            events.append(TextDelta(_string(text), index))
        thought = content.get("thinking")
        if thought:
            events.append(ReasoningDelta(_string(thought), index))
        if len(content) > 1 and (extra := unmodelled(content, _CONTENT)):
            is_thought = "thinking" in content
            events.append(
                ReasoningDelta("", index, extra=extra) if is_thought else TextDelta("", index, extra)
            )
        logprobs = event.get("logprobs")
        if logprobs:
            events.append(Extra({"logprobs": logprobs if type(logprobs) is list else [logprobs]}))

    def _place(self, key: object) -> int:
        """The index for the events of a block that begins under `key`, which another may have had."""
        index = self._indexes[key] = self._count
        self._count += 1
        return index

    def _message_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        if self._started:
            return
        self._started = True
        reply_id = event.get("id")
        self._reply_id = _string(reply_id) if reply_id else ""
        extra = unmodelled(event, _START)
        events.append(Start(self._reply_id, extra=extra or None, dialect=NAME))
        message = (event.get("delta") or {}).get("message") or {}
        if rest := unmodelled(message, _MESSAGE):
            events.append(Extra(rest, of="message"))

    def _content_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        key, content = event.get("index"), event["delta"]["message"]["content"]
        kind = content.get("type")
        self._place(key)
        if kind in ("text", "thinking", None):
            self._delta({**event, "index": key}, events)
        else:
            self._opaque[key] = dict(content)

    def _content_end(self, event: Mapping[str, Any], events: list[Event]) -> None:
        block = self._opaque.pop(event.get("index"), None)
        if block is not None:
            events.append(Extra(part=Opaque(NAME, block)))

    def _plan(self, event: Mapping[str, Any], events: list[Event]) -> None:
        text = event["delta"]["message"]["tool_plan"]
        if not text:
            return
        if not self._planned:
            self._place("plan")
        index = self._indexes["plan"]
        events.append(ReasoningDelta(_string(text), index, extra=None if self._planned else PLAN))
        self._planned = True

    def _call_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        wire = event["delta"]["message"]["tool_calls"]
        index = self._calls[event.get("index")] = self._called
        self._called += 1
        call = call_of(wire[0] if type(wire) is list and wire else wire, self._reply_id, index)
        events.append(ToolDelta(index, call.id, call.name or None, call.arguments, call.extra or None))

    def _call_delta(self, event: Mapping[str, Any], events: list[Event]) -> None:
        wire = event["delta"]["message"]["tool_calls"]
        function = (wire[0] if type(wire) is list and wire else wire)["function"]
        piece = arguments_text(function.get("arguments"))
        if piece:
            events.append(ToolDelta(self._calls[event.get("index")], arguments=piece))

    def _citation(self, event: Mapping[str, Any], events: list[Event]) -> None:
        told = event["delta"]["message"]["citations"]
        if told:
            events.append(Extra({"citations": told if type(told) is list else [told]}, of="message"))

    def _message_end(self, event: Mapping[str, Any], events: list[Event]) -> None:
        delta = event.get("delta") or {}
        usage = decode_usage(delta.get("usage"))
        if usage is not None:
            events.append(UsageUpdate(usage))
        if delta.get("error"):
            raise error_in({**delta, "message": delta["error"]}, phase="stream")
        for key in list(self._opaque):  # blocks that the server forgot to end
            self._content_end({"index": key}, events)
        finish, extra = decode_finish(delta.get("finish_reason"))
        extra.update(unmodelled(delta, _END))
        finish = finish or ("tool_calls" if self._calls else "stop")
        events.append(Finish(finish, extra or None))
        self.finished = True


_STEPS: dict[str | None, Callable[[ChatDecoder, Mapping[str, Any], list[Event]], None]] = {
    "citation-start": ChatDecoder._citation,
    "content-end": ChatDecoder._content_end,
    "content-start": ChatDecoder._content_start,
    "message-end": ChatDecoder._message_end,
    "message-start": ChatDecoder._message_start,
    "tool-call-delta": ChatDecoder._call_delta,
    "tool-call-start": ChatDecoder._call_start,
    "tool-plan-delta": ChatDecoder._plan,
}


def _string(value: object) -> str:
    """`value`, a string. Raises: TypeError for anything else, as reaching into wrong JSON does."""
    if type(value) is str:
        return value
    raise TypeError(f"a string was expected, not {type(value).__name__}")


def _grow(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a delta to a block we do not model: texts are joined, the rest is replaced."""
    for name, value in delta.items():
        old = block.get(name)
        both = isinstance(old, str) and isinstance(value, str) and name != "type"
        block[name] = f"{old}{value}" if both else value


def _is_whole(raw: bytes) -> bool:
    """Whether the last event, which no blank line ended, was not cut inside its JSON."""
    try:
        _loads(raw)
    except orjson.JSONDecodeError:
        return bool(lines_of_json(raw, b"[DONE]"))
    return True


def _is_message(stray: bytes) -> bool:
    """Whether it is Cohere's error body, which has a message and no more to tell it by."""
    try:
        wire = _loads(stray)
    except orjson.JSONDecodeError:
        return False
    return isinstance(wire, dict) and isinstance(wire.get("message"), str)
