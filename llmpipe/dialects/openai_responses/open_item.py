"""Items of a stream under way: what was told of each, so that its end tells the rest and no more.

Deltas are told as they come. Where an item is over, the whole of it is compared with that: servers that
leave out some of the deltas, or all of them, lose nothing so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmpipe.dialects.openai_responses.items import ITEM, NAME, changes, mark_of, with_mark
from llmpipe.dialects.openai_responses.reasoning import SEPARATOR, decode_reasoning
from llmpipe.dialects.openai_responses.reply import CALLS, MESSAGE_FIELDS, content_of, said, tool_call
from llmpipe.types import (
    Event,
    Extra,
    Opaque,
    Part,
    Ping,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    ToolDelta,
    merge_extra,
)

__all__ = ("Call", "Message", "OpenItem", "Other", "Said", "Thought", "open_item")

_PING = Ping()


class OpenItem(ABC):
    """One item of the output; `wire` is what its beginning said of it, `at` its place.

    It is `implied` where a delta began it, before the server did.
    """

    __slots__ = ("at", "implied", "settled", "wire")

    def __init__(self, wire: Mapping[str, Any], at: int) -> None:
        self.wire = wire
        self.at = at
        self.implied = False
        self.settled = False

    @abstractmethod
    def settle(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        """Tell what `item`, which is whole, says beyond what was told."""

    def abandon(self, events: list[Event], reply_id: str) -> None:
        """The reply is over, and nobody said more of this item than its beginning did."""
        self.settle({name: value for name, value in self.wire.items() if name != "status"}, events, reply_id)

    def mark(self, known: frozenset[str]) -> dict[str, Any]:
        """The item's mark at its beginning, when its status says nothing yet."""
        return mark_of({name: value for name, value in self.wire.items() if name != "status"}, known)


class Said:
    """One part of a message's content. Its first event carries the message's mark."""

    __slots__ = ("index", "kind", "logprobs", "pieces", "told")

    def __init__(self, kind: type[Part], index: int) -> None:
        self.kind = kind
        self.index = index
        self.pieces: list[str] = []
        self.told: dict[str, Any] = {}
        self.logprobs: list[Any] = []


class Message(OpenItem):
    """A message of the model's. It is `between` two parts once one is said to begin or to end."""

    __slots__ = ("_next", "_said", "between", "content")

    def __init__(self, wire: Mapping[str, Any], at: int, index: Callable[[], int]) -> None:
        super().__init__(wire, at)
        self.between = False
        self.content: dict[object, Said] = {}  # by the place that the server gives it
        self._said: list[Said] = []
        self._next = index

    def text(self, place: object, text: str, events: list[Event]) -> Said:
        """The first delta of a text."""
        found = self._part(place, Text)
        extra = None
        if not (found.told or found.pieces):
            extra = found.told = with_mark({}, self.mark(MESSAGE_FIELDS))
        found.pieces.append(text)
        events.append(TextDelta(text, found.index, dict(extra) if extra else None))
        return found

    def whole_text(self, place: object, text: str, events: list[Event]) -> None:
        """A text as a whole: what no delta told of it."""
        if rest := _rest(self._part(place, Text).pieces, text):
            self.text(place, rest, events)

    def refusal(self, place: object, text: str, events: list[Event]) -> None:
        """More of a refusal."""
        found = self._part(place, Refusal)
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
        parts = [
            (place, said(raw, dict(mark))) for place, raw in enumerate(content_of(item)) if type(raw) is dict
        ]
        kinds = Counter(type(part) for _, part in parts)
        left: dict[type[Part], deque[Said]] = {}
        for one in self._said:
            left.setdefault(one.kind, deque()).append(one)
            kinds[one.kind] -= 1
        taken = set[int]()
        for place, part in parts:
            alike = left.get(type(part), deque())
            while alike and id(alike[0]) in taken:
                alike.popleft()
            found = self._told(place, part, taken, alike, as_many=kinds[type(part)] <= 0)
            new = found is None
            if found is None:
                found = Said(type(part), self._next())
                self._said.append(found)
            self.content[place] = found
            taken.add(id(found))
            _settle(found, part, events, new=new)

    def _part(self, place: object, kind: type[Part]) -> Said:
        """The part at that place; the last one goes on where nobody said that it is over.

        vLLM's server gives each delta of a text another place (vllm-project/vllm#35184).
        """
        found, last = self.content.get(place), self._said[-1] if self._said else None
        if found is None and last is not None and last.kind is kind and not self.between:
            found = last
        if found is None or found.kind is not kind:
            found = Said(kind, self._next())
            self._said.append(found)
        self.content[place] = found
        self.between = False
        return found

    def _told(
        self, place: int, part: Part, taken: set[int], alike: Sequence[Said], *, as_many: bool
    ) -> Said | None:
        """What was told already of a part of the whole item: what has its place, else the next of its kind.

        Some servers give no places, or other ones (vLLM's).
        """
        found = self.content.get(place)
        if found is not None and found.kind is type(part) and id(found) not in taken:
            return found
        if not alike:
            return None
        whole = part.text if isinstance(part, (Text, Refusal)) else ""
        return alike[0] if as_many or whole.startswith("".join(alike[0].pieces)) else None


