"""A stream of the wire as our events.

``messageStart``, then for each content block its deltas and ``contentBlockStop`` (text and reasoning
have no ``contentBlockStart``; tools, results and pictures do), then ``messageStop`` with the reason, and
``metadata`` with the usage. ``messageStop`` is the end: without it the stream was cut. Errors come as
messages that are no events. Each event has a field ``p`` of padding, which hides the length of words.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from llmpipe.dialects.bedrock_converse.errors import error_of_event
from llmpipe.dialects.bedrock_converse.open_block import OpenBlock, string_of
from llmpipe.dialects.bedrock_converse.parts import DIALECT
from llmpipe.dialects.bedrock_converse.reply import decode_finish, is_ours, tool_extra
from llmpipe.dialects.bedrock_converse.usage import decode_usage
from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.decoding import Decoding
from llmpipe.dialects.eventstream import EventStreamMessage, EventStreamParser
from llmpipe.dialects.jsonbody import excerpt, leftover
from llmpipe.errors import BadReply, StreamBroken
from llmpipe.types import Event, Extra, Finish, ReasoningDelta, Start, TextDelta, ToolDelta, UsageUpdate

__all__ = ("ConverseDecoder",)

_loads = orjson.loads

_START = frozenset(("role", "p"))
_STOP = frozenset(("stopReason", "p"))
_METADATA = frozenset(("usage", "p"))
_REASONING = frozenset(("text", "signature", "redactedContent"))


class ConverseDecoder(Decoding):
    """The decoder of one stream. `index` of an event is that of its content block."""

    __slots__ = ("_blocks", "_called", "_parser", "_started", "_stopped", "_used")

    def __init__(self, max_event_bytes: int = 24 * 1024 * 1024) -> None:
        super().__init__()
        self._parser = EventStreamParser(max_event_bytes)
        self._blocks: dict[object, OpenBlock] = {}  # by the wire's index
        self._used: set[int] = set()  # the indexes of events that stand for a whole block
        self._called = False  # the caller is to run a tool
        self._started = False
        self._stopped = False  # messageStop was seen

    def _read(self, data: bytes, events: list[Event]) -> None:
        for message in self._parser.feed(data):
            if self._take(message, events):
                break

    def _end(self, events: list[Event]) -> None:
        self._read(b"", events)  # an error of the parser that stood behind the last events
        if not self._stopped:
            where = "in the middle of an event" if self._parser.pending else "before messageStop"
            raise StreamBroken(
                f"the stream ended {where}", phase="stream", billed="unknown", code="stream_cut"
            )
        self.finished = True  # without the usage: it went missing, and nothing else did

    def _take(self, message: EventStreamMessage, events: list[Event]) -> bool:
        """One message; whether it is the last."""
        headers, payload = message
        if headers.get(":message-type", "event") != "event":
            raise error_of_event(headers, payload)
        kind = headers.get(":event-type")
        if self._stopped and kind != "metadata":  # nothing can be added to what has ended
            return False
        try:
            if kind == "contentBlockDelta":
                event = _loads(payload)
                self._delta(event.get("contentBlockIndex", 0), event["delta"], events)
            elif (step := _STEPS.get(kind)) is not None:
                step(self, _loads(payload), events)
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            # No JSON, or reaching into JSON of another shape than the protocol's.
            raise BadReply(
                f"an event of the stream is not the protocol's ({type(problem).__name__}: {problem}); "
                f"it begins {excerpt(payload)!r}",
                code="bad_event",
                phase="stream",
            ) from None
        return self.finished

    def _delta(self, key: object, delta: Mapping[str, Any], events: list[Event]) -> None:
        """The hot path: one of these for every few tokens. Empty deltas give nothing."""
        block = self._blocks.get(key)
        index = block.index if block is not None else key if type(key) is int else 0
        for kind, value in delta.items():
            if kind == "text":
                if value:
                    events.append(TextDelta(value if type(value) is str else string_of(value), index))
            elif kind == "reasoningContent":
                self._reasoning(key, index, value, events)
            elif kind == "toolUse":
                if block is not None and block.kind == "opaque":
                    block.pieces.append(string_of(value["input"]))
                elif text := value["input"]:
                    if block is not None:
                        block.silent = False
                    events.append(ToolDelta(index, None, None, string_of(text)))
            elif kind == "citation":
                events.append(TextDelta("", index, {"citations": [value]}))
            elif block is not None:
                block.add(kind, value)

    def _reasoning(self, key: object, index: int, value: Mapping[str, Any], events: list[Event]) -> None:
        hidden = value.get("redactedContent")
        if hidden is not None:
            block = self._blocks.get(key)
            if block is None:
                block = self._blocks[key] = OpenBlock("hidden", index)
            block.pieces.append(string_of(hidden))
            return
        text, signature = string_of(value.get("text") or ""), string_of(value.get("signature") or "")
        extra = leftover(value, _REASONING)
        if text or signature or extra:
            origin = DIALECT if signature else ""
            events.append(ReasoningDelta(text, index, signature or None, None, extra or None, origin))

    def _block_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        key = event.get("contentBlockIndex", 0)
        self._stop(key, events)
        # Another block had this number: two calls under one would be one call.
        index = key if type(key) is int and key not in self._used else max(self._used, default=-1) + 1
        self._used.add(index)
        for kind, wire in event["start"].items():
            if kind == "toolUse" and is_ours(wire):
                name = string_of(wire["name"])
                call_id = string_of(wire.get("toolUseId") or made_up_id("", index, name))
                events.append(ToolDelta(index, call_id, name, "", tool_extra(wire) or None))
                self._called = True
                self._blocks[key] = OpenBlock("tool", index)
            else:
                self._blocks[key] = OpenBlock("opaque", index, kind, dict(wire))

    def _block_stop(self, event: Mapping[str, Any], events: list[Event]) -> None:
        self._stop(event.get("contentBlockIndex", 0), events)

    def _stop(self, key: object, events: list[Event]) -> None:
        block = self._blocks.pop(key, None)
        if block is None:
            return
        if block.kind == "tool":
            if block.silent:  # no delta with arguments came: there are none
                events.append(ToolDelta(block.index, arguments="{}"))
        elif block.kind == "hidden":
            events.append(ReasoningDelta("", block.index, None, block.joined(), origin=DIALECT))
        else:
            events.append(Extra(part=block.part()))

    def _message_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        if not self._started:
            self._started = True
            events.append(Start(dialect=DIALECT))
            if extra := leftover(event, _START):
                events.append(Extra(extra, of="message"))

    def _message_stop(self, event: Mapping[str, Any], events: list[Event]) -> None:
        for key in list(self._blocks):
            self._stop(key, events)
        finish, extra = decode_finish(event["stopReason"], has_calls=self._called)
        extra.update(leftover(event, _STOP))
        events.append(Finish(finish, extra or None))
        self._stopped = True

    def _metadata(self, event: Mapping[str, Any], events: list[Event]) -> None:
        usage = decode_usage(event.get("usage"))
        if usage is not None:
            events.append(UsageUpdate(usage))
        if extra := leftover(event, _METADATA):
            events.append(Extra(extra))
        self.finished = self._stopped


_STEPS: dict[object, Callable[[ConverseDecoder, Mapping[str, Any], list[Event]], None]] = {
    "contentBlockStart": ConverseDecoder._block_start,
    "contentBlockStop": ConverseDecoder._block_stop,
    "messageStart": ConverseDecoder._message_start,
    "messageStop": ConverseDecoder._message_stop,
    "metadata": ConverseDecoder._metadata,
}
