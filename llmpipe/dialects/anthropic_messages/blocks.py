"""Content blocks of requests: our parts as the wire's blocks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from llmpipe.dialects.anthropic_messages.fields import invalid
from llmpipe.dialects.checked import arguments_of
from llmpipe.dialects.losses import Losses, refused
from llmpipe.dialects.media import image_type, split_data_url
from llmpipe.dialects.proofs import seal
from llmpipe.dialects.writing import Writing
from llmpipe.types import (
    Audio,
    Document,
    Image,
    Opaque,
    Part,
    Reasoning,
    Role,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = (
    "DIALECT",
    "MessageWriting",
    "content",
    "encode_part",
    "encode_parts",
    "is_blank",
    "tool_input",
)

DIALECT = "anthropic.messages"
_TOOL_ID = re.compile(r"[A-Za-z0-9_-]+")


class MessageWriting(Writing):
    """A message on its way to a server, or as an answer to a caller.

    Attributes:
        unsigned: whether thinking without a signature is sent. To a caller, all of it is.
        answering: whether it goes to a caller, who gives proofs of others back sealed.
    """

    __slots__ = ("answering", "unsigned")

    def __init__(
        self, written_in: str, losses: Losses, role: Role, *, unsigned: bool = False, answering: bool = False
    ) -> None:
        super().__init__(DIALECT, written_in, losses, role)
        self.unsigned = unsigned or answering
        self.answering = answering


def encode_parts(parts: Iterable[Part], writing: MessageWriting, path: str) -> list[dict[str, Any]]:
    """The blocks of `parts`, in order. `path` is that of `parts`.

    Blank text is left out beside other blocks: the API refuses text without a visible character,
    though models answer with it (a lone line break before a tool call).
    """
    blocks = []
    for position, part in enumerate(parts):
        block = encode_part(part, writing, f"{path}[{position}]")
        if block is not None:
            blocks.append(block)
    return [block for block in blocks if not is_blank(block)] or blocks[:1]


def encode_part(part: Part, writing: MessageWriting, path: str) -> dict[str, Any] | None:
    """The block of one part; None for one that is left out.

    Raises: Unsupported for audio and for what another dialect alone can say, InvalidRequest for a part
    that lacks what the wire needs.
    """
    if isinstance(part, ToolCall):
        return _tool_use(part, writing, path)
    if isinstance(part, Reasoning):
        return _thinking(part, writing, path)
    if isinstance(part, Opaque):
        return writing.opaque(part, path)
    if isinstance(part, Audio):
        raise refused(path, "Anthropic's messages cannot carry audio")
    extra: Mapping[str, Any] = part.extra
    if extra:
        extra = writing.native(extra, path)
    if writing.answering and isinstance(part, Image | Document) and not _is_somewhere(part, extra):
        return None
    if isinstance(part, Text):
        return {"type": "text", "text": part.text, **extra}
    if isinstance(part, ToolResult):
        return _tool_result(part, extra, writing, path)
    if isinstance(part, Image):
        return _image(part, extra, writing, path)
    if isinstance(part, Document):
        return _document(part, extra, writing, path)
    if not writing.answering:
        writing.losses.emulated(path, "a refusal is text")
    return {"type": "text", "text": part.text, **extra}


def content(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """`blocks`, or the string that is the wire's shorthand for one plain text block."""
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        text = blocks[0]["text"]
        if isinstance(text, str):
            return text
    return blocks


def is_blank(block: Mapping[str, Any]) -> bool:
    """Whether a block is text without a visible character and nothing else."""
    text = block.get("text")  # of another kind only where `extra` says so
    return block.keys() == {"type", "text"} and isinstance(text, str) and not text.strip()


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


def _thinking(part: Reasoning, writing: MessageWriting, path: str) -> dict[str, Any] | None:
    """A thought with its proof, where that is Anthropic's; a caller gets the proofs of others sealed."""
    signature, encrypted = part.signature, part.encrypted
    origin = part.origin or (writing.written_in if writing.foreign else DIALECT)
    if writing.answering:
        signature = None if signature is None else seal(signature, origin, DIALECT)
        encrypted = None if encrypted is None else seal(encrypted, origin, DIALECT)
    elif origin != DIALECT and (signature is not None or encrypted is not None):
        if not (part.text and writing.unsigned):
            writing.losses.dropped(path, f"the proof of a thought is for {origin} only")
            return None
        writing.losses.dropped(f"{path}.signature", f"the proof of a thought is for {origin} only")
        signature = encrypted = None
    extra = writing.native(part.extra, path)
    if signature is None and encrypted is not None:
        return {"type": "redacted_thinking", "data": encrypted, **extra}
    if signature is None and not writing.unsigned:
        writing.losses.dropped(path, "Anthropic takes signed thinking only")
        return None
    return {"type": "thinking", "thinking": part.text, "signature": signature or "", **extra}


