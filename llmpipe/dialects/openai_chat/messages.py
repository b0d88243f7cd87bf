"""Messages of a request, both directions.

Normalised on the way: an assistant's empty content (``""``, ``[]``, null or none at all) is one
thing, empty lists of tool calls and null fields are left out, and a message with several tool
results becomes one message each, as this wire has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.losses import Losses, refused
from llmpipe.dialects.openai_chat.content import decode_content, encode_content, encode_part
from llmpipe.dialects.openai_chat.reasoning import IN_CONTENT, decode_reasoning, encode_reasoning, moved
from llmpipe.dialects.openai_chat.thoughts import for_caller, for_server, in_order, unsealed
from llmpipe.dialects.openai_chat.words import NAME, ChatWriting
from llmpipe.errors import BadReply
from llmpipe.types import (
    Audio,
    Document,
    Image,
    Message,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)

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


def encode_messages(messages: Iterable[Message], quirks: Quirks, losses: Losses) -> list[dict[str, Any]]:
    """The wire's messages for ours: for each of ours one, and one for each tool result in it.

    Raises: Unsupported for a part that this wire cannot say.
    """
    wire: list[dict[str, Any]] = []
    writing: ChatWriting | None = None
    media: list[dict[str, Any]] = []  # of tools, for servers that take text only from these
    for position, message in enumerate(messages):
        parts, role = message.parts, message.role
        if media and role != "tool":
            wire.append({"role": "user", "content": media})
            media = []
        if len(parts) == 1 and message.name is None and not message.extra:  # nearly all of them
            only = parts[0]
            if type(only) is Text and not only.extra:
                wire.append({"role": quirks.system_role if role == "system" else role, "content": only.text})
                continue
        if writing is None:
            writing = ChatWriting("", losses, "user", quirks)
        writing.turn_to(message)
        path = f"messages[{position}]"
        if ToolResult in map(type, parts):
            extra = message.extra if role == "tool" else {}
            for index, part in enumerate(parts):
                if type(part) is ToolResult:
                    wire.append(_encode_tool_result(part, extra, writing, f"{path}.parts[{index}]", media))
            parts = tuple([part for part in parts if type(part) is not ToolResult])
            if not parts:
                continue
        wire.append(_encode_message(message, parts, writing, path))
    if media:
        wire.append({"role": "user", "content": media})
    return wire


def _encode_message(
    message: Message, parts: tuple[Part, ...], writing: ChatWriting, path: str
) -> dict[str, Any]:
    """One message, of which only `parts` are left to be said."""
    quirks = writing.quirks
    if message.role == "assistant":
        wire = encode_assistant(parts, writing, f"{path}.parts")
    elif ToolCall in map(type, parts):
        raise refused(
            path, f"a {message.role} message cannot hold a tool call; only the assistant makes them"
        )
    else:
        role = quirks.system_role if message.role == "system" else message.role
        wire = {"role": role, "content": encode_content(parts, writing, f"{path}.parts")}
    if message.name is not None:
        if "messages.name" in quirks.lacks:
            writing.losses.dropped(f"{path}.name", "this server does not take it")
        else:
            wire["name"] = message.name
    if not message.extra:
        return wire
    extra = writing.native(message.extra, path)
    if extra.get("role") == "developer" and "messages.developer" in quirks.lacks:
        extra = {name: value for name, value in extra.items() if name != "role"}  # it means the same
    return {**wire, **extra}


def encode_assistant(
    parts: Sequence[Part], writing: ChatWriting, path: str, *, lossless: bool = False
) -> dict[str, Any]:
    """An assistant message: content, reasoning, refusal and tool calls, each in its own field.

    Args: path is that of `parts`; with `lossless`, nothing is left out for the sake of strict servers: this
        is a reply, which a caller may give back.
    """
    quirks = writing.quirks
    content: list[Part] = []
    places: list[int] = []  # of `content`, in `parts`
    thoughts: list[Reasoning] = []
    calls: list[ToolCall] = []
    refusals: list[str] = []
    for index, part in enumerate(parts):
        if type(part) is ToolCall:
            calls.append(part)
        elif type(part) is Reasoning:
            following = parts[index + 1] if index + 1 < len(parts) else None
            thought = _thought(
                part, following, writing, f"{path}[{index}]", number=len(thoughts), lossless=lossless
            )
            if thought is not None and thought.extra.get("type") in IN_CONTENT:
                content.append(thought)
                places.append(index)
            elif thought is not None:
                thoughts.append(thought)
        elif type(part) is Refusal and (writing.foreign or not part.extra):
            refusals.append(part.text)
        else:
            content.append(part)
            places.append(index)
    said = encode_content(content, writing, path, places) if content else None
    wire: dict[str, Any] = {"role": "assistant", "content": said}
    if thoughts:
        field = quirks.reasoning_field or "reasoning_content"
        wire.update(encode_reasoning(thoughts, field, lossless=lossless))
    if refusals:
        wire["refusal"] = "".join(refusals)
    if calls:
        wire.update(_encode_calls(calls, parts, writing, path))
    if said is None:
        # OpenAI takes a message without content only where it has something else to say.
        wire["content"] = quirks.empty_content if calls or refusals or lossless else ""
    return wire


def _encode_calls(
    calls: Sequence[ToolCall], parts: Sequence[Part], writing: ChatWriting, path: str
) -> dict[str, Any]:
    """The fields of a message that hold its `calls`: tools', and OpenAI's function of 2023."""
    fields: dict[str, Any] = {}
    tool_calls = []
    for call in calls:
        if not call.extra:
            tool_calls.append(encode_tool_call(call, writing, path))
        elif call.extra.get("type") == "function_call" and not writing.foreign:
            fields["function_call"] = {"name": call.name, "arguments": call.arguments}
        else:
            tool_calls.append(encode_tool_call(call, writing, f"{path}[{parts.index(call)}]"))
    if tool_calls:
        fields["tool_calls"] = tool_calls
    return fields


def _thought(
    part: Reasoning, following: Part | None, writing: ChatWriting, path: str, *, number: int, lossless: bool
) -> Reasoning | None:
    """What of `part` is sent."""
    if lossless:
        return for_caller(part, following, foreign=writing.foreign, number=number)
    field = writing.quirks.reasoning_field
    if field is None:
        writing.losses.dropped(path, "this server takes no reasoning back")
        return None
    details = field == "reasoning_details"
    thought = for_server(part, following, writing, path, details=details, number=number)
    if thought is None or not (writing.quirks.reasoning_moved or field == "thinking"):
        return thought
    thought = moved(thought, field)
    if thought is None:
        writing.losses.dropped(path, "this server takes the text of thoughts only")
    return thought


def encode_tool_call(call: ToolCall, writing: ChatWriting, path: str) -> dict[str, Any]:
    """One entry of `tool_calls`. OpenAI's custom tools take text where functions take JSON.

    Other types, such as Moonshot's ``builtin_function``, have a ``function`` like all.
    """
    inner: dict[str, Any] = {"name": call.name}
    if not call.extra:
        inner["arguments"] = call.arguments
        return {"id": _tool_id(call.id, writing), "type": "function", "function": inner}
    extra = dict(writing.native(call.extra, path))
    kind = extra.pop("type", "function")
    place = "custom" if kind == "custom" else "function"
    inner["input" if kind == "custom" else "arguments"] = call.arguments
    more = extra.pop(place, {})
    return {"id": _tool_id(call.id, writing), "type": kind, place: {**inner, **more}, **extra}


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
        return Message(kind, parts, name, fields.unknown(), NAME)
    content = decode_content(fields.take("content"), fields.at("content"))
    if kind == "tool":
        call_id = fields.text("tool_call_id") or ""
        legacy = {"role": role} if role == "function" else {}
        result = ToolResult(call_id, content, name=name, extra=legacy)
        return Message(kind, (result,), None, fields.unknown(), NAME)
    _drop_empty(fields, "tool_calls")
    return Message(kind, content, name, {**original, **fields.unknown()}, NAME)


def _decode_assistant(fields: Fields) -> list[Part]:
    content = decode_content(fields.take("content"), fields.at("content"))
    thoughts = [unsealed(part) for part in decode_reasoning(fields.rest)]
    said = [part for part in content if type(part) is not Text or part.text or part.extra]
    refusal = fields.text("refusal")
    if refusal:
        said.append(Refusal(refusal))
    calls = [
        _decode_tool_call(Fields(call, f"{fields.at('tool_calls')}[{index}]"))
        for index, call in enumerate(fields.items("tool_calls") or [])
    ]
    legacy = fields.table("function_call")
    if legacy is not None:
        function = Fields(legacy, fields.at("function_call"))
        name = function.need_text("name")
        calls.append(ToolCall("", name, function.text("arguments") or "", {"type": "function_call"}))
    return in_order(thoughts, said, calls)


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


def _encode_tool_result(
    result: ToolResult,
    extra: Mapping[str, Any],
    writing: ChatWriting,
    where: str,
    media: list[dict[str, Any]],
) -> dict[str, Any]:
    """The message of one result. Pictures and files that it may not hold go into `media`."""
    wire: dict[str, Any] = {"role": "tool"}
    if result.id:
        wire["tool_call_id"] = _tool_id(result.id, writing)
    if result.name is not None:
        wire["name"] = result.name
    if result.is_error:
        writing.losses.dropped(f"{where}.is_error", "there is no such field; the text has to say it")
    content: Sequence[Part] = result.content
    if not writing.quirks.tool_media and any(map(_is_medium, content)):
        writing.losses.emulated(f"{where}.content", "media of a tool are shown in a user message after it")
        media.append({"type": "text", "text": f"Output of tool call {wire.get('tool_call_id', '')}:"})
        for place, part in enumerate(content):
            if _is_medium(part) and (shown := encode_part(part, writing, f"{where}.content[{place}]")):
                media.append(shown)
        content = [part for part in content if not _is_medium(part)] or [Text(_SHOWN_BELOW)]
    wire["content"] = encode_content(content, writing, f"{where}.content")
    if result.extra:
        wire.update(writing.native(result.extra, where))
    if extra:
        wire.update(writing.native(extra, where.rpartition(".parts")[0]))
    return wire


_SHOWN_BELOW = "The output is shown in the next message of the user."


def _is_medium(part: Part) -> bool:
    return isinstance(part, (Image, Audio)) or (isinstance(part, Document) and part.text is None)


def _tool_id(call_id: str, writing: ChatWriting) -> str:
    """The id as the server takes it; the same for a call and its result.

    Mistral refuses all ids that are not nine letters and digits, and OpenAI those of more than 40
    characters, so those that another provider gave are hashed to that.
    """
    quirks = writing.quirks
    size = quirks.tool_id_chars
    if size is None:
        size = quirks.max_tool_id
        if size is None or len(call_id) <= size:
            return call_id
    elif len(call_id) == size and call_id.isalnum() and call_id.isascii():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:size]


def _drop_empty(fields: Fields, name: str) -> None:
    if fields.rest.get(name) in (None, []):
        fields.rest.pop(name, None)
