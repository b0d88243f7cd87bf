"""Content parts of a message, both directions.

Normalised on the way: a lone plain text part is a string, ``image_url`` is always an object, and
fields that are null are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.losses import refused
from llmpipe.dialects.media import check_image_url, image_type, split_data_url
from llmpipe.dialects.openai_chat.words import NAME, ChatWriting
from llmpipe.dialects.writing import CACHE
from llmpipe.errors import InvalidRequest
from llmpipe.types import Audio, Document, Image, Opaque, Part, Reasoning, Refusal, Text, ToolCall, ToolResult

__all__ = ("decode_content", "decode_part", "encode_content", "encode_part", "lenient_part")


def encode_content(
    parts: Sequence[Part], writing: ChatWriting, path: str, places: Sequence[int] | None = None
) -> str | list[dict[str, Any]]:
    """The `content` of a message: a string where that says it all.

    Args: path is that of the list that `parts` are from; places says where they stand in it.
    Raises: Unsupported for a part that this wire cannot say.
    """
    if len(parts) == 1 and type(parts[0]) is Text and not parts[0].extra:
        return parts[0].text
    if not parts:
        return ""
    at = places or range(len(parts))
    wire = [encode_part(part, writing, f"{path}[{i}]") for part, i in zip(parts, at, strict=True)]
    found = [part for part in wire if part is not None]
    if len(found) == 1 and found[0].keys() == {"type", "text"} and found[0]["type"] == "text":
        return str(found[0]["text"])  # what made it more was left out
    return found or ""


def decode_content(value: object, path: str) -> tuple[Part, ...]:
    """The parts of a caller's `content`: a string, a list of parts, or null.

    Raises: InvalidRequest naming the path.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (Text(value),)
    if isinstance(value, list):
        parts = tuple([decode_part(item, f"{path}[{index}]") for index, item in enumerate(value)])
        for index, part in enumerate(parts):
            if isinstance(part, (Image, Document)) and part.url is not None:
                _check_url(part, part.url, f"{path}[{index}]")
        return parts
    raise invalid(path, "a string or a list of content parts was expected", code="invalid_type")


def encode_part(part: Part, writing: ChatWriting, path: str) -> dict[str, Any] | None:
    """One content part; None for one that is left out.

    Raises: Unsupported for a part that this wire cannot say.
    """
    if isinstance(part, Opaque):
        return writing.opaque(part, path)
    if isinstance(part, ToolCall | ToolResult):
        raise refused(path, f"{NAME} cannot say a {type(part).__name__} as content")
    extra = writing.native(part.extra, path)
    if isinstance(part, Text):
        return {"type": "text", "text": part.text, **extra}
    if isinstance(part, Image):
        image = {"url": _image_url(part, path)}
        if part.detail is not None:
            image["detail"] = part.detail
        return _nested("image_url", image, extra)
    if isinstance(part, Audio):
        if writing.quirks.media == "mistral":
            return {"type": "input_audio", "input_audio": part.data, **extra}
        return _nested("input_audio", {"data": part.data, "format": part.format}, extra)
    if isinstance(part, Document):
        return _encode_document(part, extra, writing, path)
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text, **extra}
    if extra.get("type") == "reasoning":  # Databricks
        summary: dict[str, Any] = {"type": "summary_text", "text": part.text}
        if part.signature is not None:
            summary["signature"] = part.signature
        return {"type": "reasoning", "summary": [summary], **extra}
    # Mistral
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": part.text}] if part.text else []}
    return {**thinking, **extra}


def decode_part(value: object, path: str) -> Part:
    """One content part; those we do not model become `Opaque`.

    Raises: InvalidRequest naming the path.
    """
    fields = Fields(value, path)
    data = dict(fields.rest)
    kind = fields.need_text("type")
    if kind == "text":
        return Text(fields.need_text("text"), fields.unknown())
    if kind == "image_url":
        return _decode_image(fields)
    if kind == "input_audio" and not isinstance(data.get("input_audio"), str):  # Mistral's is a string
        audio = fields.nested("input_audio")
        sound, form = audio.need_text("data"), audio.text("format")
        return Audio(sound, form or "wav", _with("input_audio", audio, fields))
    if kind == "file":
        return _decode_document(fields)
    if kind == "refusal":
        return Refusal(fields.need_text("refusal"), fields.unknown())
    if kind == "thinking":
        return _decode_thinking(fields)
    if kind == "reasoning" and isinstance(data.get("summary"), list):
        return _decode_summary(fields)
    return Opaque(NAME, data)


def lenient_part(value: Mapping[str, Any]) -> Part:
    """One content part of a provider, which may be anything: what is not understood is kept as it is."""
    try:
        return decode_part(value, "content")
    except InvalidRequest:
        return Opaque(NAME, dict(value))


