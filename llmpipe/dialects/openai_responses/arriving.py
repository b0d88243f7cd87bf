"""The output of a stream under way: which item each event belongs to, and what it tells of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, TypeVar

from llmpipe.dialects.openai_chat.reply import arguments_text
from llmpipe.dialects.openai_responses.open_item import (
    Call,
    Message,
    OpenItem,
    Other,
    Said,
    Thought,
    open_item,
)
from llmpipe.dialects.openai_responses.reply import text_of
from llmpipe.types import Event, Ping, Refusal, RefusalDelta, Text, TextDelta, ToolCall, ToolDelta

__all__ = ("Output", "STEPS")

_PING = Ping()
_KINDS: dict[type, type] = {TextDelta: Text, RefusalDelta: Refusal, ToolDelta: ToolCall}
Item = TypeVar("Item", bound=OpenItem)


class Output:
    """The items of one reply as they arrive.

    Attributes:
        kinds: of the parts that there are.
        said: texts under way, by the place of their item and their own.
    """

    __slots__ = (
        "_all",
        "_count",
        "_items",
        "_last",
        "_latest",
        "_named",
        "_next",
        "kinds",
        "reply_id",
        "said",
    )

    def __init__(self) -> None:
        self._all: list[OpenItem] = []  # in the order in which they began
        self._items: dict[int, OpenItem] = {}  # by place: the latest, as some give all of them the same
        self._named: dict[object, OpenItem] = {}  # by id
        self._latest: dict[type[OpenItem], OpenItem] = {}
        self._last: OpenItem | None = None
        self._next = 0  # the place after all those that there are
        self._count = 0
        self.kinds: set[type] = set()
        self.said: dict[tuple[object, object], Said] = {}
        self.reply_id = ""

    def end(self, output: object, events: list[Event]) -> None:
        """All items once more, as the end of the stream has them.

        Each is the one under way that has its id, else its place, else the first of its type: some
        servers give new ids each time (GitHub's), or leave out items. One that is none of these is new.
        """
        before = len(events)
        left: dict[object, deque[OpenItem]] = {}  # by type, in order
        named: dict[tuple[object, object], OpenItem] = {}
        for one in self._all:
            left.setdefault(one.wire.get("type"), deque()).append(one)
            for name in ("call_id", "id"):
                named[one.wire.get("type"), one.wire.get(name) or None] = one
        placed, taken = dict(self._items), set[int]()
        for at, item in enumerate(output if isinstance(output, list) else ()):
            if not isinstance(item, dict):
                continue
            kind = item.get("type")
            alike = left.get(kind, deque())
            while alike and id(alike[0]) in taken:
                alike.popleft()
            same = [named.get((kind, item[name])) for name in ("id", "call_id") if item.get(name)]
            found = next(
                (one for one in (*same, placed.get(at), *islice(alike, 1)) if _fits(one, kind, taken)), None
            )
            if found is None:
                found = self._open(self._next, item)
            taken.add(id(found))
            found.settle(item, events, self.reply_id)
        for one in self._all:
            if not one.settled:
                one.abandon(events, self.reply_id)
        self._note(events[before:])

    def _note(self, told: list[Event]) -> None:
        self.kinds.update(_KINDS[type(event)] for event in told if type(event) in _KINDS)

    def _index(self) -> int:
        self._count += 1
        return self._count - 1

    def _open(self, at: object, wire: Mapping[str, Any]) -> OpenItem:
        place = at if type(at) is int else self._next
        found = self._items[place] = self._last = open_item(wire, place, self._index)
        self._next = max(self._next, place + 1)
        self._all.append(found)
        self._latest[type(found)] = found
        if wire.get("id"):
            self._named[wire["id"]] = found
        self.said.clear()  # by whose places another item may go from now on
        return found

    def _find(self, at: object, item_id: object) -> OpenItem | None:
        """The item that is meant by a place and an id, of which either may be missing or wrong.

        GitHub's server gives new ids each time, so that the place counts; vLLM's and LiteLLM's give a
        place that is another item's, so that an id which is known counts more.
        """
        found = self._items.get(at) if type(at) is int else None
        if item_id and (found is None or found.wire.get("id") != item_id):
            found = self._named.get(item_id, found)
        return self._last if found is None and type(at) is not int else found

    def _item(self, event: Mapping[str, Any], kind: type[Item], name: str) -> Item | None:
        """The item that a delta belongs to; one that the server forgot to begin is begun.

        None where it is an item that we do not model: its end has the whole of it.
        """
        at, item_id = event.get("output_index"), event.get("item_id")
        found = self._find(at, item_id)
        if isinstance(found, kind):
            return found
        if isinstance(found, Other):
            return None
        if found is not None:  # LiteLLM's thoughts are at the place of the message
            at, found = None, self._latest.get(kind)
        if found is None or found.settled:
            found = self._open(at, {"type": name, "id": item_id} if item_id else {"type": name})
            found.implied = True
        return found if isinstance(found, kind) else None

    def _added(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item, at = event.get("item"), event.get("output_index")
        if not isinstance(item, dict):
            events.append(_PING)  # OpenAI's SDK knows such, too
            return
        found = self._find(at, item.get("id"))
        if found is not None and _is_again(found, item):
            found.wire, found.implied = item, False
            if item.get("id"):
                self._named[item["id"]] = found
        else:
            found = self._open(at, item)
        if isinstance(found, Call):
            self.kinds.add(ToolCall)
            found.begin(events, self.reply_id)
        else:
            events.append(_PING)

    def _over(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item, at = event["item"], event.get("output_index")
        found = self._find(at, item.get("id"))
        if found is None or found.wire.get("type", item["type"]) != item["type"]:
            found = self._open(at, item)
        before = len(events)
        found.settle(item, events, self.reply_id)
        self._note(events[before:])

    def _boundary(self, event: Mapping[str, Any], events: list[Event]) -> None:
        """A part of an item begins or ends."""
        found = self._find(event.get("output_index"), event.get("item_id"))
        if isinstance(found, (Message, Thought)):
            found.between = True
        events.append(_PING)

    def _text(self, event: Mapping[str, Any], events: list[Event]) -> None:
        text, place = event.get("delta"), event.get("content_index")
        item = self._item(event, Message, "message")
        if text and item is not None:
            found = item.text(place, text_of(text), events)
            self.said[event.get("output_index"), place] = found
            self.kinds.add(Text)
            if isinstance(event.get("logprobs"), list):
                found.logprobs += event["logprobs"]

    def _whole_text(self, event: Mapping[str, Any], events: list[Event]) -> None:
        """All of a text, of which a server may have sent no delta."""
        item, whole = self._item(event, Message, "message"), event.get("text")
        if item is not None:
            if whole and isinstance(whole, str):
                self.kinds.add(Text)
                item.whole_text(event.get("content_index"), whole, events)
            item.between = True

    def _refusal(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item = self._item(event, Message, "message")
        if event.get("delta") and item is not None:
            self.kinds.add(Refusal)
            item.refusal(event.get("content_index"), text_of(event["delta"]), events)

    def _annotation(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item = self._item(event, Message, "message")
        if event.get("annotation") is not None and item is not None:
            item.annotation(event.get("content_index"), event["annotation"], events)

    def _arguments(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item = self._item(event, Call, _call_of(event))
        if event.get("delta") and item is not None:
            self.kinds.add(ToolCall)
            item.arguments(arguments_text(event["delta"]), events)

    def _all_arguments(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item, whole = self._item(event, Call, _call_of(event)), event.get("arguments", event.get("input"))
        if item is not None:
            item.learn(event)
        if whole and item is not None:
            self.kinds.add(ToolCall)
            item.all_arguments(arguments_text(whole), events)

    def _summary(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item = self._item(event, Thought, "reasoning")
        if event.get("delta") and item is not None:
            item.text("summary", event.get("summary_index"), _thought(event["delta"]), events)

    def _thoughts(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item = self._item(event, Thought, "reasoning")
        if event.get("delta") and item is not None:
            item.text("content", event.get("content_index"), _thought(event["delta"]), events)

    def _whole_thought(self, event: Mapping[str, Any], events: list[Event]) -> None:
        """All of a part of a thought, of which a server may have sent no delta."""
        item, whole = self._item(event, Thought, "reasoning"), event.get("text")
        if item is not None:
            summary = "summary" in event["type"]
            place = event.get("summary_index" if summary else "content_index")
            if whole and isinstance(whole, str):
                item.whole_text("summary" if summary else "content", place, whole, events)
            item.between = True


STEPS: dict[str, Callable[[Output, Mapping[str, Any], list[Event]], None]] = {
    "response.output_item.added": Output._added,
    "response.output_item.done": Output._over,
    "response.output_text.delta": Output._text,
    "response.output_text.done": Output._whole_text,
    "response.content_part.added": Output._boundary,
    "response.content_part.done": Output._boundary,
    "response.output_text.annotation.added": Output._annotation,
    "response.refusal.delta": Output._refusal,
    "response.function_call_arguments.delta": Output._arguments,
    "response.function_call_arguments.done": Output._all_arguments,
    "response.custom_tool_call_input.delta": Output._arguments,
    "response.custom_tool_call_input.done": Output._all_arguments,
    "response.reasoning_summary_text.delta": Output._summary,
    "response.reasoning_summary_text.done": Output._whole_thought,
    "response.reasoning_summary.delta": Output._summary,
    "response.reasoning_text.delta": Output._thoughts,
    "response.reasoning_text.done": Output._whole_thought,
    "response.reasoning_part.added": Output._boundary,  # vLLM's, and the next
    "response.reasoning_part.done": Output._boundary,
    "response.reasoning.delta": Output._thoughts,
}


def _fits(one: OpenItem | None, kind: object, taken: set[int]) -> bool:
    """Whether an item is of that type, and was not found before."""
    return one is not None and id(one) not in taken and one.wire.get("type") == kind


def _is_again(one: OpenItem, wire: Mapping[str, Any]) -> bool:
    """Whether `wire` begins what a delta began already, or begins it once more."""
    if one.settled or one.wire.get("type") != wire.get("type"):
        return False
    return one.implied or (bool(wire.get("id")) and one.wire.get("id") == wire["id"])


def _call_of(event: Mapping[str, Any]) -> str:
    return "custom_tool_call" if "custom" in str(event.get("type")) else "function_call"


def _thought(delta: object) -> str:
    """The text of a delta of reasoning; in an early form it was an object."""
    return text_of(delta.get("text")) if isinstance(delta, Mapping) else text_of(delta)
