"""A stream of the wire as our events: a JSON object a line, the last of which says that it is done.

Source: https://docs.ollama.com/api/streaming
"""

from __future__ import annotations

from typing import Any

import orjson

from llmpipe.dialects.decoding import Decoding
from llmpipe.dialects.jsonbody import excerpt, leftover
from llmpipe.dialects.ollama_chat.errors import error_in
from llmpipe.dialects.ollama_chat.messages import NAME
from llmpipe.dialects.ollama_chat.ndjson import LineParser
from llmpipe.dialects.ollama_chat.reply import (
    MESSAGE,
    calls_of,
    created_at,
    decode_finish,
    decode_usage,
    rest_of,
)
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply, StreamBroken
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolDelta,
    UsageUpdate,
)

__all__ = ("ChatDecoder",)

_loads = orjson.loads
_HEAD = frozenset(("created_at", "done", "message", "model"))  # of a line that is not the last


class ChatDecoder(Decoding):
    """The decoder of one stream, whose last line says that it is done."""

    __slots__ = ("_called", "_lines", "_seen", "_started")

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        super().__init__()
        self._lines = LineParser(max_event_bytes)
        self._started = False
        self._called = 0  # tool calls
        self._seen: dict[str, Any] = {}  # what we do not model, as last told

    def _read(self, data: bytes, events: list[Event]) -> None:
        for line in self._lines.feed(data):
            if self._take(line, events):
                break

    def _end(self, events: list[Event]) -> None:
        last = self._lines.close()
        if not (last and _is_json(last) and self._take(last, events)):
            raise StreamBroken(
                "the stream ended before it was done", phase="stream", billed="unknown", code="stream_cut"
            )

    def _take(self, raw: bytes, events: list[Event]) -> bool:
        """One line; whether it is the last."""
        try:
            line = _loads(raw)
        except orjson.JSONDecodeError as problem:
            raise BadReply(
                f"a line of the stream is not JSON: {problem.msg} at character {problem.pos}; "
                f"it begins {excerpt(raw)!r}",
                code="event_not_json",
                phase="stream",
            ) from None
        if type(line) is not dict or not isinstance(line.get("message", {}), dict):
            raise BadReply(
                f"a line of the stream is not the protocol's; it begins {excerpt(raw)!r}",
                code="bad_event",
                phase="stream",
            )
        if line.get("error") or ("message" not in line and says_error(line)):
            raise error_in(line, phase="stream")
        if not self._started:
            self._started = True
            model = line.get("model")
            created = created_at(line.get("created_at"))
            events.append(Start(model=model if type(model) is str else "", created=created, dialect=NAME))
        message = line.get("message") or {}
        thought, text = message.get("thinking"), message.get("content")
        if thought and type(thought) is str:
            events.append(ReasoningDelta(thought))
        if text and type(text) is str:
            events.append(TextDelta(text))
        if message.keys() - MESSAGE or message.get("tool_calls"):
            self._more(line, message, events)
        done = line.get("done") is True
        if done:
            self._finish(line, events)
        elif line.keys() - _HEAD:
            self._unmodelled(leftover(line, _HEAD), events)
        return done

    def _more(self, line: dict[str, Any], message: dict[str, Any], events: list[Event]) -> None:
        """Tool calls, which come whole, and what we do not model."""
        reply_id = f"{line.get('model')}\0{line.get('created_at')}"
        for index, call in enumerate(calls_of(message, reply_id, self._called), self._called):
            events.append(ToolDelta(index, call.id, call.name, call.arguments, call.extra or None))
            self._called = index + 1
        rest = {
            name: value for name, value in leftover(message, MESSAGE).items() if value not in ("", [], {})
        }
        if rest:
            events.append(Extra(rest, of="message"))

    def _unmodelled(self, rest: Any, events: list[Event]) -> None:
        """What is new of the fields that many lines repeat; log probabilities are those of each."""
        fresh = {
            name: value for name, value in rest.items() if name == "logprobs" or self._seen.get(name) != value
        }
        self._seen.update(fresh)
        if fresh:
            events.append(Extra(fresh))

    def _finish(self, line: dict[str, Any], events: list[Event]) -> None:
        usage = decode_usage(line)
        if usage is not None:
            events.append(UsageUpdate(usage))
        finish, extra = decode_finish(line.get("done_reason"), has_calls=self._called > 0)
        self._unmodelled(rest_of(line, usage), events)
        events.append(Finish(finish, extra or None))
        self.finished = True


def _is_json(raw: bytes) -> bool:
    """Whether the last line, which no line end followed, was not cut inside its JSON."""
    try:
        _loads(raw)
    except orjson.JSONDecodeError:
        return False
    return True
