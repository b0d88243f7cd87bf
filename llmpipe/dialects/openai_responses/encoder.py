"""The server's side of a stream: our events in, the events OpenAI would send out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects import sse
from llmpipe.dialects.openai_responses.errors import error_event
from llmpipe.dialects.openai_responses.items import ITEM, NAME, is_content
from llmpipe.dialects.openai_responses.open_output import OpenCall, OpenMessage, OpenThought, Sender
from llmpipe.dialects.openai_responses.output import Outcome, joins, outcome, response_body, whole_item
from llmpipe.errors import LLMError
from llmpipe.types import (
    Event,
    Extra,
    Finish,
    Opaque,
    Part,
    Ping,
    ReasoningDelta,
    RefusalDelta,
    Start,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
    merge_extra,
)
from llmpipe.types.frozen import EMPTY

__all__ = ("ResponseEncoder",)


class ResponseEncoder(Sender):
    """One stream's events to its bytes, in the sequence that OpenAI's SDKs count on.

    ``response.created`` and ``in_progress`` come first. Items are numbered in the order in which they
    begin, and each is over before the next begins; only calls whose arguments are not whole stay open,
    because some providers send parallel calls interleaved. The last event is ``response.completed``,
    ``incomplete`` or ``failed``, and has the whole reply, the same as a full one.

    What the wire has no form for is left out, as in a full reply: sound, opaque parts of other dialects,
    and what another dialect's reply says besides.
    """

    __slots__ = (
        "_begun",
        "_calls",
        "_ended",
        "_extra",
        "_finish",
        "_model",
        "_open",
        "_own",
        "_start",
        "_usage",
    )

    def __init__(self, model: str = "") -> None:
        super().__init__()
        self._model = model
        self._start = Start()
        self._begun = False
        self._own = True
        self._open: OpenMessage | OpenThought | None = None
        self._calls: dict[int, OpenCall] = {}
        self._ended: set[int] = set()  # calls that are over
        self._usage: Usage | None = None
        self._finish: Finish | None = None
        self._extra: dict[str, Any] = {}

    def feed(self, event: Event) -> bytes:
        """The bytes for `event`; may be empty."""
        if isinstance(event, TextDelta):
            message = self._open
            if type(message) is OpenMessage and not event.extra and message.is_at("text", event.index):
                return message.more(event.text) if event.text else b""
            return self._text(event)
        if isinstance(event, ToolDelta):
            return self._tool(event)
        if isinstance(event, ReasoningDelta):
            return self._thought(event)
        if isinstance(event, RefusalDelta):
            message, out = self._message(EMPTY)
            out += message.turn_to("refusal", event.index, {})
            return out + (message.more(event.text) if event.text else b"")
        if isinstance(event, Start):
            self._start = event
            self._own = event.dialect in ("", NAME)
            self._add(event.extra)
            return self._begin()
        if isinstance(event, UsageUpdate):
            self._usage = event.usage
        elif isinstance(event, Finish):
            self._finish = event
            self._add(event.extra)
        elif isinstance(event, Extra):
            if event.of == "reply":
                self._add(event.data)
            return self._whole(event.part) if event.part is not None else b""
        elif isinstance(event, Ping):
            return b": ping\n\n"
        return b""

    def close(self) -> bytes:
        """What is still open is closed, and the whole reply follows."""
        out = self._begin() + self._close_open()
        for index in list(self._calls):
            out += self._close_call(index)
        finish = self._finish.reason if self._finish is not None else None
        ending = outcome(finish, self._extra, refused=self.refused)
        if ending.status not in ("completed", "incomplete", "failed"):  # what a stream cannot end with
            ending = Outcome("incomplete", {"reason": None})
        return out + self.send(f"response.{ending.status}", {"response": self._response(ending, self._usage)})

    def fail(self, error: LLMError) -> bytes:
        """An ``error`` event, after which nothing comes."""
        event = error_event(error, self.sequence)
        return sse.encode(orjson.dumps(event), "error")

    # -- the response

    def _begin(self) -> bytes:
        """``response.created``, once."""
        if self._begun:
            return b""
        self._begun = True
        self.reply_id = self._start.id
        response = self._response(Outcome("in_progress"), None)
        return self.send("response.created", {"response": response}) + self.send(
            "response.in_progress", {"response": response}
        )

    def _response(self, ending: Outcome, usage: Usage | None) -> dict[str, Any]:
        return response_body(
            reply_id=self._start.id,
            model=self._start.model or self._model,
            created=self._start.created,
            output=self.output(),
            ending=ending,
            usage=usage,
            extra=self._extra,
            own=self._own,
        )

    def _add(self, extra: Mapping[str, Any] | None) -> None:
        if self._own:
            merge_extra(self._extra, extra)

    # -- its items

    def _mark(self, extra: Mapping[str, Any] | None) -> Mapping[str, Any]:
        mark = extra.get(ITEM) if extra and self._own else None
        return mark if isinstance(mark, Mapping) else EMPTY

    def _message(self, mark: Mapping[str, Any]) -> tuple[OpenMessage, bytes]:
        """The message that is open, or a new one where it is another's."""
        found = self._open
        if type(found) is OpenMessage and joins(mark, found.mark):
            return found, b""
        out = self._begin() + self._close_open() + self._close_whole_calls()
        found = self._open = OpenMessage(self, mark)
        return found, out + found.begin()

    def _text(self, event: TextDelta) -> bytes:
        mark = self._mark(event.extra)
        message, out = self._message(mark)
        message.learn(mark)
        extra = (
            {name: value for name, value in (event.extra or {}).items() if name != ITEM} if self._own else {}
        )
        out += message.turn_to("text", event.index, extra)
        return out + (message.more(event.text) if event.text else b"")

    def _thought(self, event: ReasoningDelta) -> bytes:
        mark, found = self._mark(event.extra), self._open
        out = b""
        if type(found) is not OpenThought or found.index != event.index:
            out = self._begin() + self._close_open() + self._close_whole_calls()
            found = self._open = OpenThought(self, mark, event.index)
            out += found.begin()
        return out + found.more(event, mark)

    def _tool(self, event: ToolDelta) -> bytes:
        found = self._calls.get(event.index)
        out = b""
        if found is None:
            if event.id is None and event.index in self._ended:
                return b""  # its arguments were whole; nothing but blanks and its status can follow
            out = self._begin() + self._close_open() + self._close_whole_calls()
            custom = (event.extra or {}).get("type") == "custom"
            found = self._calls[event.index] = OpenCall(self, self._mark(event.extra), event, custom=custom)
            out += found.begin()
        return out + found.more(event, self._mark(event.extra))

    def _whole(self, part: Part) -> bytes:
        """A part that comes in one piece: an item of its own, or content that we do not model."""
        if isinstance(part, Opaque) and part.dialect == NAME and is_content(part.data.get("type")):
            message, out = self._message(EMPTY)
            return out + message.whole(dict(part.data))
        mark = part.extra.get(ITEM) if self._own and not isinstance(part, Opaque) else None
        mark = mark if isinstance(mark, Mapping) else EMPTY
        item = whole_item(part, mark, self._start.id, self.count)
        if item is None:
            return b""
        out = self._begin() + self._close_open() + self._close_whole_calls()
        at = self.place(item)
        begun = {**item, "status": "in_progress"} if "status" in item else item
        out += self.send("response.output_item.added", {"output_index": at, "item": begun})
        return out + self.send("response.output_item.done", {"output_index": at, "item": item})

    def _close_open(self) -> bytes:
        found, self._open = self._open, None
        return found.end() if found is not None else b""

    def _close_whole_calls(self) -> bytes:
        return b"".join(
            [self._close_call(index) for index, call in list(self._calls.items()) if call.is_whole()]
        )

    def _close_call(self, index: int) -> bytes:
        self._ended.add(index)
        return self._calls.pop(index).end()
