"""Items of a stream that was begun and not ended, on the server's side: a message, a thought, a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from llmpipe.dialects import sse
from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.openai_responses.items import made_up_item_id
from llmpipe.dialects.openai_responses.output import call_item, message_item
from llmpipe.dialects.openai_responses.reasoning import SEPARATOR, encode_reasoning, pieces_of, sealed
from llmpipe.types import Reasoning, ReasoningDelta, ToolCall, ToolDelta, merge_extra

__all__ = ("OpenCall", "OpenMessage", "OpenThought", "Sender")

_dumps = orjson.dumps

_TEXT = (
    b"event: response.output_text.delta\ndata: "
    b'{"type":"response.output_text.delta","sequence_number":%d,"item_id":%s,"output_index":%d,'
    b'"content_index":%d,"delta":%s,"logprobs":[]}\n\n'
)


class Sender:
    """What items need of the stream they are in: numbers for its events, places in its output."""

    __slots__ = ("_output", "refused", "reply_id", "sequence")

    def __init__(self) -> None:
        self.sequence = 0
        self.reply_id = ""
        self.refused = False
        self._output: list[dict[str, Any]] = []

    @property
    def count(self) -> int:
        """How many items there are, which is the place of the next."""
        return len(self._output)

    def place(self, item: dict[str, Any]) -> int:
        """The place of a new item."""
        self._output.append(item)
        return len(self._output) - 1

    def replace(self, at: int, item: dict[str, Any]) -> None:
        """The item at that place is over, and this is the whole of it."""
        self._output[at] = item

    def output(self) -> list[dict[str, Any]]:
        """All items so far."""
        return list(self._output)

    def send(self, name: str, fields: dict[str, Any]) -> bytes:
        """One event."""
        event = {"type": name, "sequence_number": self.sequence, **fields}
        self.sequence += 1
        return sse.encode(_dumps(event), name)


class _Open:
    """An item that was begun and not ended."""

    __slots__ = ("_sender", "at", "id", "item", "mark")

    def __init__(self, sender: Sender, mark: Mapping[str, Any], item: dict[str, Any]) -> None:
        self._sender = sender
        self.mark: dict[str, Any] = dict(mark)
        self.item = item
        self.id: str = item["id"]
        self.at = sender.place(item)

    def begin(self) -> bytes:
        """The item's beginning."""
        return self._sender.send("response.output_item.added", {"output_index": self.at, "item": self.item})

    def learn(self, mark: Mapping[str, Any]) -> None:
        """More that the item has besides; the id that it was begun with stays."""
        merge_extra(
            self.mark, {name: value for name, value in mark.items() if name != "id" or "id" in self.mark}
        )

    def _send(self, name: str, fields: dict[str, Any]) -> bytes:
        return self._sender.send(name, {"item_id": self.id, "output_index": self.at, **fields})

    def _done(self, item: dict[str, Any]) -> bytes:
        item = {**item, "id": self.id}
        self._sender.replace(self.at, item)
        return self._sender.send("response.output_item.done", {"output_index": self.at, "item": item})


class OpenMessage(_Open):
    """A message, and the part of it that is under way."""

    __slots__ = ("_content", "_encoded_id", "_extra", "_index", "_kind", "_pieces")

    def __init__(self, sender: Sender, mark: Mapping[str, Any]) -> None:
        made_up = made_up_item_id("msg", sender.reply_id, sender.count)
        super().__init__(sender, mark, message_item(made_up, {**mark, "status": "in_progress"}, []))
        self._encoded_id = _dumps(self.id)
        self._content: list[dict[str, Any]] = []
        self._kind: Literal["", "text", "refusal"] = ""
        self._index = -1
        self._pieces: list[str] = []
        self._extra: dict[str, Any] = {}

    def is_at(self, kind: str, index: int) -> bool:
        """Whether that part is under way."""
        return self._index == index and self._kind == kind

    def turn_to(self, kind: Literal["text", "refusal"], index: int, extra: Mapping[str, Any]) -> bytes:
        """Make that part the one under way, with `extra` for what a text has besides."""
        out = b""
        if not self.is_at(kind, index):
            out = self._end_part()
            self._kind, self._index, self._pieces, self._extra = kind, index, [], {}
            self._sender.refused = self._sender.refused or kind == "refusal"
            out += self._send(
                "response.content_part.added", {"content_index": len(self._content), "part": self._part("")}
            )
        annotations = extra.get("annotations")
        known = len(self._extra.get("annotations", ()))
        for number, annotation in enumerate(annotations if isinstance(annotations, list) else ()):
            out += self._send(
                "response.output_text.annotation.added",
                {
                    "content_index": len(self._content),
                    "annotation_index": known + number,
                    "annotation": annotation,
                },
            )
        merge_extra(self._extra, extra)
        return out

    def more(self, text: str) -> bytes:
        """More of the part under way."""
        self._pieces.append(text)
        if self._kind == "refusal":
            return self._send("response.refusal.delta", {"content_index": len(self._content), "delta": text})
        sender = self._sender
        sender.sequence += 1
        return _TEXT % (sender.sequence - 1, self._encoded_id, self.at, len(self._content), _dumps(text))

    def whole(self, part: dict[str, Any]) -> bytes:
        """A part in one piece, of a type that we do not model."""
        out = self._end_part()
        place = {"content_index": len(self._content), "part": part}
        self._content.append(part)
        out += self._send("response.content_part.added", place)
        return out + self._send("response.content_part.done", place)

    def end(self) -> bytes:
        """The end of the message."""
        out = self._end_part()
        return out + self._done(message_item(self.id, self.mark, self._content))

    def _end_part(self) -> bytes:
        if not self._kind:
            return b""
        text, place = "".join(self._pieces), {"content_index": len(self._content)}
        part = self._part(text)
        if self._kind == "text":
            logprobs = part["logprobs"]
            out = self._send("response.output_text.done", {**place, "text": text, "logprobs": logprobs})
        else:
            out = self._send("response.refusal.done", {**place, "refusal": text})
        out += self._send("response.content_part.done", {**place, "part": part})
        self._content.append(part)
        self._kind, self._index = "", -1
        return out

    def _part(self, text: str) -> dict[str, Any]:
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text, **self._extra}


