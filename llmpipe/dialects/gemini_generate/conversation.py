"""A caller's ``contents`` as our messages.

Normalised on the way: contents of the model that follow each other are one message (Google's SDK
keeps a streamed turn as one content for each chunk), in which the pieces of a text or a thought are one
part and the empty text of the last chunk is none; a thought that was streamed is one part with the
signature that came after it; tool results are messages of their own, with the id of the call they
answer; a role that is missing is the user's.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve

from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.checked import invalid
from llmpipe.dialects.gemini_generate.fields import NAME, Fields
from llmpipe.dialects.gemini_generate.media import read_media
from llmpipe.dialects.gemini_generate.results import json_of, read_result
from llmpipe.dialects.gemini_generate.signatures import NO_SIGNATURE, open_signature
from llmpipe.types import Message, Opaque, Part, Reasoning, Text, ToolCall, ToolResult

__all__ = ("read_contents", "read_parts")

_ROLES = ("user", "model", "function", "tool")


def read_contents(items: list[Any]) -> list[Message]:
    """Our messages. Raises: InvalidRequest naming the path, such as ``contents[2].parts[0].text``."""
    reader = _Reader()
    for position, item in enumerate(items):
        reader.add(Fields(item, f"contents[{position}]"))
    return reader.messages


def read_parts(fields: Fields) -> list[Part]:
    """The parts of a content that is not the model's; Opaque where we do not model them."""
    items = fields.need("parts").take("parts")
    if isinstance(items, dict):  # one alone, as JSON for protocol buffers does not allow and SDKs do
        items = [items]
    if not isinstance(items, list):
        raise invalid(fields.at("parts"), "a list of parts was expected", code="invalid_type")
    return [_part(Fields(item, f"{fields.at('parts')}[{i}]")) for i, item in enumerate(items)]


class _Reader:
    """Messages so far, and the calls that wait for a result."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._called = 0
        self._open: list[ToolCall] = []

    def add(self, fields: Fields) -> None:
        role = fields.text("role") or "user"
        if role not in _ROLES:
            raise invalid(fields.at("role"), f"must be user or model, not {role!r}")
        if role == "model":
            self._model(fields)
        else:
            self._user(fields)

    def _user(self, fields: Fields) -> None:
        parts = read_parts(fields)
        extra = fields.unknown()
        others: list[Part] = []
        for part in parts:
            if not isinstance(part, ToolResult):
                others.append(part)
                continue
            if others:
                self.messages.append(Message("user", tuple(others), dialect=NAME))
                others = []
            self.messages.append(Message("tool", (self._answer(part),), dialect=NAME))
        if others or not parts:
            self.messages.append(Message("user", tuple(others), None, extra, NAME))
        elif extra:
            self.messages[-1] = evolve(self.messages[-1], extra=extra)

    def _answer(self, result: ToolResult) -> ToolResult:
        """The result with its call's id: by that id, else the first open call of its name."""
        for place, call in enumerate(self._open):
            if call.id == result.id if result.id else call.name == result.name:
                del self._open[place]
                return result if result.id else evolve(result, id=call.id)
        return result

    def _model(self, fields: Fields) -> None:
        items = fields.items("parts") or []  # an empty turn is what a filtered reply leaves
        parts: list[Part] = []
        for position, item in enumerate(items):
            self._of_model(Fields(item, f"{fields.at('parts')}[{position}]"), parts)
        last = self.messages[-1] if self.messages else None
        extra = fields.unknown()
        if last is not None and last.role == "assistant" and not extra:
            found = list(last.parts)
            for part in parts:
                _continue(found, part)
            self.messages[-1] = evolve(last, parts=tuple(found))
        else:
            self._open = []
            self.messages.append(Message("assistant", tuple(parts), None, extra, NAME))
        self._open += [part for part in parts if isinstance(part, ToolCall)]

    def _of_model(self, fields: Fields, parts: list[Part]) -> None:
        """One part of the model's: what its signature is, and itself."""
        whole = dict(fields.rest)
        sealed = fields.text("thoughtSignature")
        thought = fields.flag("thought")
        if sealed == NO_SIGNATURE:
            sealed = None
        if fields.rest.keys() & {"executableCode", "codeExecutionResult", "toolCall", "toolResponse"}:
            parts.append(Opaque(NAME, whole))  # with its signature, which nobody else needs
            return
        signature, encrypted, origin = open_signature(sealed) if sealed else (None, None, NAME)
        proven = signature is not None or encrypted is not None
        text = fields.rest.get("text")
        if thought and isinstance(text, str):
            fields.take("text")
            extra = fields.unknown()
            if not text and signature is not None and origin == NAME:
                extra["field"] = "thought"
            _join(parts, Reasoning(text, signature, encrypted, extra, origin if proven else ""))
            return
        if proven:
            lone = origin == NAME and not text and fields.rest.keys() <= {"text"}
            mark = {"field": "text"} if lone else {}
            parts.append(Reasoning("", signature, encrypted, mark, origin))
        if fields.rest.get("functionCall") is not None:
            parts.append(self._call(fields))
        elif fields.rest and not (proven and fields.rest.keys() == {"text"} and not text):
            if thought is not None:
                fields.rest["thought"] = thought
            parts.append(_part(fields))

    def _call(self, fields: Fields) -> ToolCall:
        inner = fields.nested("functionCall")
        name, call_id = inner.need_text("name"), inner.text("id")
        arguments = json_of(inner.table("args") or {}, inner.at("args"))
        call_id = call_id or made_up_id("", self._called, name)
        self._called += 1
        extra = fields.unknown()
        if more := inner.unknown():
            extra["functionCall"] = more
        return ToolCall(call_id, name, arguments, extra)


def _continue(parts: list[Part], part: Part) -> None:
    """Add a part of a later chunk: more of the text or the thought that stands last, or one of its own."""
    last = parts[-1] if parts else None
    if isinstance(part, Text) and not part.extra:
        if not part.text:
            return
        if isinstance(last, Text) and not last.extra:
            parts[-1] = Text(last.text + part.text)
            return
    if isinstance(part, Reasoning) and isinstance(last, Reasoning) and _is_plain(part) and _is_plain(last):
        parts[-1] = Reasoning(last.text + part.text)
        return
    _join(parts, part)


def _is_plain(thought: Reasoning) -> bool:
    return thought.signature is thought.encrypted is None and not thought.extra


def _join(parts: list[Part], part: Part) -> None:
    """Add a part; another provider's proof without words belongs to the thought that stands before it."""
    foreign = isinstance(part, Reasoning) and part.origin not in ("", NAME)
    if not (foreign and isinstance(part, Reasoning) and not part.text and parts):
        parts.append(part)
        return
    text = ""
    while parts and isinstance(last := parts[-1], Reasoning) and last.signature is last.encrypted is None:
        text = last.text + text
        parts.pop()
    parts.append(evolve(part, text=text))


def _part(fields: Fields) -> Part:
    """One part of anybody's."""
    if fields.rest.get("functionResponse") is not None:
        return read_result(fields)[0]
    if fields.rest.get("inlineData") is not None or fields.rest.get("fileData") is not None:
        part = read_media(fields)
        rest = fields.unknown()
        return evolve(part, extra={**part.extra, **rest}) if rest else part
    if "text" in fields.rest:
        text = fields.text("text")
        return Text(text or "", fields.unknown())
    return Opaque(NAME, dict(fields.rest))
