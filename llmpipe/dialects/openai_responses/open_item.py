"""Items of a stream under way: what was told of each, so that its end tells the rest and no more.

Deltas are told as they come. Where an item is over, the whole of it is compared with that: servers that
leave out some of the deltas, or all of them, lose nothing so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmpipe.dialects.openai_responses.items import ITEM, NAME, changes, mark_of, with_mark
from llmpipe.dialects.openai_responses.reasoning import SEPARATOR, decode_reasoning
from llmpipe.dialects.openai_responses.reply import CALLS, MESSAGE_FIELDS, content_of, said, tool_call
from llmpipe.types import (
    Event,
    Extra,
    Opaque,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    ToolDelta,
    merge_extra,
)

__all__ = ("Call", "Message", "OpenItem", "Other", "Said", "Thought", "open_item")


class OpenItem:
    """One item of the output; `wire` is what its beginning said of it, `at` its place."""

    __slots__ = ("at", "settled", "wire")

    def __init__(self, wire: Mapping[str, Any], at: int) -> None:
        self.wire = wire
        self.at = at
        self.settled = False

    def settle(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        """Tell what `item`, which is whole, says beyond what was told."""
        raise NotImplementedError

    def abandon(self, events: list[Event], reply_id: str) -> None:
        """The reply is over, and nobody said more of this item than its beginning did."""
        self.settle({name: value for name, value in self.wire.items() if name != "status"}, events, reply_id)

    def mark(self, known: frozenset[str]) -> dict[str, Any]:
        """The item's mark at its beginning, when its status says nothing yet."""
        return mark_of({name: value for name, value in self.wire.items() if name != "status"}, known)


class Said:
    """One part of a message's content. Its first event carries the message's mark."""

    __slots__ = ("index", "logprobs", "pieces", "told")

    def __init__(self, index: int) -> None:
        self.index = index
        self.pieces: list[str] = []
        self.told: dict[str, Any] = {}
        self.logprobs: list[Any] = []


