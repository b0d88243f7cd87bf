"""Which characters the nodes of a pattern take: of ASCII each by itself, and of all others none or some.

The tree of nodes is that which `re` itself works on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

__all__ = ("CHARACTERS", "Class", "LOOPS", "Tree", "classes", "folds", "union")

LOOPS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
CHARACTERS = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
"""The nodes that take a character."""

_CATEGORIES = {
    "CATEGORY_DIGIT": re.compile(r"\d"),
    "CATEGORY_NOT_DIGIT": re.compile(r"\D"),
    "CATEGORY_SPACE": re.compile(r"\s"),
    "CATEGORY_NOT_SPACE": re.compile(r"\S"),
    "CATEGORY_WORD": re.compile(r"\w"),
    "CATEGORY_NOT_WORD": re.compile(r"\W"),
}
_ELSE = ord("?")  # what stands for all that is not ASCII

Tree = list[tuple[Any, Any]]
Class = int
"""A class of characters: a bit for each of the 128 of ASCII."""


def folds(value: Any, fold: bool) -> bool:
    """Whether a group takes letters in either case."""
    return bool((fold or value[1] & re.IGNORECASE) and not value[2] & re.IGNORECASE)


def classes(name: str, value: Any, fold: bool) -> tuple[Class, Class]:
    """Where one of the class may stand, and where one does for sure: they differ in what is not ASCII."""
    codes, wide = _codes(name, value)
    if fold:
        letters = {chr(code) for code in codes}
        codes |= {
            ord(char) for letter in letters for char in (letter.lower(), letter.upper()) if char < "\x80"
        }
    may = codes | {_ELSE} if wide else codes
    return _class(may), _class(codes - {_ELSE})


def _codes(name: str, value: Any) -> tuple[set[int], bool]:
    """The ASCII characters of a node, and whether there are others."""
    if name == "LITERAL":
        return ({value}, False) if value < 128 else (set(), True)
    if name == "NOT_LITERAL":
        return set(range(128)) - {value}, True
    if name == "ANY":
        return set(range(128)) - {10}, True
    found: set[int] = set()
    wide = negated = False
    for op, item in value:
        kind = str(op)
        if kind == "NEGATE":
            negated = True
        elif kind == "LITERAL":
            found.add(item)
        elif kind == "RANGE":
            found |= set(range(item[0], min(item[1], 127) + 1))
            wide = wide or item[1] > 127
        else:
            fits = _CATEGORIES[str(item)].match
            found |= {code for code in range(128) if fits(chr(code))}
            wide = True
    wide = wide or negated or max(found, default=0) > 127
    found = {code for code in found if code < 128}
    return (set(range(128)) - found if negated else found), wide


def union(nodes: Tree, fold: bool) -> Class:
    """All that a match of the nodes can consist of."""
    found = 0
    for name, value, inner_fold in _members(nodes, fold):
        found |= classes(name, value, inner_fold)[0]
    return found


def _members(nodes: Tree, fold: bool) -> Iterator[tuple[str, Any, bool]]:
    for op, value in nodes:
        name = str(op)
        if name in CHARACTERS:
            yield name, value, fold
        elif name == "SUBPATTERN":
            yield from _members(list(value[3]), folds(value, fold))
        elif name == "ATOMIC_GROUP":
            yield from _members(list(value), fold)
        elif name == "BRANCH":
            for tree in value[1]:
                yield from _members(list(tree), fold)
        elif name in LOOPS:
            yield from _members(list(value[2]), fold)


def _class(codes: set[int]) -> Class:
    return sum([1 << code for code in codes])
