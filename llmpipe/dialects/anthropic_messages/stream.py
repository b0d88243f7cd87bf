"""A stream of the wire as our events.

One message is ``message_start``, then for each content block ``content_block_start``, its deltas
and ``content_block_stop``, then ``message_delta`` with the stop reason and the final usage, then
``message_stop``, which is the end: without it the stream was cut. ``ping`` and ``error`` can come
anywhere; unknown events and deltas are passed over, as the API's versioning policy asks.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import orjson

from llmpipe.dialects.anthropic_messages.blocks import DIALECT
from llmpipe.dialects.anthropic_messages.errors import error_in_body
from llmpipe.dialects.anthropic_messages.reply import arguments, decode_finish, extra_of
from llmpipe.dialects.anthropic_messages.usage import decode_usage, merge_usage
from llmpipe.dialects.jsonbody import excerpt, leftover
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

__all__ = ("MessageDecoder",)

_loads = orjson.loads
_PING = Ping()

_MESSAGE = frozenset(
    ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "stop_details", "usage")
)
_MESSAGE_DELTA = frozenset(("type", "delta", "usage"))
_STOP_REASON = frozenset(("stop_reason",))


class _Block:
    """A content block that has started and not stopped.

    `silent` until something of it was given out: nothing is at its start where the block is still
    empty, because the first content commits a reply, and an empty block is none.
    """

    __slots__ = ("data", "held", "kind", "pieces", "silent")

    def __init__(self, kind: Literal["text", "thinking", "tool", "opaque"], data: dict[str, Any]) -> None:
        self.kind = kind
        self.data = data
        self.silent = True
        self.held = ""  # tool: the input of its start; thinking: the signature
        self.pieces: dict[str, list[Any]] = {}  # opaque: what its deltas add to its fields

    def add(self, delta: Mapping[str, Any]) -> None:
        """Merge a delta into an opaque block: what is known to be in pieces is joined, the rest replaced."""
        field = _PIECES.get(delta["type"])
        if field is None:  # signature_delta, and compaction_delta, which is whole
            self.data.update({name: value for name, value in delta.items() if name != "type"})
            return
        piece, into = field
        self.pieces.setdefault(into, []).append(
            delta[piece] if piece == "citation" else _string(delta[piece])
        )

    def part(self) -> Opaque:
        """The opaque block, whole."""
        data = self.data
        for field, pieces in self.pieces.items():
            if field == "citations":
                data[field] = [*(data.get(field) or ()), *pieces]
            elif field != "input":
                data[field] = "".join([data.get(field) or "", *pieces])
            elif text := "".join(pieces):
                # Cut by max_tokens it stays the text it is, never an invented {}.
                data[field] = _loads(text) if _is_json(text) else text
        return Opaque(DIALECT, data)


# Deltas that come in pieces: where the piece stands, and to which field of the block it belongs.
_PIECES = {
    "input_json_delta": ("partial_json", "input"),
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "citations_delta": ("citation", "citations"),
}


class MessageDecoder:
    """One stream's bytes to events. `index` of an event is that of its content block."""

    __slots__ = ("_blocks", "_called", "_ended", "_error", "_parser", "_started", "_usage", "finished")

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        self._parser = SSEParser(max_event_bytes)
        self._blocks: dict[int, _Block] = {}
        self._usage: dict[str, Any] = {}
        self._error: LLMError | None = None
        self._started = False
        self._called = False  # a tool was called
        self._ended = False  # a Finish was given out
        self.finished = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes; bytes after the end are ignored.

        Raises: the classified LLMError of an ``error`` event, BadReply for what is not the
        protocol; both after the events completed before were returned.
        """
        if self._error is not None:
            raise self._error
        if self.finished:
            return []
        events: list[Event] = []
        try:
            for name, raw in self._parser.feed(data):
                if raw is None:
                    events.append(_PING)
                    continue
                if self._take(name, raw, events):
                    break
        except LLMError as error:
            self._error = error
            if not events:
                raise
        return events

    def close(self) -> list[Event]:
        """The last events, at the end of the bytes.

        Raises: StreamBroken if ``message_stop`` was not seen, or an error that is still due.
        """
        if self._error is not None:
            raise self._error
        events: list[Event] = []
        if self.finished:
            return events
        ended = False
        try:
            for name, raw in self._parser.close():
                if raw is not None and not ended and _is_json(raw):  # else it was cut inside the event
                    ended = self._take(name, raw, events)
            if not ended:
                raise self._broken()
        except LLMError as error:
            self._error = error
            raise
        return events

    def _broken(self) -> LLMError:
        """Why the stream has no end: cut, or never a stream but an error as plain JSON."""
        stray = self._parser.stray.strip()
        hint = f"; it has {excerpt(stray)!r}, which is no event" if stray else ""
        if stray.startswith(b"{") and _is_json(stray):
            body = _loads(stray)
            if body.get("type") == "error" or "error" in body:
                return error_in_body(body, phase="stream")
        return StreamBroken(
            f"the stream ended before message_stop{hint}", phase="stream", billed="unknown", code="stream_cut"
        )

    def _take(self, name: str | None, raw: bytes, events: list[Event]) -> bool:
        """One event: its data, and its name where the data does not tell its type; whether it is the end."""
        try:
            event = _loads(raw)
        except orjson.JSONDecodeError as problem:
            event = _not_json(name, raw, problem)
        try:
            kind = event.get("type", name)
            if kind == "content_block_delta":
                self._delta(event["index"], event["delta"], events)
            elif kind == "ping":
                events.append(_PING)
            elif kind == "message_stop":
                self._message_stop(events)
                return True
            elif kind == "error" or (kind is None and "error" in event):
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

    def _delta(self, index: int, delta: Mapping[str, Any], events: list[Event]) -> None:
        """The hot path: one of these for every few tokens. Empty deltas give nothing."""
        block = self._blocks.get(index)
        kind = delta["type"]
        if block is not None:
            if block.kind == "opaque":
                block.add(delta)
                return
            if kind == "signature_delta":
                # Whole, not a piece: Anthropic's SDKs replace what they have.
                block.held = _string(delta["signature"])
                return
        event: Event
        if kind == "text_delta":
            if not (text := _string(delta["text"])):
                return
            event = TextDelta(text, index)
        elif kind == "input_json_delta":
            if not (text := _string(delta["partial_json"])):
                return
            event = ToolDelta(index, None, None, text)
        elif kind == "thinking_delta":
            if not (text := _string(delta["thinking"])):
                return
            event = ReasoningDelta(text, index)
        elif kind == "citations_delta":
            event = TextDelta("", index, {"citations": [delta["citation"]]})
        else:
            return
        if block is not None:
            block.silent = False
        events.append(event)

    def _block_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        index, wire = event["index"], event["content_block"]
        kind = wire["type"]
        if kind == "text":
            block = _Block("text", wire)
            extra = extra_of(wire)
            if (text := _string(wire["text"])) or extra:
                events.append(TextDelta(text, index, extra or None))
                block.silent = False
        elif kind == "tool_use":
            block = _Block("tool", wire)
            block.held = arguments(wire.get("input"))
            self._called = True
            extra = extra_of(wire)
            events.append(ToolDelta(index, _string(wire["id"]), _string(wire["name"]), "", extra or None))
        elif kind == "thinking":
            block = _Block("thinking", wire)
            block.held = _string(wire.get("signature") or "")
            extra = extra_of(wire)
            if (text := _string(wire["thinking"])) or extra:
                events.append(ReasoningDelta(text, index, extra=extra or None))
                block.silent = False
        elif kind == "redacted_thinking":
            extra = extra_of(wire)
            events.append(ReasoningDelta("", index, None, _string(wire["data"]), extra or None))
            return
        else:
            block = _Block("opaque", wire)
        self._blocks[index] = block

    def _block_stop(self, event: Mapping[str, Any], events: list[Event]) -> None:
        self._stop(event["index"], events)

    def _stop(self, index: int, events: list[Event]) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            return
        if block.kind == "opaque":
            events.append(Extra(part=block.part()))
        elif block.kind == "text" and block.silent:
            events.append(TextDelta("", index))
        elif block.kind == "tool" and block.silent:
            # No delta with arguments came: they are those of the start, and mostly {}.
            events.append(ToolDelta(index, arguments=block.held))
        elif block.kind == "thinking" and (block.held or block.silent):
            events.append(ReasoningDelta("", index, block.held or None))

    def _message_start(self, event: Mapping[str, Any], events: list[Event]) -> None:
        message = event["message"]
        if not self._started:
            self._started = True
            extra = leftover(message, _MESSAGE)
            events.append(Start(_text(message.get("id")), _text(message.get("model")), extra=extra or None))
        if merge_usage(self._usage, message.get("usage")):
            self._tell_usage(events)

    def _message_delta(self, event: Mapping[str, Any], events: list[Event]) -> None:
        self._stop_all(events)
        if merge_usage(self._usage, event.get("usage")):
            self._tell_usage(events)
        delta = event["delta"]
        finish, extra = decode_finish(delta.get("stop_reason"))
        extra.update(leftover(delta, _STOP_REASON))
        extra.update(leftover(event, _MESSAGE_DELTA))
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
            events.append(Finish("tool_calls" if self._called else "stop"))
        self.finished = True

    def _stop_all(self, events: list[Event]) -> None:
        """Stop the blocks that the server forgot to stop."""
        for index in list(self._blocks):
            self._stop(index, events)

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
    if raw.strip() == b"[DONE]":  # other protocols' end, which some compatible servers add
        return {}
    if name == "error":
        raise error_in_body({"error": excerpt(raw)}, phase="stream") from None
    raise BadReply(
        f"an event of the stream is not JSON: {problem.msg} at character {problem.pos}; "
        f"it begins {excerpt(raw)!r}",
        code="event_not_json",
        phase="stream",
    ) from None


def _is_json(raw: bytes | str) -> bool:
    try:
        _loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True


def _string(value: object) -> str:
    if type(value) is str:
        return value
    raise TypeError(f"a string was expected, not {type(value).__name__}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