def _settle(found: Said, part: Part, events: list[Event], *, new: bool) -> None:
    """Tell what `part`, which is whole, says beyond what was told."""
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
    """A call of one of the caller's tools. Arguments wait until it is known whose they are."""

    __slots__ = ("_held", "_id", "_name", "_pieces", "_told", "index")

    def __init__(self, wire: Mapping[str, Any], at: int, index: int) -> None:
        super().__init__(wire, at)
        self.index = index
        self._id: str | None = None
        self._name = ""
        self._held: list[str] = []
        self._pieces: list[str] = []
        self._told: dict[str, Any] = {}

    def begin(self, events: list[Event], reply_id: str) -> None:
        """Tell what is known at the beginning."""
        self._tell({name: value for name, value in self.wire.items() if name != "status"}, events, reply_id)

    def arguments(self, text: str, events: list[Event]) -> None:
        """More of the arguments."""
        if not self._name:
            self._held.append(text)
            events.append(_PING)
            return
        self._pieces.append(text)
        events.append(ToolDelta(self.index, None, None, text))

    def all_arguments(self, text: str, events: list[Event]) -> None:
        """The arguments as a whole."""
        if rest := _rest([*self._pieces, *self._held], text):
            self.arguments(rest, events)

    def learn(self, event: Mapping[str, Any]) -> None:
        """What the end of the arguments says of a call that nobody began."""
        known = {name: event[name] for name in ("call_id", "name") if event.get(name)}
        self.wire = {**known, **{name: value for name, value in self.wire.items() if value is not None}}

    def settle(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        """See `OpenItem`."""
        self.settled = True
        self._tell(item, events, reply_id)

    def _tell(self, item: Mapping[str, Any], events: list[Event], reply_id: str) -> None:
        call = tool_call(item, self.at, reply_id)
        more, rest = changes(self._told, call.extra), _rest(self._pieces, call.arguments)
        if self._held and (call.name or self.settled):
            held, self._held = "".join(self._held), []
            rest = rest if rest.startswith(held) else held
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

    __slots__ = ("_encrypted", "_kind", "_pieces", "_place", "_places", "_size", "_told", "between", "index")

    def __init__(self, wire: Mapping[str, Any], at: int, index: int) -> None:
        super().__init__(wire, at)
        self.between = False
        self.index = index
        self._kind = ""
        self._place: object = None
        self._places = set[object]()
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
            # Each delta of vLLM's thoughts has another place (vllm-project/vllm#35184).
            if place != self._place and (self.between or kind == "summary"):
                sizes = {"sizes": [self._size]}
                self._tell(SEPARATOR, {ITEM: sizes}, events)
                self._size = 0
            self._place = place
            self._tell(text, {}, events)
        else:
            return
        self.between = False
        self._places.add(place)
        self._size += len(text)

    def whole_text(self, kind: str, place: object, text: str, events: list[Event]) -> None:
        """A part as a whole, where no delta told any of it."""
        if not self._kind or (kind == self._kind == "summary" and place not in self._places):
            self.text(kind, place, text, events)

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
