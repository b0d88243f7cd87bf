"""Content parts of a message, both directions.

Normalised on the way: a lone plain text part is a string, ``image_url`` is always an object, and
fields that are null are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.media import image_type, split_data_url
from llmpipe.errors import InvalidRequest, Unsupported
from llmpipe.types import Audio, Document, Image, Opaque, Part, Reasoning, Refusal, Text

__all__ = ("decode_content", "decode_part", "encode_content", "encode_part", "lenient_part")

NAME = "openai.chat"


def encode_content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    """The `content` of a message: a string where that says it all.

    Raises: Unsupported for a part that this wire cannot say.
    """
    if len(parts) == 1 and type(parts[0]) is Text and not parts[0].extra:
        return parts[0].text
    return [encode_part(part) for part in parts] if parts else ""


def decode_content(value: object, path: str) -> tuple[Part, ...]:
    """The parts of a caller's `content`: a string, a list of parts, or null.

    Raises: InvalidRequest naming the path.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (Text(value),)
    if isinstance(value, list):
        return tuple([decode_part(item, f"{path}[{index}]") for index, item in enumerate(value)])
    raise invalid(path, "a string or a list of content parts was expected", code="invalid_type")


def encode_part(part: Part) -> dict[str, Any]:
    """One content part.

    Raises: Unsupported for a part that this wire cannot say.
    """
    if isinstance(part, Text):
        return {"type": "text", "text": part.text, **part.extra}
    if isinstance(part, Image):
        image = {"url": _image_url(part)}
        if part.detail is not None:
            image["detail"] = part.detail
        return _nested("image_url", image, part.extra)
    if isinstance(part, Audio):
        return _nested("input_audio", {"data": part.data, "format": part.format}, part.extra)
    if isinstance(part, Document):
        return _encode_document(part)
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text, **part.extra}
    if isinstance(part, Reasoning) and part.extra.get("type") == "reasoning":  # Databricks
        summary: dict[str, Any] = {"type": "summary_text", "text": part.text}
        if part.signature is not None:
            summary["signature"] = part.signature
        return {"type": "reasoning", "summary": [summary], **part.extra}
    if isinstance(part, Reasoning):  # Mistral
        thinking = {
            "type": "thinking",
            "thinking": [{"type": "text", "text": part.text}] if part.text else [],
        }
        return {**thinking, **part.extra}
    if isinstance(part, Opaque) and part.dialect == NAME:
        return dict(part.data)
    what = f"a part of {part.dialect}" if isinstance(part, Opaque) else f"a {type(part).__name__}"
    raise Unsupported(f"{NAME} cannot say {what} as content; take it out or send it to another provider")


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


def _image_url(image: Image) -> str:
    if image.url is not None:
        return image.url
    if image.data is None:
        raise InvalidRequest(
            "an Image needs a url or data", code="invalid_value", phase="validate", sent=False
        )
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


def _encode_document(document: Document) -> dict[str, Any]:
    """A file. Text has no place in OpenAI's file part, so a document of text becomes text."""
    if document.text is not None:
        return {"type": "text", "text": document.text}
    file: dict[str, Any] = {}
    if document.file_id is not None:
        file["file_id"] = document.file_id
    if document.name is not None:
        file["filename"] = document.name
    if document.data is not None:
        kind = document.media_type
        file["file_data"] = f"data:{kind};base64,{document.data}" if kind else document.data
    elif document.url is not None:
        file["file_data"] = document.url  # OpenRouter takes addresses here
    return _nested("file", file, document.extra)


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

    Source: https://docs.databricks.com/aws/en/machine-learning/model-serving/query-reason-models
    """
    summary = fields.take("summary")
    pieces = [piece for piece in summary if isinstance(piece, dict)]
    texts = [text for piece in pieces if isinstance(text := piece.get("text"), str)]
    signatures = [text for piece in pieces if isinstance(text := piece.get("signature"), str) and text]
    extra: dict[str, Any] = {"type": "reasoning", **fields.unknown()}
    if len(summary) != 1 or len(texts) != 1 or set(pieces[0]) - {"type", "text", "signature"}:
        extra["summary"] = summary
    return Reasoning("".join(texts), "".join(signatures) or None, extra=extra)
