"""Content parts, both directions: text, pictures, and the documents that a model cites.

Normalised on the way: a lone plain text part is a string, ``image_url`` is always an object, and fields
that are null are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.media import check_image_url, image_type, split_data_url
from llmpipe.errors import BadReply
from llmpipe.types import Document, Image, Opaque, Part, Refusal, Text

__all__ = (
    "BARE",
    "NAME",
    "PLAN",
    "decode_content",
    "decode_document",
    "encode_document",
    "encode_part",
    "shorthand",
)

NAME = "cohere.chat"
PLAN: Mapping[str, Any] = {"field": "tool_plan"}
"""The `extra` of reasoning that is a tool plan, which has a field of its own beside the content."""
BARE: Mapping[str, Any] = {"type": "string"}
"""The `extra` of a document that is a string, and no object."""

# The same of a document whose data is a string, which Cohere's own examples send, and of one whose data is
# an object that is more than text and title. To others it is a text, as most take no documents of JSON.
_TEXT_AS_DATA, _OBJECT = "data", "object"

_JSON = "application/json"


def shorthand(wire: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The parts, or the string that says the same: of one plain text, or of none at all."""
    if not wire:
        return ""
    if len(wire) == 1 and wire[0].keys() == {"type", "text"}:
        return str(wire[0]["text"])
    return wire


def encode_part(part: Part, written_in: str, path: str, losses: Losses) -> dict[str, Any]:
    """One part of a user's or system's message. Raises: Unsupported, with the path, for what has no form."""
    if isinstance(part, Text):
        extra = native(part.extra, written_in, NAME, path, losses)
        return {**extra, "type": "text", "text": part.text}
    if isinstance(part, Refusal):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        extra = dict(native(part.extra, written_in, NAME, path, losses))
        inner = extra.pop("image_url", None)
        image = {**(inner if isinstance(inner, Mapping) else {}), "url": _url(part, path)}
        if part.detail is not None:
            image["detail"] = part.detail
        return {**extra, "type": "image_url", "image_url": image}
    if isinstance(part, Opaque) and part.dialect == NAME:
        return dict(part.data)
    what = f"a part of {part.dialect}" if isinstance(part, Opaque) else f"a {type(part).__name__} part"
    raise refused(path, f"Cohere cannot carry {what} here; take it out or send it to another provider")


def encode_document(document: Document, written_in: str, path: str, losses: Losses) -> dict[str, Any] | str:
    """A document, which on this wire is a JSON object: of its text and title, or the one it holds as text.

    Raises: Unsupported for one that is not text.
    """
    if document.text is None:
        raise refused(path, "Cohere reads documents of text; it takes no files, addresses or other data")
    extra = dict(native(document.extra, written_in, NAME, path, losses))
    if extra == BARE:
        return document.text
    if extra.get("type") == _TEXT_AS_DATA:
        del extra["type"]
        return {**extra, "data": document.text}
    data: dict[str, Any] | None = None
    if document.media_type == _JSON or extra.get("type") == _OBJECT:
        data = _object(document.text)
        if extra.get("type") == _OBJECT:
            del extra["type"]
    if data is None:
        data = {} if document.name is None else {"title": document.name}
        data["text"] = document.text
    return {**extra, "data": data}


def decode_document(fields: Fields) -> Document:
    """A document of a caller. Raises: InvalidRequest naming the path."""
    where = fields.at("data")
    if isinstance(fields.rest.get("data"), str):
        whole = fields.need_text("data")
        return Document(text=whole, extra={**fields.unknown(), "type": _TEXT_AS_DATA})
    data = fields.need("data").table("data") or {}
    text, title = data.get("text"), data.get("title")
    if data.keys() <= {"text", "title"} and isinstance(text, str) and isinstance(title, str | None):
        return Document(text=text, name=title, extra=fields.unknown())
    try:
        return Document(text=json_text(data, "it"), extra={**fields.unknown(), "type": _OBJECT})
    except BadReply as error:
        raise invalid(where, error.message) from None


def decode_content(value: object, path: str, *, of_tool: bool = False) -> tuple[Part, ...]:
    """The parts of a caller's `content`: a string, a list of parts, or null.

    Parts we do not model become `Opaque`; documents are parts of a tool's answer only.

    Raises: InvalidRequest naming the path.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (Text(value),)
    if isinstance(value, list):
        return tuple([_decode_part(item, f"{path}[{index}]", of_tool) for index, item in enumerate(value)])
    raise invalid(path, "a string or a list of content parts was expected", code="invalid_type")


def _decode_part(value: object, path: str, of_tool: bool) -> Part:
    fields = Fields(value, path)
    data = dict(fields.rest)
    kind = fields.need_text("type")
    if kind == "text":
        return Text(fields.need_text("text"), fields.unknown())
    if kind == "image_url":
        return _decode_image(fields)
    if kind == "document" and of_tool:
        document = decode_document(fields.nested("document"))
        return document if not fields.unknown() else Opaque(NAME, data)
    return Opaque(NAME, data)


def _decode_image(fields: Fields) -> Image:
    value = fields.need("image_url").take("image_url")
    image = Fields({"url": value} if isinstance(value, str) else value, fields.at("image_url"))
    url = check_image_url(image.need_text("url"), image.at("url"))
    detail = image.text("detail")
    extra = fields.unknown()
    if more := image.unknown():
        extra["image_url"] = more
    media_type, data = split_data_url(url)
    if media_type is not None:
        return Image(data=data, media_type=media_type, detail=detail, extra=extra)
    return Image(url=url, detail=detail, extra=extra)


def _url(image: Image, path: str) -> str:
    if image.url is not None:
        return image.url
    if image.data is None:
        raise invalid(path, "an Image needs a url or data")
    return f"data:{image.media_type or image_type(image.data) or 'image/png'};base64,{image.data}"


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict else None
