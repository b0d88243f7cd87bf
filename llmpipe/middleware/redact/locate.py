"""What is found in a request, and where in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import fields, frozen, has

from llmpipe.middleware.redact.scan import Scanner
from llmpipe.middleware.redact.walk import AnyRequest, Role, key_of, rewrite_request

__all__ = ("Located", "locate")


@frozen
class Located:
    """Something of `kind` in the string at `path`, from `start` up to `end`, in characters.

    `path` is how one gets to the string from the request: ``messages[0].parts[1].text``,
    ``metadata['user']``; of a key in a mapping ``metadata.keys()[0]``; and ``""`` for a text by itself.
    """

    path: str
    kind: str
    start: int
    end: int


class _Marked(str):
    """A string of a request that was looked at, with what was found in it."""

    __slots__ = ("found",)
    found: tuple[Located, ...]

    def __eq__(self, other: object) -> bool:
        return self is other  # so that a key is not taken for the one in whose place it stands

    __hash__ = str.__hash__


def locate(scanner: Scanner, request: AnyRequest | str) -> tuple[Located, ...]:
    """All that is found in a request or a text, in the order in which they stand there."""
    if isinstance(request, str):
        return _found(scanner, request, "text")

    def mark(text: str, role: Role) -> str:
        found = _found(scanner, text, role)
        if not found:
            return text
        marked = _Marked(text)
        marked.found = found
        return marked

    # Rewritten to itself, for the rewriter knows which strings say something; then looked through.
    marked = rewrite_request(request, mark)
    return tuple(
        [
            Located(path, found.kind, found.start, found.end)
            for path, text in _strings(marked, "")
            for found in text.found
        ]
    )


def _found(scanner: Scanner, text: str, role: Role) -> tuple[Located, ...]:
    findings = scanner.scan(text, key_of(role), json=role == "json")
    return tuple([Located("", found.kind, found.start, found.end) for found in findings])


def _strings(value: Any, path: str) -> Iterator[tuple[str, _Marked]]:
    if isinstance(value, _Marked):
        yield path, value
    elif has(type(value)):
        for field in fields(type(value)):
            name = field.name
            yield from _strings(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, Mapping):
        for number, (key, item) in enumerate(value.items()):
            yield from _strings(key, f"{path}.keys()[{number}]")
            yield from _strings(item, f"{path}[{key!s:.40}]")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _strings(item, f"{path}[{number}]")
