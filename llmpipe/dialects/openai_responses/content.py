"""Content of input messages and of tools' outputs, both directions.

Normalised on the way: a lone plain text is a string, and fields that are null are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.media import check_image_url, image_type, split_data_url
from llmpipe.dialects.openai_responses.items import NAME
from llmpipe.types import Audio, Document, Image, Opaque, Part, Refusal, Text
from llmpipe.types.frozen import EMPTY

__all__ = ("decode_content", "encode_content", "encode_part")

# OpenAI takes a file's bytes only together with a name, by which it knows what the file is.
_FILE_NAMES = {"application/pdf": "document.pdf", "text/plain": "document.txt", "text/csv": "document.csv"}


def encode_content(
    parts: Sequence[Part], written_in: str, path: str, losses: Losses
) -> str | list[dict[str, Any]]:
    """The `content` of a message, or the `output` of a tool: a string where that says it all.

    Raises: Unsupported for a part that this wire cannot say there.
    """
    if len(parts) == 1 and type(parts[0]) is Text and not parts[0].extra:
        return parts[0].text
    return [encode_part(part, written_in, f"{path}.parts[{at}]", losses) for at, part in enumerate(parts)]


def encode_part(part: Part, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    """One content part of whoever is not the model.

    Raises: Unsupported for a part that this wire cannot say.
    """
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text, **_extra(part, written_in, path, losses)}
    if isinstance(part, Image):
        return _encode_image(part, written_in, path, losses)
    if isinstance(part, Document):
        return _encode_document(part, written_in, path, losses)
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.text, **_extra(part, written_in, path, losses)}
    if isinstance(part, Opaque) and part.dialect == NAME:
        return dict(part.data)
    if isinstance(part, Audio):
        raise refused(path, f"{NAME} takes no audio")
    what = f"a part of {part.dialect}" if isinstance(part, Opaque) else f"a {type(part).__name__}"
    raise refused(path, f"{NAME} cannot say {what} here")


def decode_content(value: object, path: str) -> tuple[Part, ...]:
    """The parts of a caller's `content`: a string, a list of parts, or null.

    Raises: InvalidRequest naming the path.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (Text(value),)
    if isinstance(value, list):
        return tuple([_decode_part(item, f"{path}[{index}]") for index, item in enumerate(value)])
    raise invalid(path, "a string or a list of content parts was expected", code="invalid_type")


def _extra(
    part: Text | Image | Document | Refusal, written_in: str, path: str, losses: Losses
) -> Mapping[str, Any]:
    return native(part.extra, written_in, NAME, path, losses) if part.extra else EMPTY


def _encode_image(part: Image, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    image: dict[str, Any] = {"type": "input_image"}
    extra = _extra(part, written_in, path, losses)
    if part.url is not None:
        image["image_url"] = part.url
    elif part.data is not None:
        kind = part.media_type or image_type(part.data) or "image/png"
        image["image_url"] = f"data:{kind};base64,{part.data}"
    elif "file_id" not in extra:
        raise invalid(path, "an Image needs a url or data")
    if part.detail is not None:
        image["detail"] = part.detail
    return {**image, **extra}


def _encode_document(part: Document, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    """A file. Text has no place in a file part, so a document of text becomes text."""
    if part.text is not None:
        losses.emulated(path, "the document's text is sent as text")
        return {"type": "input_text", "text": part.text}
    file: dict[str, Any] = {"type": "input_file"}
    if part.file_id is not None:
        file["file_id"] = part.file_id
    if part.data is not None:
        # Without a type only where the caller said none either: OpenAI reads the bytes of a data URL.
        kind = part.media_type if written_in == NAME else part.media_type or "application/pdf"
        file["file_data"] = f"data:{kind};base64,{part.data}" if kind else part.data
        if part.name is None and written_in != NAME:
            file["filename"] = _FILE_NAMES.get(kind or "", "document")
    if part.url is not None:
        file["file_url"] = part.url
    if part.name is not None:
        file["filename"] = part.name
    if len(file) == 1 + ("filename" in file):
        raise invalid(path, "a Document needs a url, data, text or a file_id")
    return {**file, **_extra(part, written_in, path, losses)}


def _decode_part(value: object, path: str) -> Part:
    fields = Fields(value, path)
    data = dict(fields.rest)
    kind = fields.need_text("type")
    if kind in ("input_text", "output_text", "text"):
        return Text(fields.need_text("text"), _plain(fields))
    if kind == "refusal":
        return Refusal(fields.need_text("refusal"), fields.unknown())
    if kind == "input_image":
        return _decode_image(fields)
    if kind == "input_file":
        return _decode_document(fields)
    return Opaque(NAME, data)


def _plain(fields: Fields) -> dict[str, Any]:
    """What a text has besides; lists that the protocol has even where nothing is in them are left out."""
    return {
        name: value
        for name, value in fields.unknown().items()
        if not (value == [] and name in ("annotations", "logprobs"))
    }


def _decode_image(fields: Fields) -> Image:
    url, detail = fields.text("image_url"), fields.text("detail")
    if url is None:
        if not isinstance(fields.rest.get("file_id"), str):
            raise invalid(fields.at("image_url"), "is required where file_id is absent")
        return Image(detail=detail, extra=fields.unknown())
    media_type, data = split_data_url(check_image_url(url, fields.at("image_url")))
    if media_type is not None:
        return Image(data=data, media_type=media_type, detail=detail, extra=fields.unknown())
    return Image(url=url, detail=detail, extra=fields.unknown())


def _decode_document(fields: Fields) -> Document:
    file_id, url = fields.text("file_id"), fields.text("file_url")
    name, data = fields.text("filename"), fields.text("file_data")
    if file_id is None and url is None and data is None:
        raise invalid(fields.at("file_data"), "is required where file_id and file_url are absent")
    if url is not None:
        check_image_url(url, fields.at("file_url"), what="a file's")
    media_type, content = split_data_url(data) if data is not None else (None, None)
    return Document(url, content, None, file_id, media_type, name, fields.unknown())
