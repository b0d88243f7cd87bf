"""Values that can be handed to many owners, because none of them can change them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from sys import getsizeof
from typing import Any, TypeVar, cast

from attrs import fields, has

from llmpipe.errors import BadReply
from llmpipe.types import Completion, Text
from llmpipe.types.copying import replace
from llmpipe.types.frozen import EMPTY, FrozenDict, FrozenList

__all__ = ("freeze",)

V = TypeVar("V")
_ATOMS = frozenset((str, int, float, bool, bytes, type(None)))
_COMPLETION_BYTES = 1500  # of its own: ids, numbers and the values that hold them, about (measured)
_ATOMIC = re.compile(r"(str|int|float|bool|bytes|None|Role|FinishReason|Literal\[[^\]]*\]|[| ])+")


def freeze(value: V) -> tuple[V, int]:
    """`value` as nobody can change it, and its size in bytes.

    Takes what replies are made of: attrs values, mappings, sequences, plain values. Equal to the
    original, of which it shares all that cannot change; the size is about what CPython takes.

    Raises: BadReply for what is nested hundreds of levels deep.
    """
    try:
        copy, size = _freeze(value)
    except RecursionError:
        raise BadReply(
            "the reply is nested too deep to be kept or shared", code="too_deep", phase="body"
        ) from None
    return cast("V", copy), size


def _freeze(value: Any) -> tuple[Any, int]:
    kind = type(value)
    if kind is Completion:
        return _completion(value)
    if kind in _ATOMS:
        return value, getsizeof(value)
    if kind in _PLANS:
        return _attrs(value, kind)
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, list | tuple):
        return _sequence(value)
    if has(kind) and "__slots__" in kind.__dict__:
        return _attrs(value, kind)
    # Something with a buffer, such as an array of floats: copied, for its owner may go on writing.
    return deepcopy(value), getsizeof(value)


def _completion(value: Completion) -> tuple[Completion, int]:
    """By hand, for it is on the path of every call: most are only text, which nobody can change."""
    message, usage = value.message, value.usage
    if (
        message.extra is not EMPTY
        or value.extra is not EMPTY
        or value.headers is not EMPTY
        or (usage is not None and usage.extra is not EMPTY)
    ):
        return _rich(value)
    size = _COMPLETION_BYTES
    for part in message.parts:
        if type(part) is not Text or part.extra is not EMPTY:
            return _rich(value)
        size += getsizeof(part.text) + 70  # not its length: most scripts take two bytes a character
    return value, size


def _rich(value: Completion) -> tuple[Completion, int]:
    """Of a completion only mappings and parts can change, or be large."""
    message, usage, size = value.message, value.usage, _COMPLETION_BYTES
    parts, same = [], message.extra is EMPTY
    for part in message.parts:
        if type(part) is Text and part.extra is EMPTY:
            size += getsizeof(part.text) + 70
            parts.append(part)
        else:
            frozen, more = _freeze(part)
            size += more
            parts.append(frozen)
            same = same and frozen is part
    changes: dict[str, Any] = {}
    for name in ("extra", "headers"):
        mapping = getattr(value, name)
        if mapping is not EMPTY:
            changes[name], more = _mapping(mapping)
            size += more
    if not same:
        changes["message"] = replace(message, parts=tuple(parts), extra=_mapping(message.extra)[0])
    if usage is not None and usage.extra is not EMPTY:
        changes["usage"] = replace(usage, extra=_mapping(usage.extra)[0])
    return (replace(value, **changes) if changes else value), size


def _mapping(value: Mapping[Any, Any]) -> tuple[FrozenDict, int]:
    if not value:
        return EMPTY, 0
    items, size = {}, 0
    for key, item in value.items():
        items[key], more = _freeze(item)
        size += more + getsizeof(key)
    copy = FrozenDict(items)
    return copy, size + getsizeof(copy)


def _sequence(value: list[Any] | tuple[Any, ...]) -> tuple[Any, int]:
    shape: type[Any] = tuple if isinstance(value, tuple) else FrozenList
    if set(map(type, value)) == {float}:  # an embedding: thousands of them
        copy = shape(value)
        return copy, getsizeof(copy) + 24 * len(value)
    pairs = [_freeze(item) for item in value]
    if shape is tuple and all(new is old for (new, _), old in zip(pairs, value, strict=True)):
        copy = value
    else:
        copy = shape([item for item, _ in pairs])
    return copy, getsizeof(copy) + sum([more for _, more in pairs])


def _attrs(value: Any, kind: type) -> tuple[Any, int]:
    size, texts, others = _PLANS.get(kind) or _plan(kind)
    changed: dict[str, Any] = {}
    for name in texts:
        text = getattr(value, name)
        if text:
            size += getsizeof(text)
    for name in others:
        item = getattr(value, name)
        if item is not EMPTY and item is not None:
            frozen, more = _freeze(item)
            size += more
            if frozen is not item:
                changed[name] = frozen
    return (replace(value, **changed) if changed else value), size


def _plan(kind: type) -> tuple[int, tuple[str, ...], tuple[str, ...]]:
    """What to look at in a value of `kind`, worked out once.

    Its own bytes, its fields that are text, and those that could be changed from outside, by their
    annotations. Plain numbers are neither.
    """
    texts, others = [], []
    for field in fields(kind):
        annotation = str(field.type)
        if not _ATOMIC.fullmatch(annotation):
            others.append(field.name)
        elif "str" in annotation:
            texts.append(field.name)
    plan = _PLANS[kind] = 32 + 40 * len(fields(kind)), tuple(texts), tuple(others)
    return plan


_PLANS: dict[type, tuple[int, tuple[str, ...], tuple[str, ...]]] = {}
