"""Between a stream of events and the completion it amounts to, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from attrs import Factory, define

from llmpipe.types.events import (
    Event,
    Extra,
    Finish,
    Ping,
    ReasoningDelta,
    RefusalDelta,
    Start,
    TextDelta,
    ToolDelta,
    UsageUpdate,
)
from llmpipe.types.frozen import EMPTY
from llmpipe.types.messages import Message, Part, Reasoning, Refusal, Text, ToolCall
from llmpipe.types.replies import Completion, FinishReason, Usage

__all__ = ("fold", "is_content", "merge_extra", "unfold")


def merge_extra(into: dict[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge `more` into `into` and return it: mappings key by key, lists joined, the rest replaced."""
    for key, value in (more or {}).items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            into[key] = merge_extra(dict(old), value)
        elif isinstance(old, list) and isinstance(value, list):
            into[key] = old + value
        else:
            into[key] = value
    return into


@define
class _Slot:
    """One part under construction."""

    kind: str
    part: Part | None = None
    pieces: list[str] = Factory(list)
    extra: dict[str, Any] = Factory(dict)
    signature: str | None = None
    encrypted: str | None = None
    origin: str = ""
    id: str = ""
    name: str = ""

    def build(self) -> Part:
        if self.part is not None:
            return self.part
        text = "".join(self.pieces)
        if self.kind == "text":
            return Text(text, self.extra)
        if self.kind == "tool":
            return ToolCall(self.id, self.name, text, self.extra)
        if self.kind == "reasoning":
            return Reasoning(text, self.signature, self.encrypted, self.extra, self.origin)
        return Refusal(text, self.extra)


class _Fold:
    """A completion under construction: one method for each kind of event."""

    def __init__(self) -> None:
        self.begun = Start()
        self.usage: Usage | None = None
        self.reason: FinishReason | None = None
        self.rest: dict[str, Any] = {}
        self.rest_of_message: dict[str, Any] = {}
        self.slots: dict[tuple[str, int], _Slot] = {}

    def slot(self, kind: str, index: int) -> _Slot:
        found = self.slots.get((kind, index))
        if found is None:
            found = self.slots[kind, index] = _Slot(kind)
        return found

    def start(self, event: Start) -> None:
        self.begun = event
        merge_extra(self.rest, event.extra)

    def text(self, event: TextDelta) -> None:
        slot = self.slot("text", event.index)
        slot.pieces.append(event.text)
        if event.extra:
            merge_extra(slot.extra, event.extra)

    def tool(self, event: ToolDelta) -> None:
        slot = self.slot("tool", event.index)
        slot.id = event.id or slot.id
        slot.name = event.name or slot.name
        slot.pieces.append(event.arguments)
        if event.extra:
            merge_extra(slot.extra, event.extra)

    def reasoning(self, event: ReasoningDelta) -> None:
        slot = self.slot("reasoning", event.index)
        slot.pieces.append(event.text)
        if event.signature is not None:
            slot.signature = (slot.signature or "") + event.signature
        if event.encrypted is not None:
            slot.encrypted = (slot.encrypted or "") + event.encrypted
        slot.origin = event.origin or slot.origin
        if event.extra:
            merge_extra(slot.extra, event.extra)

    def refusal(self, event: RefusalDelta) -> None:
        self.slot("refusal", event.index).pieces.append(event.text)

    def used(self, event: UsageUpdate) -> None:
        self.usage = event.usage

    def extra(self, event: Extra) -> None:
        merge_extra(self.rest if event.of == "reply" else self.rest_of_message, event.data)
        if event.part is not None:
            self.slots["part", len(self.slots)] = _Slot("part", event.part)

    def finish(self, event: Finish) -> None:
        self.reason = event.reason
        merge_extra(self.rest, event.extra)

    def ping(self, event: Ping) -> None:
        """Nothing to keep."""

    def completion(self) -> Completion:
        begun = self.begun
        parts = tuple([slot.build() for slot in self.slots.values()])
        return Completion(
            id=begun.id,
            model=begun.model,
            message=Message("assistant", parts, None, self.rest_of_message or EMPTY, begun.dialect),
            finish_reason=self.reason,
            usage=self.usage,
            provider=begun.provider,
            created=begun.created,
            request_id=begun.request_id,
            headers=begun.headers or {},
            extra=self.rest,
        )


_STEPS: dict[type, Callable[[_Fold, Any], None]] = {
    Start: _Fold.start,
    TextDelta: _Fold.text,
    ToolDelta: _Fold.tool,
    ReasoningDelta: _Fold.reasoning,
    RefusalDelta: _Fold.refusal,
    UsageUpdate: _Fold.used,
    Extra: _Fold.extra,
    Finish: _Fold.finish,
    Ping: _Fold.ping,
}


def fold(events: Iterable[Event]) -> Completion:
    """The completion a stream of events amounts to: the one way a stream becomes a full reply.

    Parts stand in the order in which they first appeared. A stream that was cut short gives the
    partial completion, with `finish_reason` None and `usage` None unless the wire told it.
    """
    folding = _Fold()
    index = -1
    append: Callable[[str], None] = list[str]().append
    for event in events:
        if type(event) is TextDelta:
            if event.index == index and event.extra is None:  # nearly all of them: more of the same text
                append(event.text)
                continue
            index = event.index
            append = folding.slot("text", index).pieces.append
        _STEPS[type(event)](folding, event)
    return folding.completion()


def unfold(completion: Completion) -> Iterator[Event]:
    """The events of a completion, one for each part and one for the message's `extra`: `fold` gives it back.

    What no event carries (`charge`, `warnings`) is kept by whoever holds the completion.
    """
    yield Start(
        completion.id,
        completion.model,
        completion.provider,
        completion.created,
        completion.request_id,
        completion.headers or None,
        completion.extra or None,
        completion.message.dialect,
    )
    for index, part in enumerate(completion.message.parts):
        yield _whole(part, index)
    if completion.message.extra:
        yield Extra(completion.message.extra, of="message")
    if completion.finish_reason is not None:
        yield Finish(completion.finish_reason)
    if completion.usage is not None:
        yield UsageUpdate(completion.usage)


def _whole(part: Part, index: int) -> Event:
    """The one event that carries a whole part."""
    if isinstance(part, Text):
        return TextDelta(part.text, index, part.extra or None)
    if isinstance(part, ToolCall):
        return ToolDelta(index, part.id, part.name, part.arguments, part.extra or None)
    if isinstance(part, Reasoning):
        return ReasoningDelta(
            part.text, index, part.signature, part.encrypted, part.extra or None, part.origin
        )
    if isinstance(part, Refusal) and not part.extra:
        return RefusalDelta(part.text, index)
    return Extra(part=part)


def is_content(event: Event) -> bool:
    """Whether `event` commits a reply: content, or the end of one without content."""
    return type(event) not in (Start, Ping, UsageUpdate)
