"""Messages and content blocks of a caller's request, as our messages and parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmpipe.dialects.anthropic_messages.blocks import DIALECT
from llmpipe.dialects.anthropic_messages.fields import Fields, invalid
from llmpipe.dialects.anthropic_messages.reply import arguments
from llmpipe.dialects.media import check_image_url
from llmpipe.dialects.proofs import unseal
from llmpipe.errors import BadReply
from llmpipe.types import Document, Image, Message, Opaque, Part, Reasoning, Text, ToolCall, ToolResult

__all__ = ("decode_content", "decode_messages")

_ROLES = ("user", "assistant", "system")


def decode_messages(wire: list[Any]) -> list[Message]:
    """Our messages for the wire's.

    Each tool result becomes a tool message; what stands beside it in the wire's user message is
    a user message before or after it.

    Raises: InvalidRequest that names the field.
    """
    messages: list[Message] = []
    for position, item in enumerate(wire):
        path = f"messages.{position}"
        fields = Fields(item, path)
        role = fields.need_text("role")
        if role not in _ROLES:
            raise invalid(fields.at("role"), f"Input should be 'user', 'assistant' or 'system', not {role!r}")
        if fields.rest.get("content") is None:
            raise invalid(fields.at("content"), "Field required")
        parts = decode_content(fields.rest.pop("content"), f"{path}.content")
        if role == "user" and any(isinstance(part, ToolResult) for part in parts):
            messages += _split(parts, fields.rest)
        else:
            messages.append(Message(role, parts, None, fields.rest, DIALECT))  # type: ignore[arg-type]  # in _ROLES
    return messages


def _split(parts: list[Part], extra: dict[str, Any]) -> list[Message]:
    messages: list[Message] = []
    others: list[Part] = []
    for part in parts:
        if isinstance(part, ToolResult):
            if others:
                messages.append(Message("user", others, None, extra, DIALECT))
                others, extra = [], {}
            messages.append(Message("tool", part, None, extra, DIALECT))
            extra = {}
        else:
            others.append(part)
    if others:
        messages.append(Message("user", others, None, extra, DIALECT))
    return messages


def decode_content(wire: object, path: str) -> list[Part]:
    """The parts of a string or a list of blocks; blocks we do not model are `Opaque`."""
    if isinstance(wire, str):
        return [Text(wire)]
    if not isinstance(wire, list):
        raise invalid(path, "Input should be a valid string or a list of blocks")
    return [_part(block, f"{path}.{position}") for position, block in enumerate(wire)]


def _part(block: object, path: str) -> Part:
    fields = Fields(block, path)
    decode = _DECODE.get(fields.need_text("type"))
    return decode(fields) if decode is not None else Opaque(DIALECT, dict(block))  # type: ignore[call-overload]  # Fields checked it


def _text(fields: Fields) -> Text:
    return Text(fields.need_text("text"), fields.rest)


def _tool_use(fields: Fields) -> ToolCall:
    call_id, name = fields.need_text("id"), fields.need_text("name")
    try:
        given = arguments(fields.table("input"))
    except BadReply as error:  # it is this caller's JSON that is nested too deep
        raise invalid(fields.at("input"), error.message) from None
    return ToolCall(call_id, name, given, fields.rest)


def _tool_result(fields: Fields) -> ToolResult:
    call_id = fields.need_text("tool_use_id")
    wire = fields.rest.pop("content", None)
    content = decode_content(wire, fields.at("content")) if wire is not None else []
    return ToolResult(call_id, content, fields.flag("is_error") or False, extra=fields.rest)


def _thinking(fields: Fields) -> Reasoning:
    text, signature, origin = fields.need_text("thinking"), fields.text("signature"), ""
    if signature:
        signature, origin = unseal(signature, DIALECT)
    return Reasoning(text, signature, None, fields.rest, origin)


def _redacted_thinking(fields: Fields) -> Reasoning:
    data, origin = unseal(fields.need_text("data"), DIALECT)
    return Reasoning("", None, data, fields.rest, origin)


def _image(fields: Fields) -> Image:
    source = fields.nested("source")
    kind = source.need_text("type")
    if kind == "base64":
        data, media_type = source.need_text("data"), source.need_text("media_type")
        return Image(data=data, media_type=media_type, extra=_extra(fields, source))
    if kind == "url":
        url = check_image_url(source.need_text("url"), source.at("url"), code=None)
        return Image(url, extra=_extra(fields, source))
    return Image(extra=_extra(fields, source, kind))


def _document(fields: Fields) -> Document:
    source = fields.nested("source")
    kind = source.need_text("type")
    name = fields.text("title")
    if kind == "base64":
        data, media_type = source.need_text("data"), source.need_text("media_type")
        return Document(data=data, media_type=media_type, name=name, extra=_extra(fields, source))
    if kind == "url":
        url = check_image_url(source.need_text("url"), source.at("url"), code=None, what="a document's")
        return Document(url, name=name, extra=_extra(fields, source))
    if kind == "file":
        return Document(file_id=source.need_text("file_id"), name=name, extra=_extra(fields, source))
    if kind == "text":
        text, told = source.need_text("data"), source.text("media_type")
        media_type_ = None if told == "text/plain" else told
        return Document(text=text, media_type=media_type_, name=name, extra=_extra(fields, source))
    return Document(name=name, extra=_extra(fields, source, kind))


def _extra(fields: Fields, source: Fields, kind: str | None = None) -> dict[str, Any]:
    """What a block has beyond our fields; of its source too, whole where the `kind` is not modelled."""
    rest = source.rest if kind is None else {"type": kind, **source.rest}
    return {**fields.rest, "source": rest} if rest else fields.rest


_DECODE: dict[str, Callable[[Fields], Part]] = {
    "text": _text,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "thinking": _thinking,
    "redacted_thinking": _redacted_thinking,
    "image": _image,
    "document": _document,
}
