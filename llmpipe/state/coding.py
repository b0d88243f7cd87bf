"""Entries as plain JSON values and back: `llmpipe.state.codec` puts them into bytes.

A field is written by its annotation, so a field that is added to a type is stored too, or its
annotation is missed in `_KINDS` by the first test. What is read is checked field by field as if
an enemy had written it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from attrs import NOTHING, Factory, fields

from llmpipe.state.contracts.cache import Entry
from llmpipe.state.values import Unfit, as_list, as_text, items, read_value, write_value
from llmpipe.types import (
    Audio,
    Completion,
    Cost,
    Document,
    Embeddings,
    Image,
    Message,
    Opaque,
    Ranked,
    Ranking,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from llmpipe.types.frozen import EMPTY, FrozenList

__all__ = ("CorruptEntry", "reading", "writing")

_DOUBLE = 8


class CorruptEntry(ValueError):
    """These bytes are no stored reply: damaged, of another version, of another key, or made by an enemy."""


def writing(entry: Entry) -> tuple[Any, list[bytes]]:
    """`entry` as JSON values, and the bytes of its vectors.

    Raises: Unfit, and RecursionError for what is nested too deep.
    """
    result, vectors = entry.result, list[bytes]()
    tag = _REPLY_TAGS.get(type(result))
    if tag is None:
        raise Unfit(f"{type(result).__name__} is not a reply")
    told = _write(result)
    if isinstance(result, Embeddings):
        told["vectors"] = [_write_vector(vector, vectors) for vector in result.vectors]
    return [tag, told, write_value(entry.saved_nano)], vectors


def reading(told: Any, numbers: memoryview) -> Entry:
    """The entry that `writing` told so.

    Raises: Unfit for what it never wrote, and RecursionError for what is nested too deep.
    """
    tag, value, saved = items(told, 3)
    kind = _REPLIES.get(tag) if type(tag) is str else None
    if kind is None or type(value) is not dict:
        raise Unfit("not a reply")
    vectors: tuple[Any, ...] = ()
    if kind is Embeddings:
        vectors, numbers = _read_vectors(value.pop("vectors", []), numbers)
    if numbers:
        raise Unfit("bytes left over")
    result = _read(kind, value)
    if vectors:
        result = Embeddings(vectors, *[getattr(result, a.name) for a in fields(Embeddings)[1:]])
    saved = read_value(saved)
    if saved is not None and type(saved) is not int:
        raise Unfit("what was saved is a whole number of nano-USD")
    return Entry(result, saved)


# ------------------------------------------------------------ attrs values, field by field


class _Field(NamedTuple):
    name: str
    default: Any
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _write(value: Any) -> dict[str, Any]:
    """The fields of `value` that differ from their defaults."""
    told = {}
    for name, default, write, _ in _plan(type(value)):
        item = getattr(value, name)
        if item is default or (default is EMPTY and isinstance(item, Mapping) and not item):
            continue
        if type(item) is not type(default) or item != default:
            told[name] = write(item)
    return told


def _read(kind: type, told: Any) -> Any:
    if type(told) is not dict:
        raise Unfit(f"{kind.__name__} is written as an object")
    given = {}
    for name, default, _, read in _plan(kind):
        if name in told:
            given[name] = read(told.pop(name))
        elif default is NOTHING:
            raise Unfit(f"{kind.__name__} without {name}")
    if told:
        raise Unfit(f"{kind.__name__} has no {next(iter(told))[:40]!r}")
    return kind(**given)


def _plan(kind: type) -> tuple[_Field, ...]:
    plan = _PLANS.get(kind)
    if plan is None:
        plan = _PLANS[kind] = tuple(
            _Field(a.name, NOTHING if _made(a.default) else a.default, *_KINDS[str(a.type)])
            for a in fields(kind)
            if a.name != "vectors"
        )
    return plan


def _made(default: Any) -> bool:
    """Whether a default is a factory's: then the field is always written."""
    return isinstance(default, Factory)  # type: ignore[arg-type]  # a class, which the stubs call a function


_PLANS: dict[type, tuple[_Field, ...]] = {}


