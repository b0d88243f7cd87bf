"""Results of tool calls: ``functionResponse``, both directions.

Its ``response`` is an object: ``output`` holds what the tool said, ``error`` why it failed, and an
object with neither is the output itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from llmpipe.dialects.checked import invalid
from llmpipe.dialects.gemini_generate.fields import NAME, Fields
from llmpipe.dialects.gemini_generate.media import Media, encode_media, read_media
from llmpipe.dialects.jsonbody import json_text
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.errors import BadReply
from llmpipe.types import Audio, Document, Image, Opaque, Part, Refusal, Text, ToolResult

__all__ = ("Encoded", "encode_result", "is_made_up", "json_of", "read_result", "response_of")

Encoded = tuple[dict[str, Any], list[dict[str, Any]]]
"""A ``functionResponse`` part, and the parts that have to stand beside it."""

_MADE_UP = re.compile("call_[0-9a-f]{24}")
_BESIDE = "The file that the tool returned:"


def is_made_up(call_id: str) -> bool:
    """Whether an id is one of `call_ids.made_up_id`, which Gemini never gave and need not know."""
    return _MADE_UP.fullmatch(call_id) is not None


def json_of(value: object, path: str) -> str:
    """A caller's JSON as text. Raises: InvalidRequest if it is nested too deep to be written."""
    try:
        return json_text(value, "it")
    except BadReply as error:
        raise invalid(path, error.message) from None


def response_of(text: str, *, is_error: bool) -> dict[str, Any]:
    """The ``response`` that says `text`: the object that it is JSON of, else under a name."""
    try:
        value = orjson.loads(text) if text[:1] == "{" else None
    except orjson.JSONDecodeError:
        value = None
    # Of what did not fail, an object that says "error" would be taken for a failure.
    if type(value) is dict and value and ("error" in value) == is_error:
        return value
    return {"error": text} if is_error else {"output": text}


def encode_result(
    result: ToolResult,
    name: str,
    written_in: str,
    path: str,
    losses: Losses,
    *,
    ids: bool,
    nested: bool,
) -> Encoded:
    """The wire's parts for a result. `written_in` is the dialect of its message.

    Args: ids is whether ids are sent; nested whether the model takes files inside a result (Gemini 3);
        elsewhere they stand beside it.
    """
    texts: list[str] = []
    files: list[dict[str, Any]] = []
    for position, part in enumerate(result.content):
        where = f"{path}.content[{position}]"
        if isinstance(part, Text | Refusal):
            native(part.extra, written_in, NAME, where, losses)
            texts.append(part.text)
        elif isinstance(part, Media):
            files.append(encode_media(part, written_in, where, losses))
        elif isinstance(part, Opaque) and part.dialect == NAME:
            files.append(dict(part.data))
        else:
            raise refused(where, f"a tool's result cannot hold {_what(part)} at Gemini")
    extra = dict(native(result.extra, written_in, NAME, path, losses))
    inner: dict[str, Any] = {"name": name, "response": response_of("".join(texts), is_error=result.is_error)}
    if ids and result.id and not is_made_up(result.id):
        inner = {"id": result.id, **inner}
    if files and nested:
        inner["parts"] = files
    inner = {**inner, **extra.pop("functionResponse", {})}
    beside: list[dict[str, Any]] = []
    if files and not nested:
        losses.emulated(path, "files stand beside the result: before Gemini 3 none can be in it")
        beside = [{"text": _BESIDE}, *files]
    return {"functionResponse": inner, **extra}, beside


def read_result(fields: Fields) -> tuple[ToolResult, str | None]:
    """A caller's result, and its id where it has one. Raises: InvalidRequest naming the path."""
    inner = fields.nested("functionResponse")
    call_id, name = inner.text("id"), inner.need_text("name")
    response = inner.table("response") or {}
    content: list[Part] = []
    is_error = "error" in response
    lone = next(iter(response.values())) if len(response) == 1 else None
    if isinstance(lone, str) and response.keys() <= {"output", "error"}:
        content.append(Text(lone))
    elif response:
        content.append(Text(json_of(response, inner.at("response"))))
    for position, item in enumerate(inner.items("parts") or ()):
        path = f"{inner.at('parts')}[{position}]"
        part = Fields(item, path)
        if part.rest.keys() & {"inlineData", "fileData"}:
            found = read_media(part)
            content.append(_with(found, part.rest))
        else:
            content.append(Opaque(NAME, part.rest))
    extra = fields.rest
    if inner.rest:
        extra = {**extra, "functionResponse": inner.unknown()}
    return ToolResult(call_id or "", tuple(content), is_error, name, extra), call_id


def _with(part: Media, rest: Mapping[str, Any]) -> Part:
    if not rest:
        return part
    extra = {**part.extra, **rest}
    if isinstance(part, Image):
        return Image(part.url, part.data, part.media_type, part.detail, extra)
    if isinstance(part, Audio):
        return Audio(part.data, part.format, extra)
    return Document(part.url, part.data, media_type=part.media_type, extra=extra)


def _what(part: Part) -> str:
    return f"a part of {part.dialect}" if isinstance(part, Opaque) else f"a {type(part).__name__}"