class Message(OpenItem):
    """A message of the model's."""

    __slots__ = ("_next", "content")

    def __init__(self, wire: Mapping[str, Any], at: int, index: Callable[[], int]) -> None:
        super().__init__(wire, at)
        self.content: dict[object, Said] = {}
        self._next = index

    def text(self, place: object, text: str, events: list[Event]) -> Said:
        """The first delta of a text."""
        found = self.content.get(place)
        if found is None:
            found = self.content[place] = Said(self._next())
        extra = None
        if not (found.told or found.pieces):
            extra = found.told = with_mark({}, self.mark(MESSAGE_FIELDS))
        found.pieces.append(text)
        events.append(TextDelta(text, found.index, dict(extra) if extra else None))
        return found

    def refusal(self, place: object, text: str, events: list[Event]) -> None:
        """More of a refusal."""
        found = self.content.get(place)
        if found is None:
            found = self.content[place] = Said(self._next())
        found.pieces.append(text)
        events.append(RefusalDelta(text, found.index))

    def annotation(self, place: object, annotation: object, events: list[Event]) -> None:
        """An annotation of a text."""
        found = self.content.get(place)
        if found is None or not found.pieces:
            return  # the whole item has it
        merge_extra(found.told, more := {"annotations": [annotation]})
        events.append(TextDelta("", found.index, more))

    def settle(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        """See `OpenItem`."""
        self.settled = True
        mark = mark_of(item, MESSAGE_FIELDS)
        for place, raw in enumerate(content_of(item)):
            if isinstance(raw, dict):
                self._settle(place, raw, mark, events)

    def _settle(
        self, place: int, raw: Mapping[str, Any], mark: Mapping[str, Any], events: list[Event]
    ) -> None:
        part = said(raw, dict(mark))
        found, new = self.content.get(place), False
        if found is None:
            found, new = self.content.setdefault(place, Said(self._next())), True
        if isinstance(part, Text):
            extra = dict(part.extra)
            if found.logprobs:
                extra.setdefault("logprobs", found.logprobs)
            more, rest = changes(found.told, extra), _rest(found.pieces, part.text)
            if new or more or rest:
                merge_extra(found.told, more)
                found.pieces.append(rest)
                events.append(TextDelta(rest, found.index, more or None))
        elif isinstance(part, Refusal):
            rest = _rest(found.pieces, part.text)
            if new or rest:
                found.pieces.append(rest)
                events.append(RefusalDelta(rest, found.index))
        elif new:
            events.append(Extra(part=part))


class Call(OpenItem):
    """A call of one of the caller's tools."""

    __slots__ = ("_id", "_name", "_pieces", "_told", "index")

    def __init__(self, wire: Mapping[str, Any], at: int, index: int) -> None:
        super().__init__(wire, at)
        self.index = index
        self._id: str | None = None
        self._name = ""
        self._pieces: list[str] = []
        self._told: dict[str, Any] = {}

    def begin(self, events: list[Event], reply_id: str) -> None:
        """Tell what is known at the beginning."""
        self._tell({name: value for name, value in self.wire.items() if name != "status"}, events, reply_id)

    def arguments(self, text: str, events: list[Event]) -> None:
        """More of the arguments."""
        self._pieces.append(text)
        events.append(ToolDelta(self.index, None, None, text))

    def all_arguments(self, text: str, events: list[Event]) -> None:
        """The arguments as a whole."""
        if rest := _rest(self._pieces, text):
            self.arguments(rest, events)

    def settle(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        """See `OpenItem`."""
        self.settled = True
        self._tell(item, events, reply_id)

    def _tell(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        call = tool_call(item, self.at, reply_id)
        more, rest = changes(self._told, call.extra), _rest(self._pieces, call.arguments)
        call_id = call.id if call.id != self._id else None
        name = call.name if call.name and call.name != self._name else None
        if call_id is None and name is None and not (more or rest):
            return
        self._id, self._name = call.id, call.name or self._name
        merge_extra(self._told, more)
        self._pieces.append(rest)
        events.append(ToolDelta(self.index, call_id, name, rest, more or None))


class Thought(OpenItem):
    """Reasoning: a summary in parts or the thoughts themselves, and its proof at the end."""

    __slots__ = ("_encrypted", "_kind", "_pieces", "_place", "_size", "_told", "index")

    def __init__(self, wire: Mapping[str, Any], at: int, index: int) -> None:
        super().__init__(wire, at)
        self.index = index
        self._kind = ""
        self._place: object = None
        self._size = 0  # characters of the part that is under way
        self._pieces: list[str] = []
        self._told: dict[str, Any] = {}
        self._encrypted = False

    def text(self, kind: str, place: object, text: str, events: list[Event]) -> None:
        """More of the text. Where a server tells both kinds, the second waits for the end."""
        if not self._kind:
            self._kind, self._place = kind, place
            known = frozenset(("content", "encrypted_content", "summary", "type"))
            mark = self.mark(known)
            if kind == "content":
                mark["kind"] = kind
            self._tell(text, with_mark({}, mark), events)
        elif kind == self._kind:
            if place != self._place:
                sizes = {"sizes": [self._size]}
                self._tell(SEPARATOR, {ITEM: sizes}, events)
                self._place, self._size = place, 0
            self._tell(text, {}, events)
        else:
            return
        self._size += len(text)

    def settle(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        """See `OpenItem`."""
        self.settled = True
        part = decode_reasoning(item, self._kind or "summary")
        more, rest = changes(self._told, part.extra), _rest(self._pieces, part.text)
        proof = part.encrypted if not self._encrypted else None
        if self._pieces and not (more or rest or proof):
            return
        merge_extra(self._told, more)
        self._pieces.append(rest)
        self._encrypted = self._encrypted or proof is not None
        origin = NAME if proof is not None else ""
        events.append(ReasoningDelta(rest, self.index, None, proof, more or None, origin))

    def _tell(self, text: str, more: dict[str, Any], events: list[Event]) -> None:
        merge_extra(self._told, more)
        self._pieces.append(text)
        events.append(ReasoningDelta(text, self.index, extra=more or None))


class Other(OpenItem):
    """An item that we do not model: whole, at its end."""

    __slots__ = ()

    def settle(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        """See `OpenItem`."""
        if not self.settled:
            self.settled = True
            events.append(Extra(part=Opaque(NAME, item)))


def open_item(wire: Mapping[str, Any], at: int, index: Callable[[], int]) -> OpenItem:
    """The item that begins with `wire`."""
    kind = wire.get("type")
    if kind == "message" and wire.get("role", "assistant") == "assistant":
        return Message(wire, at, index)
    if isinstance(kind, str) and kind in CALLS:
        return Call(wire, at, index())
    if kind == "reasoning":
        return Thought(wire, at, index())
    return Other(wire, at)


def _rest(pieces: list[str], whole: str) -> str:
    """What `whole` has after what was told; nothing where it is another text."""
    told = "".join(pieces)
    return whole[len(told) :] if whole.startswith(told) else ""