def _nested(name: str, inner: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A part whose fields sit one level down, under its type's name; so do some of `extra`."""
    rest = dict(extra)
    return {"type": name, name: {**inner, **rest.pop(name, {})}, **rest}


def _with(name: str, inner: Fields, outer: Fields) -> dict[str, Any]:
    """The opposite: `extra` of both levels."""
    extra = outer.unknown()
    if more := inner.unknown():
        extra[name] = more
    return extra


def _image_url(image: Image, path: str) -> str:
    if image.url is not None:
        return image.url
    if image.data is None:  # by a file's id, in another dialect's words
        raise invalid(path, "an Image needs a url or data")
    # Most servers look at the bytes themselves, yet all insist on a media type.
    kind = image.media_type or image_type(image.data) or "image/png"
    return f"data:{kind};base64,{image.data}"


def _decode_image(fields: Fields) -> Image:
    where = fields.at("image_url")
    value = fields.need("image_url").take("image_url")
    image = Fields({"url": value} if isinstance(value, str) else value, where)
    url, detail = image.need_text("url"), image.text("detail")
    media_type, data = split_data_url(url)
    extra = _with("image_url", image, fields)
    if media_type is not None:
        return Image(data=data, media_type=media_type, detail=detail, extra=extra)
    return Image(url=url, detail=detail, extra=extra)


def _check_url(part: Image | Document, url: str, path: str) -> None:
    """Make sure that a caller's address is one that anybody may look at."""
    if isinstance(part, Image):
        check_image_url(url, f"{path}.image_url.url")
    else:
        check_image_url(url, f"{path}.file.file_data", what="a file's")


def _encode_document(
    document: Document, extra: Mapping[str, Any], writing: ChatWriting, path: str
) -> dict[str, Any]:
    """A file. Text has no place in OpenAI's file part, so a document of text becomes text."""
    if document.text is not None:
        writing.losses.emulated(path, "a document of text is text")
        if document.name is not None:
            writing.losses.dropped(f"{path}.name", "text has none")
        kept = {name: value for name, value in extra.items() if name in CACHE}
        return {"type": "text", "text": document.text, **kept}
    if document.file_id is not None and writing.foreign:
        raise refused(f"{path}.file_id", f"only {writing.written_in} has that file; send the file itself")
    if writing.quirks.media == "mistral":
        return {**_document_url(document, path), **extra}
    file: dict[str, Any] = {}
    if document.file_id is not None:
        file["file_id"] = document.file_id
    if document.name is not None:
        file["filename"] = document.name
    if document.data is not None:
        kind = document.media_type
        file["file_data"] = f"data:{kind};base64,{document.data}" if kind else document.data
    elif document.url is not None:
        if not writing.quirks.file_urls:
            raise refused(f"{path}.url", "this server fetches no files; send the file itself")
        file["file_data"] = document.url  # OpenRouter takes addresses here
    if writing.foreign and file.keys() <= {"filename"}:
        raise refused(path, f"{NAME} cannot say where this document is")
    return _nested("file", file, extra)


def _document_url(document: Document, path: str) -> dict[str, Any]:
    """A file as Mistral has it: by its address, which may hold the file itself, or by its id.

    Source: DocumentURLChunk in Mistral's SDK (docs/models/documenturlchunk.md in mistralai/client-python).
    """
    if document.file_id is not None:
        return {"type": "file", "file_id": document.file_id}
    url = document.url
    if url is None:
        if document.data is None:
            raise refused(path, f"{NAME} cannot say where this document is")
        url = f"data:{document.media_type or 'application/pdf'};base64,{document.data}"
    named = {} if document.name is None else {"document_name": document.name}
    return {"type": "document_url", "document_url": url, **named}


def _decode_document(fields: Fields) -> Document:
    file = fields.nested("file")
    file_id, name, data = file.text("file_id"), file.text("filename"), file.text("file_data")
    if file_id is None and data is None:
        raise invalid(file.at("file_data"), "is required where file_id is absent")
    extra = _with("file", file, fields)
    if data is None:
        return Document(file_id=file_id, name=name, extra=extra)
    media_type, content = split_data_url(data)
    if media_type is None and data.startswith(("http://", "https://")):
        return Document(url=data, file_id=file_id, name=name, extra=extra)
    return Document(data=content, media_type=media_type, file_id=file_id, name=name, extra=extra)


def _decode_thinking(fields: Fields) -> Reasoning:
    """Mistral's thinking: a list of text chunks. One with other chunks (references) keeps its list."""
    value = fields.take("thinking")
    chunks = [{"type": "text", "text": value}] if isinstance(value, str) else value
    if not isinstance(chunks, list):
        raise invalid(fields.at("thinking"), "a list of chunks was expected", code="invalid_type")
    texts = [
        chunk["text"] for chunk in chunks if isinstance(chunk, dict) and isinstance(chunk.get("text"), str)
    ]
    extra: dict[str, Any] = {"type": "thinking", **fields.unknown()}
    if (
        any(not isinstance(chunk, dict) or set(chunk) - {"type", "text"} for chunk in chunks)
        or len(texts) > 1
    ):
        extra["thinking"] = chunks
    return Reasoning("".join(texts), extra=extra)


def _decode_summary(fields: Fields) -> Reasoning:
    """Databricks' reasoning: a list of signed texts. One that is not one such text keeps its list.

    Source: https://docs.databricks.com/aws/machine-learning/model-serving/query-reason-models
    """
    summary = fields.take("summary")
    pieces = [piece for piece in summary if isinstance(piece, dict)]
    texts = [text for piece in pieces if isinstance(text := piece.get("text"), str)]
    signatures = [text for piece in pieces if isinstance(text := piece.get("signature"), str) and text]
    extra: dict[str, Any] = {"type": "reasoning", **fields.unknown()}
    if len(summary) != 1 or len(texts) != 1 or set(pieces[0]) - {"type", "text", "signature"}:
        extra["summary"] = summary
    signature = "".join(signatures) or None
    return Reasoning("".join(texts), signature, None, extra, NAME if signature is not None else "")
