"""What a tool returned, as content that a model can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, get_args

import attrs
import orjson

from llmpipe.types import Audio, Content, Document, Image, Part, Text

__all__ = ("content_of", "sendable")

_SHOWN = (Text, Image, Document, Audio)
_OTHERS = tuple(kind for kind in get_args(Part) if kind not in _SHOWN)


def content_of(answer: Any, max_chars: int) -> Content:
    """`answer` as the content of a tool result: text and parts as they are, the rest as JSON.

    Dataclasses, attrs and pydantic objects, enums, dates, sets and decimals have a JSON. Text of more than
    `max_chars` characters is cut, and says so.

    Raises: TypeError for what has none.
    """
    if isinstance(answer, str):
        return _cut(answer, max_chars)
    if isinstance(answer, _SHOWN):
        return (_shortened(answer, max_chars),)
    if isinstance(answer, list | tuple) and any(isinstance(item, _SHOWN) for item in answer):
        return [
            _shortened(
                item if isinstance(item, _SHOWN) else Text(item if isinstance(item, str) else _json(item)),
                max_chars,
            )
            for item in answer
        ]
    return _cut(_json(answer), max_chars)


def sendable(text: str) -> str:
    """`text` without the lone surrogates that no JSON can carry, such as odd file names have."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _json(answer: Any) -> str:
    try:
        return orjson.dumps(answer, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError, RecursionError) as error:
        reason = error.__cause__ or error
        raise TypeError(f"what the tool returned, a {type(answer).__name__}, is no JSON: {reason}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, _OTHERS):
        raise TypeError(f"a {type(value).__name__} is nothing that a tool can say")
    if attrs.has(type(value)):
        return {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
    dump: Callable[..., Any] | None = getattr(value, "model_dump", None)  # pydantic
    if dump is not None:
        return dump(mode="json")
    if isinstance(value, AbstractSet):
        return sorted(value, key=repr)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no JSON")


def _shortened(part: Any, max_chars: int) -> Any:
    if isinstance(part, Text) and (text := _cut(part.text, max_chars)) is not part.text:
        return attrs.evolve(part, text=text)
    return part


def _cut(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return sendable(text)
    return f"{sendable(text[:max_chars])}… [cut: {len(text) - max_chars} more characters]"
