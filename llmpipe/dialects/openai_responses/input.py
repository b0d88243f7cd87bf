"""The items of a caller's input, as our messages.

Items of the model that follow each other (reasoning, a message, calls) are one assistant's message, as
they were in the reply; a message that cannot be told from the one before it begins a new one. Items that
we do not model stay as they are: those of the model in the assistant's message, others in a user's
message of their own.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.openai_responses.content import decode_content
from llmpipe.dialects.openai_responses.items import NAME, mark_of, of_the_model, with_mark
from llmpipe.dialects.openai_responses.reasoning import decode_reasoning, unsealed
from llmpipe.errors import BadReply
from llmpipe.types import Message, Opaque, Part, Role, Text, ToolCall, ToolResult

__all__ = ("decode_input",)

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_KNOWN: frozenset[str] = frozenset()


def decode_input(value: object) -> list[Message]:
    """The messages of a caller's `input`: a string, or a list of items.

    Raises: InvalidRequest naming the path.
    """
    if isinstance(value, str):
        return [Message("user", value, dialect=NAME)]
    if not isinstance(value, list):
        raise invalid("input", "a string or a list of items was expected", code="invalid_type")
    turns = _Turns()
    for at, item in enumerate(value):
        turns.take(item, f"input[{at}]")
    return turns.done()


class _Turns:
    """Messages under construction."""

    __slots__ = ("_messages", "_parts", "_said")

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._parts: list[Part] = []  # of the assistant's message that may go on
        self._said: object = False  # the id of the message item that stands last in it, or False

    def done(self) -> list[Message]:
        """All messages."""
        self._end()
        return self._messages

    def take(self, value: object, path: str) -> None:
        """One item."""
        fields = Fields(value, path)
        whole = dict(fields.rest)
        kind = fields.text("type") or ("message" if "role" in whole else None)
        if kind is None:
            raise invalid(fields.at("type"), "is required", code="missing_required_parameter")
        if kind == "message":
            self._message(fields)
        elif kind in ("function_call", "custom_tool_call"):
            self._add(_tool_call(fields, custom=kind == "custom_tool_call"))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._other(Message("tool", _tool_result(fields, custom=kind.startswith("custom")), dialect=NAME))
        elif kind == "reasoning":
            self._add(unsealed(decode_reasoning(_checked(whole, fields))))
        elif of_the_model(kind):
            self._add(Opaque(NAME, whole))
        else:
            self._other(Message("user", Opaque(NAME, whole), dialect=NAME))

    def _message(self, fields: Fields) -> None:
        role = fields.need_text("role")
        if role not in _ROLES:
            raise invalid(fields.at("role"), f"must be one of {', '.join(_ROLES)}, not {role!r}")
        parts = decode_content(fields.need("content").take("content"), fields.at("content"))
        kind = _ROLES[role]
        if kind != "assistant":
            original = {} if role == kind else {"role": role}
            self._other(Message(kind, parts, extra={**original, **fields.unknown()}, dialect=NAME))
            return
        mark = mark_of(fields.rest, _KNOWN)
        if self._said is not False and (self._said is None or mark.get("id") in (None, self._said)):
            self._end()
        self._parts += [_marked(part, mark) for part in parts]
        self._said = mark.get("id")

    def _add(self, part: Part) -> None:
        self._parts.append(part)
        self._said = False

    def _other(self, message: Message) -> None:
        self._end()
        self._messages.append(message)

    def _end(self) -> None:
        if self._parts:
            self._messages.append(Message("assistant", self._parts, dialect=NAME))
        self._parts, self._said = [], False


def _marked(part: Part, mark: dict[str, Any]) -> Part:
    if not mark or not isinstance(part, Text):
        return part
    return evolve(part, extra=with_mark(dict(part.extra), mark))


def _tool_call(fields: Fields, *, custom: bool) -> ToolCall:
    call_id, name = fields.need_text("call_id"), fields.need_text("name")
    field = "input" if custom else "arguments"
    arguments = fields.take(field)
    if isinstance(arguments, dict):
        try:
            arguments = json_text(arguments, "it")
        except BadReply as error:
            raise invalid(fields.at(field), error.message) from None
    if arguments is not None and type(arguments) is not str:
        raise invalid(fields.at(field), "a string was expected", code="invalid_type")
    extra: dict[str, Any] = {"type": "custom"} if custom else {}
    return ToolCall(call_id, name, arguments or "", with_mark(extra, mark_of(fields.rest, _KNOWN)))


def _tool_result(fields: Fields, *, custom: bool) -> ToolResult:
    call_id = fields.need_text("call_id")
    content = decode_content(fields.take("output"), fields.at("output"))
    name = fields.text("name")
    extra: dict[str, Any] = {"type": "custom"} if custom else {}
    mark = mark_of(fields.rest, _KNOWN)
    return ToolResult(call_id, content, name=name, extra=with_mark(extra, mark))


def _checked(item: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """A reasoning item whose fields have the types that they must have."""
    fields.items("summary")
    fields.items("content")
    fields.text("encrypted_content")
    return item
