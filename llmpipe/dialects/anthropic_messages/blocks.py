"""Content blocks of requests: our parts as the wire's blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from llmpipe.dialects.anthropic_messages.fields import invalid
from llmpipe.dialects.media import image_type, split_data_url
from llmpipe.errors import Unsupported
from llmpipe.types import (
    Document,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ("DIALECT", "content", "encode_part", "encode_parts", "is_blank", "tool_input")

DIALECT = "anthropic.messages"


def encode_parts(
    parts: Iterable[Part], path: str, *, unsigned_thinking: bool = False
) -> list[dict[str, Any]]:
    """The blocks of `parts`, in order.

    Blank text is left out beside other blocks: the API refuses text without a visible character,
    though models answer with it (a lone line break before a tool call).
    """
    blocks = []
    for position, part in enumerate(parts):
        block = encode_part(part, f"{path}.{position}", unsigned_thinking=unsigned_thinking)
        if block is not None:
            blocks.append(block)
    return [block for block in blocks if not is_blank(block)] or blocks[:1]


def encode_part(part: Part, path: str, *, unsigned_thinking: bool = False) -> dict[str, Any] | None:
    """The block of one part; None for reasoning that nobody signed and so cannot be sent back.

    Raises: Unsupported for audio and for another dialect's opaque parts, InvalidRequest for a part
    that lacks what the wire needs.
    """
    if isinstance(part, Text | Refusal):
        return {"type": "text", "text": part.text, **part.extra}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.args, **part.extra}
    if isinstance(part, ToolResult):
        return _tool_result(part, path)
    if isinstance(part, Reasoning):
        return _thinking(part, unsigned_thinking)
    if isinstance(part, Image):
        return _image(part, path)
    if isinstance(part, Document):
        return _document(part, path)
    if isinstance(part, Opaque) and part.dialect == DIALECT:
        return dict(part.data)
    what = "audio" if not isinstance(part, Opaque) else f"a part of {part.dialect}"
    raise Unsupported(f"{path}: Anthropic's messages cannot carry {what}", phase="validate")


def content(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """`blocks`, or the string that is the wire's shorthand for one plain text block."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        text = blocks[0]["text"]
        if isinstance(text, str):
            return text
    return blocks


def is_blank(block: Mapping[str, Any]) -> bool:
    """Whether a block is text without a visible character and nothing else."""
    return block.keys() == {"type", "text"} and not block["text"].strip()


def tool_input(arguments: str) -> Any:
    """The `input` of a tool call in a reply: the arguments, parsed.

    Arguments that are no JSON object, because the output was cut or the model made a mistake,
    stay the text they are: an invented ``{}`` would be a call nobody made.
    """
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments
    return value if type(value) is dict else arguments


def _thinking(part: Reasoning, unsigned: bool) -> dict[str, Any] | None:
    if part.signature is None and part.encrypted is not None:
        return {"type": "redacted_thinking", "data": part.encrypted, **part.extra}
    if part.signature is None and not unsigned:
        return None
    return {"type": "thinking", "thinking": part.text, "signature": part.signature or "", **part.extra}


def _tool_result(part: ToolResult, path: str) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": part.id}
    if part.content:
        block["content"] = content(encode_parts(part.content, f"{path}.content"))
    if part.is_error:
        block["is_error"] = True
    return {**block, **part.extra}


def _image(part: Image, path: str) -> dict[str, Any]:
    source: dict[str, Any] = {}
    if part.data is not None:
        source = _base64(part.data, part.media_type or _sniff(part.data, path))
    elif part.url is not None:
        source = _url(part.url)
    return _with_source("image", source, part.extra, path)


def _document(part: Document, path: str) -> dict[str, Any]:
    source: dict[str, Any] = {}
    if part.data is not None:
        source = _base64(part.data, part.media_type or "application/pdf")
    elif part.text is not None:
        source = {"type": "text", "media_type": part.media_type or "text/plain", "data": part.text}
    elif part.url is not None:
        source = _url(part.url)
    elif part.file_id is not None:
        source = {"type": "file", "file_id": part.file_id}
    block = _with_source("document", source, part.extra, path)
    if part.name is not None:
        block["title"] = part.name
    return block


def _with_source(kind: str, source: dict[str, Any], extra: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A block with its source; `extra["source"]` completes it, or is it (a file id, nested content)."""
    more = extra.get("source")
    if isinstance(more, Mapping):
        source = {**source, **more}
    if "type" not in source:
        raise invalid(f"{path}.source", f"the {kind} has neither a url nor data")
    return {"type": kind, **extra, "source": source}


def _base64(data: str, media_type: str) -> dict[str, Any]:
    return {"type": "base64", "media_type": media_type, "data": data}


def _url(url: str) -> dict[str, Any]:
    """The source of a URL. The API does not fetch ``data:`` URLs, so these become what they hold."""
    media_type, data = split_data_url(url)
    return {"type": "url", "url": url} if media_type is None else _base64(data, media_type)


def _sniff(data: str, path: str) -> str:
    media_type = image_type(data)
    if media_type is None:
        raise invalid(f"{path}.source.media_type", "name the picture's type, such as image/png")
    return media_type