class OpenThought(_Open):
    """Reasoning: its summary or the thoughts themselves, and the proof that its end carries."""

    __slots__ = ("_encrypted", "_origin", "_pieces", "_signature", "_under_way", "index")

    def __init__(self, sender: Sender, mark: Mapping[str, Any], index: int) -> None:
        made_up = made_up_item_id("rs", sender.reply_id, sender.count)
        item = {"id": mark.get("id", made_up), "type": "reasoning", "summary": []}
        super().__init__(sender, {name: value for name, value in mark.items() if name != "sizes"}, item)
        self.index = index
        self._pieces: list[str] = []  # the parts that are over, and the one under way
        self._under_way = False
        self._signature: str | None = None
        self._encrypted: str | None = None
        self._origin = ""

    def more(self, event: ReasoningDelta, mark: Mapping[str, Any]) -> bytes:
        """More of the thought."""
        self.learn({name: value for name, value in mark.items() if name != "sizes"})
        self._origin = event.origin or self._origin
        if event.signature is not None:
            self._signature = (self._signature or "") + event.signature
        if event.encrypted is not None:
            self._encrypted = (self._encrypted or "") + event.encrypted
        sizes = mark.get("sizes")
        if sizes and event.text == SEPARATOR and self._under_way:  # a part is over, and another begins
            return self._end_part()
        out = b""
        whole = isinstance(sizes, list) and not self._pieces
        for at, text in enumerate(pieces_of(event.text, sizes if whole else None)):
            if at:
                out += self._end_part()
            out += self._text(text)
        return out

    def end(self) -> bytes:
        """The end of the thought, with its proof."""
        out = self._end_part()
        text, sizes = SEPARATOR.join(self._pieces), [len(piece) for piece in self._pieces]
        part = Reasoning(text, self._signature, self._encrypted, {}, self._origin)
        return out + self._done(encode_reasoning(part, {**self.mark, "sizes": sizes}, sealed(part)))

    def _text(self, text: str) -> bytes:
        out = b""
        if not self._under_way:
            self._under_way = True
            self._pieces.append("")
            out = self._send(f"{self._part_name}.added", {**self._place, "part": self._part("")})
        self._pieces[-1] += text
        return out + self._send(f"{self._text_name}.delta", {**self._place, "delta": text}) if text else out

    def _end_part(self) -> bytes:
        if not self._under_way:
            return b""
        self._under_way = False
        text = self._pieces[-1]
        out = self._send(f"{self._text_name}.done", {**self._place, "text": text})
        return out + self._send(f"{self._part_name}.done", {**self._place, "part": self._part(text)})

    @property
    def _is_content(self) -> bool:
        return self.mark.get("kind") == "content"

    @property
    def _part_name(self) -> str:
        return "response.content_part" if self._is_content else "response.reasoning_summary_part"

    @property
    def _text_name(self) -> str:
        return "response.reasoning_text" if self._is_content else "response.reasoning_summary_text"

    @property
    def _place(self) -> dict[str, Any]:
        return {"content_index" if self._is_content else "summary_index": len(self._pieces) - 1}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "reasoning_text" if self._is_content else "summary_text", "text": text}


class OpenCall(_Open):
    """A call, of a function or of a custom tool."""

    __slots__ = ("_call_id", "_custom", "_name", "_pieces")

    def __init__(self, sender: Sender, mark: Mapping[str, Any], event: ToolDelta, *, custom: bool) -> None:
        self._custom = custom
        self._name = event.name or ""
        self._call_id = event.id or made_up_id(sender.reply_id, sender.count, self._name)
        self._pieces: list[str] = []
        begun = {**mark, "status": "in_progress"}
        super().__init__(sender, mark, call_item(self._call(""), begun, sender.reply_id, sender.count))

    def more(self, event: ToolDelta, mark: Mapping[str, Any]) -> bytes:
        """More of the arguments; a name that comes late is told at the end."""
        self._name = event.name or self._name
        self.learn(mark)
        if not event.arguments:
            return b""
        self._pieces.append(event.arguments)
        return self._send(f"{self._event_name}.delta", {"delta": event.arguments})

    def is_whole(self) -> bool:
        """Whether nothing more is to come, as far as one can tell; of a custom tool's text one cannot."""
        if self._custom:
            return False
        try:
            orjson.loads("".join(self._pieces))
        except orjson.JSONDecodeError:
            return False
        return True

    def end(self) -> bytes:
        """The end of the call."""
        text = "".join(self._pieces)
        field = "input" if self._custom else "arguments"
        out = self._send(
            f"{self._event_name}.done", {field: text, **({} if self._custom else {"name": self._name})}
        )
        return out + self._done(call_item(self._call(text), self.mark, self._sender.reply_id, self.at))

    @property
    def _event_name(self) -> str:
        return "response.custom_tool_call_input" if self._custom else "response.function_call_arguments"

    def _call(self, arguments: str) -> ToolCall:
        return ToolCall(self._call_id, self._name, arguments, {"type": "custom"} if self._custom else {})
