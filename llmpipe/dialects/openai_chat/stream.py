"""A stream of chunks: from the wire's bytes to events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from llmpipe.dialects.decoding import Decoding
from llmpipe.dialects.jsonbody import excerpt, lines_of_json
from llmpipe.dialects.openai_chat.choice import ChoiceDecoder
from llmpipe.dialects.openai_chat.errors import error_in
from llmpipe.dialects.openai_chat.reply import created_at, usage_elsewhere
from llmpipe.dialects.openai_chat.server import encode_choice, split_extra
from llmpipe.dialects.openai_chat.template import Template
from llmpipe.dialects.openai_chat.usage import decode_usage
from llmpipe.dialects.openai_chat.words import NAME
from llmpipe.dialects.problem import says_error, stray_error
from llmpipe.dialects.sse import ServerSentEvent, SSEParser
from llmpipe.errors import BadReply, StreamBroken
from llmpipe.types import (
    Event,
    Extra,
    Ping,
    ReasoningDelta,
    Start,
    TextDelta,
    UsageUpdate,
    fold,
)

if TYPE_CHECKING:
    from llmpipe.dialects.openai_chat.quirks import Quirks

__all__ = ("ChatDecoder",)

_PING = Ping()
_loads = orjson.loads
_ONES = 4  # events of one read that are parsed alone, in the hope that they give a template

# Fields of a chunk that are modelled, or padding that hides the length of tokens on the wire
# (OpenAI's obfuscation, Mistral's p).
_CHUNK_FIELDS = frozenset(
    ("choices", "created", "error", "id", "model", "object", "obfuscation", "p", "usage")
)


class ChatDecoder(Decoding):
    """One stream's bytes to its events, the same for every cutting of the bytes.

    The end is ``[DONE]``. Cerebras and Perplexity end without it: there, the reply is whole when
    every choice has a finish reason and the chunk that gave the last one gave the usage too, or
    when the chunk is a ``chat.completion.done``. Anything else is a broken stream, however
    finished it looks. `Finish` is held back until the end is sure, so a cut reply never has one.
    """

    __slots__ = (
        "_choices",
        "_extra",
        "_main",
        "_parser",
        "_quirks",
        "_reply_id",
        "_seen",
        "_started",
        "_template",
        "_tries",
        "_usage",
        "_usage_told",
        "_whole",
    )

    def __init__(self, quirks: Quirks) -> None:
        super().__init__()
        self._quirks = quirks
        self._parser = SSEParser(quirks.max_event_bytes)
        self._main = ChoiceDecoder(0)
        self._choices: dict[int, ChoiceDecoder] = {0: self._main}
        self._seen = False  # whether the first choice was there at all
        self._started = False
        self._reply_id = ""
        self._extra: dict[str, Any] = {}  # fields of chunks that we do not model, as last seen
        self._usage: object = None  # as last seen
        self._usage_told = False
        self._whole = False
        self._template: Template | None = None
        self._tries = 64

    def _read(self, data: bytes, events: list[Event]) -> None:
        template = self._template
        if not self._tries or (template is not None and len(data) < template.two):
            self._parse(data, events)  # one event, as a model that is still writing sends
            return
        place, ones = 0, _ONES
        while True:
            template = self._template
            if template is not None and self._parser.stands_between(data):
                place = template.run(data, place, events)
                if place == len(data):
                    return
            # One by one, until there is a template: however bytes are cut, their events are the same.
            stop = data.find(b"\n\n", place) + 2 if ones else 0
            stop = stop if stop >= 2 else len(data)
            self._parse(data[place:stop], events)
            place, ones = stop, ones - 1
            if place == len(data):
                return

    def _parse(self, data: bytes, events: list[Event]) -> None:
        """Read `data` event by event."""
        came = self._parser.feed(data)
        place = 0
        while place < len(came):
            if self._template is not None:
                place = self._template.read(came, place, events)
                if place == len(came):
                    break
            self._take(came[place], events)
            place += 1

    def _end(self, events: list[Event]) -> None:
        for event in self._parser.close():
            if not event.data or self._is_whole(event.data):
                self._take(event, events)
        if not self.finished:
            self._end_without_word(events)

    def _take(self, event: ServerSentEvent, events: list[Event]) -> None:
        data = event.data
        if self.finished:
            return
        if not data:  # a comment, or an event that keeps the connection alive
            events.append(_PING)
            return
        try:
            chunk = _loads(data)
        except orjson.JSONDecodeError as error:
            self._not_json(event, error, events)
            return
        if type(chunk) is not dict:
            if type(chunk) is list and chunk and type(chunk[0]) is dict and says_error(chunk[0]):
                raise error_in(chunk, phase="stream")  # Google's endpoints
            raise BadReply(
                f"a chunk of the stream is no object; it begins {excerpt(data)!r}",
                code="chunk_not_object",
                phase="stream",
            )
        if event.event == "error" or chunk.get("error") or chunk.get("object") == "error":
            self._usage_is_told(chunk.get("usage"), events)  # OpenRouter tells it with the error
            raise error_in(chunk, phase="stream")
        if (chunk.get("choices") is None or "base_resp" in chunk) and says_error(chunk):
            raise error_in(chunk, phase="stream")
        before = len(events)
        self._chunk(chunk, events)
        self._template = self._template_of(data, chunk, events[before:])

    def _not_json(self, event: ServerSentEvent, error: orjson.JSONDecodeError, events: list[Event]) -> None:
        """Data that is no JSON: mostly the end."""
        data = event.data or b""
        if data.strip() == b"[DONE]":
            self._finish(events)
            return
        if event.event == "error":
            raise error_in({"message": excerpt(data, max_chars=512)}, phase="stream")
        # Some servers leave out the blank line between two chunks, or before the end (SGLang's errors).
        lines = lines_of_json(data, b"[DONE]")
        if not lines:
            raise BadReply(
                f"a chunk of the stream is not JSON: {error.msg} at character {error.pos}; "
                f"it begins {excerpt(data)!r}",
                code="chunk_not_json",
                phase="stream",
            ) from None
        for line in lines:
            self._take(ServerSentEvent(event.event, line), events)

    def _template_of(self, data: bytes, chunk: dict[str, Any], events: list[Event]) -> Template | None:
        """The template for the chunks after this one, if all that it said was a piece of text.

        A few are tried; a stream whose chunks differ in more (their time, say) is not worth more.
        """
        if len(events) != 1 or self._tries == 0 or self._whole:
            return None
        event = events[0]
        if type(event) is TextDelta:
            plain = event.extra is None
        elif type(event) is ReasoningDelta:
            plain = event.extra is None and event.signature is None and event.encrypted is None
        else:
            return None
        choices = chunk["choices"]
        if not plain or chunk.get("usage") or len(choices) != 1 or choices[0].get("finish_reason"):
            return None
        self._tries -= 1
        return Template.of(data, chunk, event)

    def _chunk(self, chunk: dict[str, Any], events: list[Event]) -> None:
        if not self._started:
            self._start(chunk, events)
        else:
            self._unmodelled(chunk, events)
        choices = chunk.get("choices")
        usage = chunk.get("usage")
        finished = False
        if choices:
            self._whole = False
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, dict):
                    finished = self._choice(choice, events) or finished
                    if usage is None and ("usage" in choice or "x_groq" in chunk):
                        usage = usage_elsewhere(chunk, choice)
        told = usage is not None and self._usage_is_told(usage, events)
        if (finished and told) or chunk.get("object") == "chat.completion.done":
            self._whole = all(choice.word is not None for choice in self._choices.values())

    def _usage_is_told(self, usage: object, events: list[Event]) -> bool:
        """Whether a chunk's usage says something; an event where that is new."""
        if usage is not None and usage != self._usage:
            self._usage, decoded = usage, decode_usage(usage)
            self._usage_told = decoded is not None
            if decoded is not None:
                events.append(UsageUpdate(decoded))
        return self._usage_told

    def _choice(self, choice: dict[str, Any], events: list[Event]) -> bool:
        """Take one choice of a chunk; return whether it says that it is finished."""
        if choice.get("error"):
            raise error_in(choice, phase="stream")  # OpenRouter
        index = choice.get("index") or 0
        self._seen = self._seen or index == 0
        decoder = self._main if index == 0 else self._choices.get(index) if type(index) is int else None
        if decoder is None:
            if type(index) is not int or len(self._choices) > 128:
                raise BadReply(
                    f"a choice of the stream has index {str(index)[:40]}", code="bad_choice", phase="stream"
                )
            decoder = self._choices[index] = ChoiceDecoder(index)
        return decoder.take(choice, events if index == 0 else decoder.events, self._reply_id)

    def _start(self, chunk: dict[str, Any], events: list[Event]) -> None:
        """The first chunk that says whose reply it is. Azure's first has only its filter's results."""
        extra = {
            name: value for name, value in chunk.items() if name not in _CHUNK_FIELDS and value is not None
        }
        self._extra.update(extra)
        if not (chunk.get("id") or chunk.get("model") or chunk.get("choices")):
            return
        self._started = True
        self._reply_id = str(chunk.get("id") or "")
        events.append(
            Start(
                id=self._reply_id,
                model=str(chunk.get("model") or ""),
                created=created_at(chunk.get("created")),
                extra=dict(self._extra) or None,
                dialect=NAME,
            )
        )

    def _unmodelled(self, chunk: dict[str, Any], events: list[Event]) -> None:
        """What changed among the fields that we do not model."""
        seen = self._extra
        for name, value in chunk.items():
            if name not in _CHUNK_FIELDS and value is not None and value != seen.get(name):
                old, seen[name] = seen.get(name), value
                # Lists are sent whole each time (Perplexity's citations); `fold` joins lists.
                if isinstance(old, list) and isinstance(value, list) and value[: len(old)] == old:
                    value = value[len(old) :]
                events.append(Extra({name: value}))

    def _is_whole(self, data: bytes) -> bool:
        """Whether the last event, which no blank line ended, was cut inside its JSON."""
        try:
            _loads(data)
        except orjson.JSONDecodeError:
            return data.strip() == b"[DONE]" or bool(lines_of_json(data, b"[DONE]"))
        return True

    def _end_without_word(self, events: list[Event]) -> None:
        """The bytes are over, and there was no ``[DONE]``."""
        if self._whole:
            self._finish(events)
            return
        self._stray_error()
        stray = self._parser.stray.strip()
        hint = f"; it has {excerpt(stray)!r}, which is no event" if stray else ""
        raise StreamBroken(
            f"the stream ended before its end: no [DONE] and no last chunk{hint}",
            code="stream_broken",
            phase="stream",
            billed="unknown",
        )

    def _stray_error(self) -> None:
        """Where a server put a plain JSON error in place of the stream or of its rest, raise it."""
        if self._parser.stray and (wire := stray_error(self._parser.stray)) is not None:
            raise error_in(wire, phase="stream")

    def _finish(self, events: list[Event]) -> None:
        self._stray_error()
        if not self._seen:
            raise BadReply("the stream has no choices", code="no_choices", phase="stream")
        self.finished, self._template = True, None
        others = [self._encode_other(self._choices[index]) for index in sorted(self._choices) if index != 0]
        if others:
            events.append(Extra({"choices": others}))
        events += self._main.rest()
        events.append(self._main.finish())

    def _encode_other(self, choice: ChoiceDecoder) -> dict[str, Any]:
        """Another choice (``n`` > 1) in the form it has in a full reply."""
        completion = fold([*choice.events, *choice.rest(), choice.finish()])
        _, extra, _ = split_extra(completion.extra)
        return {**encode_choice(completion, self._quirks, choice.index), **extra}
