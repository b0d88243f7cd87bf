"""A stream of the wire as our events.

One message is ``message_start``, then for each content block ``content_block_start``, its deltas
and ``content_block_stop``, then ``message_delta`` with the stop reason and the final usage, then
``message_stop``, which is the end: without it the stream was cut. ``ping`` and ``error`` can come
anywhere; unknown events and deltas are passed over, as the API's versioning policy asks.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmpipe.dialects.anthropic_messages.blocks import DIALECT
from llmpipe.dialects.anthropic_messages.errors import error_in_body
from llmpipe.dialects.anthropic_messages.open_block import OpenBlock, is_json, string_of
from llmpipe.dialects.anthropic_messages.reply import arguments, decode_finish, extra_of
from llmpipe.dialects.anthropic_messages.usage import decode_usage, merge_usage
from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.decoding import Decoding
from llmpipe.dialects.jsonbody import excerpt, leftover, lines_of_json
from llmpipe.dialects.problem import object_of, says_error, stray_error
from llmpipe.dialects.sse import SSEParser
from llmpipe.errors import BadReply, LLMError, StreamBroken
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Ping,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolDelta,
    UsageUpdate,
)

__all__ = ("MessageDecoder",)

_loads = orjson.loads
_PING = Ping()

_MESSAGE = frozenset(
    ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "stop_details", "usage")
)
_MESSAGE_DELTA = frozenset(("type", "delta", "usage"))
_STOP_REASON = frozenset(("stop_reason",))
# What the end may say once more, in place of what the beginning said.
_TOLD_AGAIN = ("container", "context_management", "input_transformations")


class MessageDecoder(Decoding):
    """The decoder of one stream, which ends with ``message_stop``. An event's `index` is its block's."""

    __slots__ = (
        "_blocks",
        "_called",
        "_ended",
        "_late",
        "_message_id",
        "_parser",
        "_started",
        "_usage",
        "_used",
    )

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        super().__init__()
        self._parser = SSEParser(max_event_bytes)
        self._blocks: dict[object, OpenBlock] = {}  # by the wire's index
        self._used: set[int] = set()  # the indexes of events
        self._late: dict[str, Any] = {}  # of the beginning, for the end to replace
        self._message_id = ""
        self._usage: dict[str, Any] = {}
        self._started = False
        self._called = False  # a tool was called
        self._ended = False  # a Finish was given out

    def _read(self, data: bytes, events: list[Event]) -> None:
        for name, raw in self._parser.feed(data):
            if raw is None:
                events.append(_PING)
            elif self._take(name, raw, events):
                break

    def _end(self, events: list[Event]) -> None:
        ended = False
        for name, raw in self._parser.close():
            # Otherwise it was cut inside the event.
            if raw is not None and not ended and (is_json(raw) or lines_of_json(raw, b"[DONE]")):
                ended = self._take(name, raw, events)
        if not ended:
            raise self._broken()

    def _broken(self) -> LLMError:
        """Why the stream has no end: cut, or never a stream but an error as plain JSON."""
        stray = self._parser.stray.strip()
        hint = f"; it has {excerpt(stray)!r}, which is no event" if stray else ""
        if stray and (told := stray_error(stray)) is not None:
            return error_in_body(object_of(told), phase="stream")
        return StreamBroken(
            f"the stream ended before message_stop{hint}", phase="stream", billed="unknown", code="stream_cut"
        )

    def _take(self, name: str | None, raw: bytes, events: list[Event]) -> bool:
        """One event: its data, and its name where the data does not tell its type; whether it is the end."""
        try:
            event = _loads(raw)
        except orjson.JSONDecodeError as problem:
            if lines := lines_of_json(raw, b"[DONE]"):  # a server that leaves out the blank line
                return any(self._take(None, line, events) for line in lines)
            event = _not_json(name, raw, problem)
        try:
            kind = event.get("type", name)
            if kind == "content_block_delta":
                self._delta(event.get("index"), event["delta"], events)
            elif kind == "ping":
                events.append(_PING)
            elif kind == "message_stop":
                self._message_stop(events)
                return True
            elif kind == "error" or (kind is None and says_error(event)):
                raise error_in_body(event, phase="stream")
            elif (step := _STEPS.get(kind)) is not None:
                step(self, event, events)
        except (AttributeError, KeyError, TypeError) as problem:
            # Reaching into JSON of another shape than the protocol's raises one of these.
            raise BadReply(
                f"an event of the stream is not the protocol's ({type(problem).__name__}: {problem}); "
                f"it begins {excerpt(raw)!r}",
                code="bad_event",
                phase="stream",
            ) from None
        return False

    def _delta(self, key: object, delta: Mapping[str, Any], events: list[Event]) -> None:
        """The hot path: one of these for every few tokens. Empty deltas give nothing."""
        block = self._blocks.get(key)
        kind = delta["type"]
        if block is None:  # the server forgot to start it, or it was stopped
            index = key if type(key) is int else 0
            self._used.add(index)
        else:
            index = block.index
            if block.kind == "opaque":
                block.add(delta)
                return
            if kind == "signature_delta":
                # Whole, not a piece: Anthropic's SDKs replace what they have.
                block.held = string_of(delta["signature"])
                return
        event: Event
        if kind == "text_delta":
            text = delta.get("text")
            if not text:
                return
            event = TextDelta(text if type(text) is str else string_of(text), index)
        elif kind == "input_json_delta":
            text = delta.get("partial_json")
            if not text:
                return
            event = ToolDelta(index, None, None, text if type(text) is str else string_of(text))
        elif kind == "thinking_delta":
            text = delta.get("thinking")
            if not text:
                return
            event = ReasoningDelta(text if type(text) is str else string_of(text), index)
        elif kind == "citations_delta" and delta.get("citation") is not None:
            event = TextDelta("", index, {"citations": [delta["citation"]]})
        else:
            return
        if block is not None:
            block.silent = False
        events.append(event)

    def _block_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        key, wire = event.get("index"), event["content_block"]
        kind = wire["type"]
        index = self._place(key, events)
        if kind == "text":
            block = OpenBlock("text", wire, index)
            extra = extra_of(wire)
            if (text := string_of(wire.get("text") or "")) or extra:
                events.append(TextDelta(text, index, extra or None))
                block.silent = False
        elif kind == "tool_use":
            block = OpenBlock("tool", wire, index)
            block.held = arguments(wire.get("input"))
            self._called = True
            extra, tool = extra_of(wire), string_of(wire["name"])
            call_id = string_of(wire.get("id") or made_up_id(self._message_id, index, tool))
            events.append(ToolDelta(index, call_id, tool, "", extra or None))
        elif kind == "thinking":
            block = OpenBlock("thinking", wire, index)
            block.held = string_of(wire.get("signature") or "")
            extra = extra_of(wire)
            if (text := string_of(wire.get("thinking") or "")) or extra:
                events.append(ReasoningDelta(text, index, extra=extra or None))
                block.silent = False
        elif kind == "redacted_thinking":
            extra = extra_of(wire)
            events.append(ReasoningDelta("", index, None, string_of(wire["data"]), extra or None, DIALECT))
            return
        else:
            block = OpenBlock("opaque", wire, index)
        self._blocks[key] = block

    def _place(self, key: object, events: list[Event]) -> int:
        """The index for the events of a block that begins under `key`, once the block before it is over.

        Kimi leaves out the stops between blocks (xemantic/anthropic-sdk-kotlin#147), and some
        servers number all blocks 0. Only tool calls come interleaved.
        """
        for other, block in list(self._blocks.items()):
            if other == key or block.kind != "tool":
                self._stop(other, events)
        index = key if type(key) is int and key not in self._used else max(self._used, default=-1) + 1
        self._used.add(index)
        return index

    def _block_stop(self, event: Mapping[str, Any], events: list[Event]) -> None:
        self._stop(event.get("index"), events)

    def _stop(self, key: object, events: list[Event]) -> None:
        block = self._blocks.pop(key, None)
        if block is None:
            return
        index = block.index
        if block.kind == "opaque":
            events.append(Extra(part=block.part()))
        elif block.kind == "text" and block.silent:
            events.append(TextDelta("", index))
        elif block.kind == "tool" and block.silent:
            # No delta with arguments came: they are those of the start, and mostly {}.
            events.append(ToolDelta(index, arguments=block.held))
        elif block.kind == "thinking" and (block.held or block.silent):
            signature = block.held or None
            origin = "" if signature is None else DIALECT
            events.append(ReasoningDelta("", index, signature, origin=origin))

    def _message_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        message = event["message"]
        if not self._started:
            self._started = True
            self._message_id = _text(message.get("id"))
            extra = {**leftover(message, _MESSAGE)}
            self._late = {name: extra.pop(name) for name in _TOLD_AGAIN if name in extra}
            model = _text(message.get("model"))
            events.append(Start(self._message_id, model, extra=extra or None, dialect=DIALECT))
        if merge_usage(self._usage, message.get("usage")):
            self._tell_usage(events)
        for index, block in enumerate(message.get("content") or ()):  # what is there already, and whole
            self._block_start({"index": index, "content_block": block}, events)
            self._stop(index, events)

    def _message_delta(self, event: Mapping[str, Any], events: list[Event]) -> None:
        self._stop_all(events)
        if merge_usage(self._usage, event.get("usage")):
            self._tell_usage(events)
        delta = event["delta"] or {}
        finish, extra = decode_finish(delta.get("stop_reason"))
        extra.update(leftover(delta, _STOP_REASON))
        extra.update(leftover(event, _MESSAGE_DELTA))
        if self._late:
            extra, self._late = {**self._late, **extra}, {}
        if finish is not None and not self._ended:
            self._ended = True
            events.append(Finish(finish, extra or None))
        elif extra:
            events.append(Extra(extra))

    def _message_stop(self, events: list[Event]) -> None:
        self._stop_all(events)
        if not self._ended:
            # Some compatible servers send no message_delta. The protocol's end was seen all the same.
            self._ended = True
            events.append(Finish("tool_calls" if self._called else "stop", self._late or None))
        self.finished = True

    def _stop_all(self, events: list[Event]) -> None:
        """Stop the blocks that the server forgot to stop."""
        for key in list(self._blocks):
            self._stop(key, events)

    def _tell_usage(self, events: list[Event]) -> None:
        usage = decode_usage(self._usage)
        if usage is not None:
            events.append(UsageUpdate(usage))


_STEPS: dict[str | None, Callable[[MessageDecoder, Mapping[str, Any], list[Event]], None]] = {
    "content_block_start": MessageDecoder._block_start,
    "content_block_stop": MessageDecoder._block_stop,
    "message_start": MessageDecoder._message_start,
    "message_delta": MessageDecoder._message_delta,
}


def _not_json(name: str | None, raw: bytes, problem: orjson.JSONDecodeError) -> dict[str, Any]:
    """An event without meaning, where the data is a known oddity.

    Raises: the error that the data tells of in plain words, or BadReply.
    """
    if raw.strip() in (b"", b"[DONE]"):  # nothing, or other protocols' end, which some servers add
        return {"type": "ping"}
    if name == "error":
        raise error_in_body({"error": excerpt(raw)}, phase="stream") from None
    raise BadReply(
        f"an event of the stream is not JSON: {problem.msg} at character {problem.pos}; "
        f"it begins {excerpt(raw)!r}",
        code="event_not_json",
        phase="stream",
    ) from None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
