"""Messages of a request, both directions.

Normalised on the way: an assistant's empty content (``""``, ``[]``, null or none at all) is one
thing, empty lists of tool calls and null fields are left out, and a message with several tool
results becomes one message each, as this wire has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.openai_chat.content import decode_content, encode_content
from llmpipe.dialects.openai_chat.reasoning import IN_CONTENT, decode_reasoning, encode_reasoning
from llmpipe.errors import BadReply, Unsupported
from llmpipe.types import Message, Part, Reasoning, Refusal, Role, Text, ToolCall, ToolResult

if TYPE_CHECKING:
    from llmpipe.dialects.openai_chat.quirks import Quirks

__all__ = ("decode_message", "encode_assistant", "encode_messages", "encode_tool_call")

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI's functions of 2023, answered by name
}


def encode_messages(messages: Iterable[Message], quirks: Quirks) -> list[dict[str, Any]]:
    """The wire's messages for ours: for each of ours one, and one for each tool result in it.

    Raises: Unsupported for a part that this wire cannot say.
    """
    wire: list[dict[str, Any]] = []
    for message in messages:
        parts = message.parts
        if ToolResult in map(type, parts):
            extra = message.extra if message.role == "tool" else {}
            results = [part for part in parts if type(part) is ToolResult]
            wire += [_encode_tool_result(result, extra, quirks) for result in results]
            parts = tuple([part for part in parts if type(part) is not ToolResult])
            if not parts:
                continue
        wire.append(_encode_message(message, parts, quirks))
    return wire


def _encode_message(message: Message, parts: tuple[Part, ...], quirks: Quirks) -> dict[str, Any]:
    """One message, of which only `parts` are left to be said."""
    if message.role == "assistant":
        wire = encode_assistant(parts, quirks)
    elif ToolCall in map(type, parts):
        raise Unsupported(f"a {message.role} message cannot hold a tool call; only the assistant makes them")
    else:
        role = quirks.system_role if message.role == "system" else message.role
        wire = {"role": role, "content": encode_content(parts)}
    if message.name is not None:
        wire["name"] = message.name
    return {**wire, **message.extra}


def encode_assistant(parts: Sequence[Part], quirks: Quirks, *, lossless: bool = False) -> dict[str, Any]:
    """An assistant message: content, reasoning, refusal and tool calls, each in its own field.

    Args: with `lossless`, nothing is left out for the sake of strict servers: this is a reply, or
        reasoning that is to survive.
    """
    content: list[Part] = []
    thoughts: list[Reasoning] = []
    calls: list[ToolCall] = []
    refusals: list[str] = []
    for part in parts:
        if type(part) is ToolCall:
            calls.append(part)
        elif type(part) is Reasoning:
            (content if part.extra.get("type") in IN_CONTENT else thoughts).append(part)
        elif type(part) is Refusal and not part.extra:
            refusals.append(part.text)
        else:
            content.append(part)
    field = quirks.reasoning_field
    if field is None and not lossless:
        thoughts, content = [], [part for part in content if type(part) is not Reasoning]
    wire: dict[str, Any] = {"role": "assistant", "content": encode_content(content) if content else None}
    if thoughts:
        wire.update(encode_reasoning(thoughts, field or "reasoning_content", lossless=lossless))
    if refusals:
        wire["refusal"] = "".join(refusals)
    tool_calls = []
    for call in calls:
        if call.extra.get("type") == "function_call":
            wire["function_call"] = {"name": call.name, "arguments": call.arguments}
        else:
            tool_calls.append(encode_tool_call(call, quirks))
    if tool_calls:
        wire["tool_calls"] = tool_calls
    if wire["content"] is None:
        # OpenAI takes a message without content only where it has something else to say.
        wire["content"] = quirks.empty_content if calls or refusals or lossless else ""
    return wire


def encode_tool_call(call: ToolCall, quirks: Quirks) -> dict[str, Any]:
    """One entry of `tool_calls`. OpenAI's custom tools take text where functions take JSON.

    Other types, such as Moonshot's ``builtin_function``, have a ``function`` like all.
    """
    extra = dict(call.extra)
    kind = extra.pop("type", "function")
    place = "custom" if kind == "custom" else "function"
    inner: dict[str, Any] = {"name": call.name}
    inner["input" if kind == "custom" else "arguments"] = call.arguments
    return {"id": _tool_id(call.id, quirks), "type": kind, place: {**inner, **extra.pop(place, {})}, **extra}


def decode_message(value: object, path: str) -> Message:
    """One message of a caller.

    Raises: InvalidRequest naming the path.
    """
    fields = Fields(value, path)
    role = fields.need_text("role")
    if role not in _ROLES:
        raise invalid(fields.at("role"), f"must be one of {', '.join(_ROLES)}, not {role!r}")
    kind, name = _ROLES[role], fields.text("name")
    original = {} if role in (kind, "function") else {"role": role}
    if kind == "assistant":
        parts = tuple(_decode_assistant(fields))
        return Message(kind, parts, name, fields.unknown())
    content = decode_content(fields.take("content"), fields.at("content"))
    if kind == "tool":
        call_id = fields.text("tool_call_id") or ""
        legacy = {"role": role} if role == "function" else {}
        return Message(kind, (ToolResult(call_id, content, name=name, extra=legacy),), extra=fields.unknown())
    _drop_empty(fields, "tool_calls")
    return Message(kind, content, name, {**original, **fields.unknown()})


def _decode_assistant(fields: Fields) -> Iterator[Part]:
    content = decode_content(fields.take("content"), fields.at("content"))
    yield from decode_reasoning(fields.rest)
    for part in content:
        if type(part) is not Text or part.text or part.extra:
            yield part
    refusal = fields.text("refusal")
    if refusal:
        yield Refusal(refusal)
    for index, call in enumerate(fields.items("tool_calls") or []):
        yield _decode_tool_call(Fields(call, f"{fields.at('tool_calls')}[{index}]"))
    legacy = fields.table("function_call")
    if legacy is not None:
        function = Fields(legacy, fields.at("function_call"))
        name = function.need_text("name")
        yield ToolCall("", name, function.text("arguments") or "", {"type": "function_call"})


def _decode_tool_call(fields: Fields) -> ToolCall:
    call_id, kind = fields.text("id") or "", fields.text("type") or "function"
    place = "custom" if kind == "custom" else "function"
    if place not in fields.rest and kind not in ("function", "custom"):
        raise invalid(fields.at("type"), f"must be function or custom, not {kind!r}")
    inner = fields.nested(place)
    name = inner.need_text("name")
    field = "input" if kind == "custom" else "arguments"
    arguments = inner.take(field)
    if isinstance(arguments, dict):  # Ollama's own clients send the object itself
        try:
            arguments = json_text(arguments, "it")
        except BadReply as error:
            raise invalid(inner.at(field), error.message) from None
    if arguments is not None and type(arguments) is not str:
        raise invalid(inner.at(field), "a string of JSON was expected", code="invalid_type")
    extra: dict[str, Any] = {} if kind == "function" else {"type": kind}
    if more := inner.unknown():
        extra[place] = more
    return ToolCall(call_id, name, arguments or "", {**extra, **fields.unknown()})


def _encode_tool_result(result: ToolResult, extra: Mapping[str, Any], quirks: Quirks) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": "tool"}
    if result.id:
        wire["tool_call_id"] = _tool_id(result.id, quirks)
    if result.name is not None:
        wire["name"] = result.name
    # There is no field for is_error: the text has to say it, and tools' own texts do.
    wire["content"] = encode_content(result.content)
    return {**wire, **result.extra, **extra}


def _tool_id(call_id: str, quirks: Quirks) -> str:
    """The id as the server takes it; the same for a call and its result.

    Mistral refuses all ids that are not nine letters and digits, so those that another provider
    gave are hashed to that.
    """
    size = quirks.tool_id_chars
    if size is None or (len(call_id) == size and call_id.isalnum() and call_id.isascii()):
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:size]


def _drop_empty(fields: Fields, name: str) -> None:
    if fields.rest.get(name) in (None, []):
        fields.rest.pop(name, None)
