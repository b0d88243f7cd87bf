"""The output of a stream under way: which item each event belongs to, and what it tells of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, TypeVar

from llmpipe.dialects.openai_chat.reply import arguments_text
from llmpipe.dialects.openai_responses.open_item import Call, Message, OpenItem, Said, Thought, open_item
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

    __slots__ = ("_count", "_items", "_last", "kinds", "reply_id", "said")

    def __init__(self) -> None:
        self._items: dict[int, OpenItem] = {}  # by place
        self._last: OpenItem | None = None
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
        for one in self._items.values():
            left.setdefault(one.wire.get("type"), deque()).append(one)
            for name in ("call_id", "id"):
                named[one.wire.get("type"), one.wire.get(name) or None] = one
        placed, taken, place = dict(self._items), set[int](), max(self._items, default=-1) + 1
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
                found, place = self._open(place, item), place + 1
            taken.add(id(found))
            found.settle(item, events, self.reply_id)
        for one in self._items.values():
            if not one.settled:
                one.abandon(events, self.reply_id)
        self._note(events[before:])

    def _note(self, told: list[Event]) -> None:
        self.kinds.update(_KINDS[type(event)] for event in told if type(event) in _KINDS)

    def _index(self) -> int:
        self._count += 1
        return self._count - 1

    def _open(self, at: int, wire: Mapping[str, Any]) -> OpenItem:
        found = self._items[at] = self._last = open_item(wire, at, self._index)
        return found

    def _item(self, event: Mapping[str, Any], kind: type[Item], name: str) -> Item | None:
        """The item that a delta belongs to; one that the server forgot to begin is begun.

        None where the item is of another type than the delta: its end has the whole of it.
        """
        at, item_id = event.get("output_index"), event.get("item_id")
        found: OpenItem | None
        if type(at) is int:
            found = self._items.get(at)
        else:
            found, at = self._last, len(self._items)
            if found is not None and item_id and found.wire.get("id") != item_id:
                same = (one for one in self._items.values() if one.wire.get("id") == item_id)
                found = next(same, found)
        if found is None:
            found = self._open(at, {"type": name, "id": item_id} if item_id else {"type": name})
        return found if isinstance(found, kind) else None

    def _added(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item, at = event.get("item"), event.get("output_index")
        if not isinstance(item, dict):
            events.append(_PING)  # OpenAI's SDK knows such, too
            return
        found = self._open(at if type(at) is int else len(self._items), item)
        if isinstance(found, Call):
            self.kinds.add(ToolCall)
            found.begin(events, self.reply_id)
        else:
            events.append(_PING)

    def _over(self, event: Mapping[str, Any], events: list[Event]) -> None:
        item, at = event["item"], event.get("output_index")
        found = self._items.get(at) if type(at) is int else self._last
        if found is None or found.wire.get("type", item["type"]) != item["type"]:
            found = self._open(at if type(at) is int else len(self._items), item)
        before = len(events)
        found.settle(item, events, self.reply_id)
        self._note(events[before:])

    def _text(self, event: Mapping[str, Any], events: list[Event]) -> None:
        text, place = event.get("delta"), event.get("content_index")
        item = self._item(event, Message, "message")
        if text and item is not None:
            found = item.text(place, text_of(text), events)
            self.said[event.get("output_index"), place] = found
            self.kinds.add(Text)
            if isinstance(event.get("logprobs"), list):
                found.logprobs += event["logprobs"]

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


STEPS: dict[str, Callable[[Output, Mapping[str, Any], list[Event]], None]] = {
    "response.output_item.added": Output._added,
    "response.output_item.done": Output._over,
    "response.output_text.delta": Output._text,
    "response.output_text.annotation.added": Output._annotation,
    "response.refusal.delta": Output._refusal,
    "response.function_call_arguments.delta": Output._arguments,
    "response.function_call_arguments.done": Output._all_arguments,
    "response.custom_tool_call_input.delta": Output._arguments,
    "response.custom_tool_call_input.done": Output._all_arguments,
    "response.reasoning_summary_text.delta": Output._summary,
    "response.reasoning_summary.delta": Output._summary,
    "response.reasoning_text.delta": Output._thoughts,
    "response.reasoning.delta": Output._thoughts,
}


def _fits(one: OpenItem | None, kind: object, taken: set[int]) -> bool:
    """Whether an item is of that type, and was not found before."""
    return one is not None and id(one) not in taken and one.wire.get("type") == kind


def _call_of(event: Mapping[str, Any]) -> str:
    return "custom_tool_call" if "custom" in str(event.get("type")) else "function_call"


def _thought(delta: object) -> str:
    """The text of a delta of reasoning; in an early form it was an object."""
    return text_of(delta.get("text")) if isinstance(delta, Mapping) else text_of(delta)