def _of(kind: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    def write(value: Any) -> Any:
        if type(value) is not kind:
            raise Unfit(f"{type(value).__name__} where {kind.__name__} stands")
        return _write(value)

    return write, lambda told: _read(kind, told)


def _maybe(
    both: tuple[Callable[[Any], Any], Callable[[Any], Any]],
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    write, read = both
    return (
        lambda value: None if value is None else write(value),
        lambda told: None if told is None else read(told),
    )


def _only(*allowed: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    def check(value: Any) -> Any:
        if not any(value is one or (type(value) is type(one) and value == one) for one in allowed):
            raise Unfit(f"{str(value)[:40]!r} is not one of {allowed}")
        return value

    return check, check


def _number(write: bool) -> Callable[[Any], Any]:
    step = write_value if write else read_value

    def check(value: Any) -> Any:
        found = step(value)
        number = value if write else found
        if type(number) not in (int, float):
            raise Unfit(f"{type(number).__name__} where a number stands")
        return found

    return check


def _write_mapping(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise Unfit(f"{type(value).__name__} where a mapping stands")
    return write_value(value)


def _read_mapping(told: Any) -> Any:
    value = read_value(told)
    if not isinstance(value, dict):
        raise Unfit("not a mapping")
    return value or EMPTY


def _write_part(part: Any) -> Any:
    if type(part) is Text and not part.extra:  # nearly all of them
        return as_text(part.text)
    tag = _PART_TAGS.get(type(part))
    if tag is None:
        raise Unfit(f"{type(part).__name__} is not a part")
    return [tag, _write(part)]


def _read_part(told: Any) -> Any:
    if type(told) is str:
        return Text(told)
    tag, value = items(told, 2)
    kind = _PARTS.get(tag) if type(tag) is str else None
    if kind is None:
        raise Unfit("not a part")
    return _read(kind, value)


def _each(
    both: tuple[Callable[[Any], Any], Callable[[Any], Any]],
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    write, read = both
    return lambda values: [write(value) for value in values], lambda told: tuple(map(read, as_list(told)))


_PARTS: dict[str, type] = {
    "text": Text,
    "image": Image,
    "document": Document,
    "audio": Audio,
    "reasoning": Reasoning,
    "call": ToolCall,
    "result": ToolResult,
    "refusal": Refusal,
    "opaque": Opaque,
}
_PART_TAGS = {kind: tag for tag, kind in _PARTS.items()}
_REPLIES: dict[str, type] = {"chat": Completion, "embed": Embeddings, "rerank": Ranking}
_REPLY_TAGS = {kind: tag for tag, kind in _REPLIES.items()}

_STR = (as_text, as_text)
_NUMBER = (_number(True), _number(False))
_MAPPING = (_write_mapping, _read_mapping)
_REASONS = ("stop", "length", "tool_calls", "content_filter", "refusal", "error", None)

_KINDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "str": _STR,
    "str | None": _maybe(_STR),
    "int": _NUMBER,
    "float": _NUMBER,
    "float | None": _maybe(_NUMBER),
    "bool": _only(True, False),
    "Mapping[str, Any]": _MAPPING,
    "Mapping[str, str]": _MAPPING,
    "Role": _only("system", "user", "assistant", "tool"),
    "FinishReason | None": _only(*_REASONS),
    'Literal["provider", "estimated"]': _only("provider", "estimated"),
    "Literal['provider', 'estimated']": _only("provider", "estimated"),
    "tuple[Part, ...]": _each((_write_part, _read_part)),
    "tuple[str, ...]": _each(_STR),
    "tuple[Ranked, ...]": _each(_of(Ranked)),
    "Message": _of(Message),
    "Usage | None": _maybe(_of(Usage)),
    "Cost | None": _maybe(_of(Cost)),
}


# ------------------------------------------------------------ vectors


def _write_vector(vector: Any, into: list[bytes]) -> Any:
    """The length, of a tuple below 0, of what goes `into` the bytes; another vector as the value it is."""
    if not vector or set(map(type, vector)) != {float} or not isinstance(vector, list | tuple):
        return write_value(vector)
    into.append(_swapped(array("d", vector)).tobytes())
    return -len(vector) if isinstance(vector, tuple) else len(vector)


def _read_vectors(told: Any, numbers: memoryview) -> tuple[tuple[Any, ...], memoryview]:
    vectors = []
    for one in as_list(told):
        if type(one) is not int:
            value = read_value(one)
            if not isinstance(value, list | tuple):
                raise Unfit("not a vector")
            vectors.append(value)
            continue
        end = abs(one) * _DOUBLE
        if not 0 < end <= len(numbers):
            raise Unfit("a vector is cut off")
        row = array("d")
        row.frombytes(numbers[:end])
        numbers = numbers[end:]
        vectors.append(tuple(_swapped(row)) if one < 0 else FrozenList(_swapped(row).tolist()))
    return tuple(vectors), numbers


def _swapped(row: array[float]) -> array[float]:
    if sys.byteorder == "big":
        row.byteswap()
    return row
