"""Messages of a request, from ours to the wire's: text is one string, and pictures stand beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmpipe.dialects.checked import arguments_of
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.media import split_data_url
from llmpipe.types import (
    Document,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ("NAME", "encode_messages")

NAME = "ollama.chat"


def encode_messages(messages: Sequence[Message], losses: Losses) -> list[dict[str, Any]]:
    """The wire's messages for ours: one for each, and one for each tool result in it.

    Raises: Unsupported, with the path, for what this wire cannot say; InvalidRequest for a tool call
    whose arguments are no JSON object.
    """
    wire: list[dict[str, Any]] = []
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    for position, message in enumerate(messages):
        path = f"messages[{position}]"
        if message.name is not None:
            losses.dropped(f"{path}.name", "Ollama has no names of speakers")
        rest: list[tuple[str, Part]] = []
        for place, part in enumerate(message.parts):
            where = f"{path}.parts[{place}]"
            if isinstance(part, ToolResult):
                inner = [(f"{where}.content[{i}]", item) for i, item in enumerate(part.content)]
                if part.is_error:
                    losses.dropped(f"{where}.is_error", "there is no such field; the text has to say it")
                name = part.name or names.get(part.id)
                about = {"tool_name": name, "tool_call_id": part.id or None}
                said = _said(inner, message, "tool", losses)
                wire.append({**said, **{key: value for key, value in about.items() if value}})
            else:
                rest.append((where, part))
        if rest or not message.parts:
            extra = native(message.extra, message.dialect, NAME, path, losses)
            wire.append({**extra, **_said(rest, message, message.role, losses)})
    return wire


def _said(places: Sequence[tuple[str, Part]], message: Message, role: str, losses: Losses) -> dict[str, Any]:
    """One message of `role` with these parts, each with its path."""
    texts: list[str] = []
    thoughts: list[str] = []
    images: list[str] = []
    calls: list[dict[str, Any]] = []
    for where, part in places:
        if isinstance(part, Text | Refusal):
            native(part.extra, message.dialect, NAME, where, losses)  # text has no fields of its own
            texts.append(part.text)
        elif isinstance(part, Document) and part.text is not None:
            texts.append(part.text)
            losses.emulated(where, "its text is in the message")
        elif isinstance(part, Image):
            images.append(_base64(part, where, losses))
        elif isinstance(part, ToolCall):
            calls.append(_call(part, message.dialect, where, losses))
        elif isinstance(part, Reasoning):
            thoughts.append(part.text)
            if not part.text:
                losses.dropped(where, "a signature without its thought means nothing to Ollama")
        elif isinstance(part, Opaque) and role == "assistant":
            losses.dropped(where, f"Ollama knows no part of {part.dialect}")
        else:
            what = (
                f"a part of {part.dialect}" if isinstance(part, Opaque) else f"a {type(part).__name__} part"
            )
            raise refused(where, f"Ollama cannot carry {what}; take it out or send it to another provider")
    wire: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
    if any(thoughts):
        wire["thinking"] = "\n".join(filter(None, thoughts))
    if images:
        wire["images"] = images
    if calls:
        wire["tool_calls"] = calls
    return wire


def _call(call: ToolCall, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    extra = dict(native(call.extra, written_in, NAME, path, losses))
    inner = extra.pop("function", None)
    more = inner if isinstance(inner, Mapping) else {}
    function = {**more, "name": call.name, "arguments": arguments_of(call, path)}
    return {**extra, **({"id": call.id} if call.id else {}), "function": function}


def _base64(image: Image, path: str, losses: Losses) -> str:
    if image.detail not in (None, "auto"):
        losses.dropped(f"{path}.detail", "Ollama has none")
    if image.data is not None:
        return image.data
    media_type, data = split_data_url(image.url or "")
    if media_type is None:
        raise refused(path, "Ollama takes a picture's data and fetches no addresses")
    return data