def _tool_use(call: ToolCall, writing: MessageWriting, path: str) -> dict[str, Any]:
    """A call. What a caller is answered may have been cut; what a server is sent has to be an object."""
    extra = writing.native(call.extra, path) if call.extra else call.extra
    given: Any
    if writing.answering:
        given = tool_input(call.arguments)
    elif writing.foreign and call.extra.get("type") == "custom":  # OpenAI's tools that take text
        given = {"input": call.arguments}
        writing.losses.emulated(f"{path}.arguments", "the text of a custom tool is its input")
    else:
        given = arguments_of(call, path)
    call_id = _tool_id(call.id or call.name, writing) if writing.foreign else call.id
    return {"type": "tool_use", "id": call_id, "name": call.name, "input": given, **extra}


def _tool_id(call_id: str, writing: MessageWriting) -> str:
    """The id as the API takes it: Moonshot's have dots and colons, OpenAI's of 2023 are missing."""
    if writing.answering or _TOOL_ID.fullmatch(call_id):
        return call_id
    return f"toolu_{hashlib.sha256(call_id.encode('utf-8', 'replace')).hexdigest()[:24]}"


def _tool_result(
    part: ToolResult, extra: Mapping[str, Any], writing: MessageWriting, path: str
) -> dict[str, Any]:
    call_id = _tool_id(part.id or part.name or "", writing) if writing.foreign else part.id
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": call_id}
    inner = part.content
    if len(inner) == 1 and type(inner[0]) is Text and not inner[0].extra:  # nearly all of them
        block["content"] = inner[0].text
    elif inner:
        block["content"] = content(encode_parts(inner, writing, f"{path}.content"))
    if part.is_error:
        block["is_error"] = True
    return {**block, **extra}


def _image(part: Image, extra: Mapping[str, Any], writing: MessageWriting, path: str) -> dict[str, Any]:
    source: dict[str, Any] = {}
    if part.data is not None:
        source = _base64(part.data, part.media_type or _sniff(part.data, writing, path))
    elif part.url is not None:
        source = _url(part.url)
    if part.detail not in (None, "auto"):
        writing.losses.dropped(f"{path}.detail", "Anthropic has none")
    return _with_source("image", source, extra, path)


def _document(part: Document, extra: Mapping[str, Any], writing: MessageWriting, path: str) -> dict[str, Any]:
    source: dict[str, Any] = {}
    if part.data is not None:
        source = _base64(part.data, part.media_type or "application/pdf")
    elif part.text is not None:
        source = {"type": "text", "media_type": part.media_type or "text/plain", "data": part.text}
    elif part.url is not None:
        source = _url(part.url)
    elif part.file_id is not None:
        if writing.foreign and not writing.answering:
            raise refused(f"{path}.file_id", f"only {writing.written_in} has that file; send the file itself")
        source = {"type": "file", "file_id": part.file_id}
    block = _with_source("document", source, extra, path)
    if part.name is not None:
        block["title"] = part.name
    return block


def _with_source(kind: str, source: dict[str, Any], extra: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A block with its source; `extra["source"]` completes it, or is it (a file id, nested content)."""
    more = extra.get("source")
    if isinstance(more, Mapping):
        source = {**source, **more}
    if "type" not in source:
        raise invalid(path, f"the {kind} has neither a url nor data")
    return {"type": kind, **extra, "source": source}


def _base64(data: str, media_type: str) -> dict[str, Any]:
    return {"type": "base64", "media_type": media_type, "data": data}


def _url(url: str) -> dict[str, Any]:
    """The source of a URL. The API does not fetch ``data:`` URLs, so these become what they hold."""
    media_type, data = split_data_url(url)
    return {"type": "url", "url": url} if media_type is None else _base64(data, media_type)


def _sniff(data: str, writing: MessageWriting, path: str) -> str:
    media_type = image_type(data)
    if media_type is None and writing.answering:  # an answer is never refused for that
        return "application/octet-stream"
    if media_type is None:
        raise invalid(f"{path}.media_type", "name the picture's type, such as image/png")
    return media_type


def _is_somewhere(part: Image | Document, extra: Mapping[str, Any]) -> bool:
    """Whether a part of an answer says where its content is, in words that can be shown."""
    source = extra.get("source")
    if isinstance(source, Mapping) and "type" in source:
        return True
    told = (part.url, part.data)
    return any(
        one is not None for one in ((*told, part.text, part.file_id) if type(part) is Document else told)
    )
