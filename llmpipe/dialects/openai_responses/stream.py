"""A stream of events: from the wire's bytes to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects.decoding import Decoding
from llmpipe.dialects.jsonbody import excerpt, lines_of_json
from llmpipe.dialects.openai_chat.errors import error_in
from llmpipe.dialects.openai_chat.reply import created_at
from llmpipe.dialects.openai_responses.arriving import STEPS, Output
from llmpipe.dialects.openai_responses.errors import error_of_event, error_of_reply
from llmpipe.dialects.openai_responses.items import NAME, changes
from llmpipe.dialects.openai_responses.reply import extra_of, finish_of, is_answer, text_of
from llmpipe.dialects.openai_responses.usage import decode_usage
from llmpipe.dialects.problem import says_error, stray_error
from llmpipe.dialects.sse import ServerSentEvent, SSEParser
from llmpipe.errors import BadReply, LLMError, StreamBroken
from llmpipe.types import (
    Event,
    Finish,
    Ping,
    Start,
    TextDelta,
    UsageUpdate,
)

__all__ = ("ResponseDecoder",)

_PING = Ping()
_loads = orjson.loads
_BEGUN = ("response.created", "response.queued", "response.in_progress")
_FAILED = ("response.failed", "response.cancelled")
# What a response is once an event says so, where it does not say itself.
_STATUS = {
    "response.completed": "completed",
    "response.done": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}


class ResponseDecoder(Decoding):
    """The decoder of one stream.

    The end is ``response.completed`` or ``response.incomplete``, which has the whole reply once more; what
    no event before it told is told then. ``response.failed`` and ``error`` raise. A stream that ends
    without any of them is broken, ``[DONE]`` or not. Events and items of types that we do not know are
    signs of life and opaque parts.
    """

    __slots__ = ("_extra", "_output", "_parser", "_started")

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        super().__init__()
        self._parser = SSEParser(max_event_bytes)
        self._output = Output()
        self._started = False
        self._extra: dict[str, Any] = {}

    def _read(self, data: bytes, events: list[Event]) -> None:
        for event in self._parser.feed(data):
            self._take(event, events)
            if self.finished:
                break

    def _end(self, events: list[Event]) -> None:
        for event in self._parser.close():
            if event.data and _is_whole(event.data):  # otherwise it was cut inside
                self._take(event, events)
        if not self.finished:
            raise self._broken()

    def _take(self, sent: ServerSentEvent, events: list[Event]) -> None:
        data = sent.data
        if self.finished:
            return
        if not data:  # a comment, or an event that keeps the connection alive
            events.append(_PING)
            return
        try:
            event = _loads(data)
        except orjson.JSONDecodeError as error:
            self._not_json(sent, error, events)
            return
        if type(event) is not dict:
            raise BadReply(
                f"an event of the stream is no object; it begins {excerpt(data)!r}",
                code="event_not_object",
                phase="stream",
            )
        try:
            self._tell(event.get("type", sent.event), event, events)
        except (AttributeError, KeyError, TypeError) as problem:
            # Reaching into JSON of another shape than the protocol's raises one of these.
            raise BadReply(
                f"an event of the stream is not the protocol's ({type(problem).__name__}: {problem}); "
                f"it begins {excerpt(data)!r}",
                code="bad_event",
                phase="stream",
            ) from None

    def _tell(self, kind: object, event: dict[str, Any], events: list[Event]) -> None:
        """What one event says."""
        if kind == "response.output_text.delta":
            text = event.get("delta")
            found = self._output.said.get((event.get("output_index"), event.get("content_index")))
            if found is not None and text and type(text) is str and not event.get("logprobs"):
                # The hot path: one of these for every few tokens.
                found.pieces.append(text)
                events.append(TextDelta(text, found.index))
                return
        if not isinstance(kind, str):
            kind = ""
        if kind in _BEGUN:
            self._begin(event["response"], events)
        elif (step := STEPS.get(kind)) is not None:
            step(self._output, event, events)
        elif kind in ("error", "response.error"):
            raise error_of_event(event, phase="stream")
        elif kind in _FAILED and not isinstance(event.get("response"), dict):
            raise error_of_event({"message": f"{kind}, and no reason is given", **event}, phase="stream")
        elif kind in _STATUS:
            self._finish(event["response"], _STATUS[kind], events)
        elif event.get("object") == "response":  # a whole reply in one event
            self._finish(event, "completed", events)
        elif not kind and says_error(event):
            raise error_in(event, phase="stream")
        else:
            events.append(_PING)

    def _not_json(self, sent: ServerSentEvent, error: orjson.JSONDecodeError, events: list[Event]) -> None:
        """Data that is no JSON: other protocols' end, or an error in plain words."""
        data = sent.data or b""
        if data.strip() in (b"", b"[DONE]"):
            events.append(_PING)
            return
        if sent.event == "error":
            raise error_in({"message": excerpt(data, max_chars=512)}, phase="stream")
        lines = lines_of_json(data, b"[DONE]")  # a server that leaves out the blank line
        if not lines:
            raise BadReply(
                f"an event of the stream is not JSON: {error.msg} at character {error.pos}; "
                f"it begins {excerpt(data)!r}",
                code="event_not_json",
                phase="stream",
            ) from None
        for line in lines:
            self._take(ServerSentEvent(None, line), events)

    def _broken(self) -> LLMError:
        """Why the stream has no end: cut, or never a stream but an error as plain JSON."""
        stray = self._parser.stray.strip()
        if stray and (told := stray_error(stray)) is not None:
            return error_in(told, phase="stream")
        hint = f"; it has {excerpt(stray)!r}, which is no event" if stray else ""
        return StreamBroken(
            f"the stream ended before its end: no response.completed{hint}",
            code="stream_broken",
            phase="stream",
            billed="unknown",
        )

    # -- the response

    def _begin(self, response: Mapping[str, Any], events: list[Event]) -> None:
        """``response.created``, ``queued``, ``in_progress``: whose reply it is; said more than once."""
        if self._started:
            events.append(_PING)
            return
        self._start(response, events)

    def _start(self, response: Mapping[str, Any], events: list[Event]) -> None:
        self._started = True
        reply_id = self._output.reply_id = text_of(response.get("id"))
        extra = extra_of(response)
        for name in ("incomplete_details", "status"):
            extra.pop(name, None)
        self._extra = dict(extra)
        events.append(
            Start(
                id=reply_id,
                model=text_of(response.get("model")),
                created=created_at(response.get("created_at")),
                extra=extra or None,
                dialect=NAME,
            )
        )

    def _finish(self, response: Any, status: str, events: list[Event]) -> None:
        """The whole response once more."""
        if not isinstance(response, dict):
            raise TypeError("the response at the end is no object")
        response = dict(response)
        if response.get("status") in (None, "in_progress", "queued"):
            response["status"] = status
        usage = decode_usage(response.get("usage"))
        if not is_answer(response) or status == "failed":
            if usage is not None:
                events.append(UsageUpdate(usage))
            raise error_of_reply(response, phase="stream")
        if not self._started:
            self._start(response, events)
        self._output.end(response.get("output"), events)
        if usage is not None:
            events.append(UsageUpdate(usage))
        reason = finish_of(response, self._output.kinds)
        assert reason is not None  # its status was set above
        events.append(Finish(reason, changes(self._extra, extra_of(response)) or None))
        self.finished = True


def _is_whole(data: bytes) -> bool:
    """Whether the last event, which no blank line ended, is all there."""
    try:
        _loads(data)
    except orjson.JSONDecodeError:
        return data.strip() == b"[DONE]" or bool(lines_of_json(data, b"[DONE]"))
    return True
