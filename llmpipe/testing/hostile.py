"""Texts made to hurt a pattern: what it matches, almost matches, and is built of, over and over.

The texts are derived from the pattern itself, so that a new pattern is attacked without anybody
having thought of how.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from random import Random
from typing import Any

from llmpipe.middleware.redact.escapes import EncodedJSONView, EncodedView, JSONView
from llmpipe.middleware.redact.view import View

__all__ = ("DISGUISED", "attacks", "repeated", "written")

# As in llmpipe.middleware.redact.linear: the tree that `re` itself works on has no public name.
_parser: Any = import_module("re._parser")

_ENDS = (" ", "", ",", "\n", "a", "0", ".", "-", ":", "=", "@", '"', "(", "+", "_", "/")
_CLASSES = {"CATEGORY_DIGIT": "059", "CATEGORY_SPACE": " \n", "CATEGORY_WORD": "a_0"}
_PRINTABLE = [chr(code) for code in range(32, 127)] + ["\n", "\t"]

DISGUISED: tuple[tuple[str, type[View], str], ...] = (
    ("full-width", View, "４１１１"),
    ("mathematical", View, "𝟒𝐚"),
    ("homoglyph", View, "ае"),
    ("zero-width", View, "4\u200b"),
    ("zero-width, pairs", View, "4\u200b\u200b"),
    ("zero-width, long", View, "\u200b" * 20 + "a"),
    ("combining", View, "a\u0301"),
    ("JSON", JSONView, "\\u0040"),
    ("JSON, half", JSONView, "a\\u00"),
    ("JSON, pairs", JSONView, "\\ud83d\\ude00"),
    ("JSON, short", JSONView, "\\n"),
    ("JSON, not seen", JSONView, "a\\u200b"),
    ("source code", EncodedView, "\\x41"),
    ("URL", EncodedView, "%41"),
    ("URL, half", EncodedView, "%"),
    ("URL, by turns", EncodedView, "a%20"),
    ("URL, wide", EncodedView, "%E2%82%AC"),
    ("URL, cut", EncodedView, "%E2%82"),
    ("HTML", EncodedView, "&#64;"),
    ("HTML, half", EncodedView, "&a"),
    ("URL in JSON", EncodedJSONView, "%41\\n"),
    ("all in one", EncodedJSONView, "%4１\\u004&#6;\u200b\\\\"),
)
"""Texts that are all disguise: what it is called, what reads it, and the unit to repeat."""


def repeated(unit: str, length: int) -> str:
    """`unit` again and again, `length` characters in all."""
    return (unit * (length // len(unit) + 1))[:length]


def written(pattern: str, random: Random) -> str:
    """A text that has the form of `pattern`, and mostly matches it.

    Look-behinds are written before what they stand behind; what a look-ahead asks is left to chance.
    """
    return _write(list(_parser.parse(pattern)), random, "")


def attacks(pattern: str, random: Random, count: int, examples: Iterable[str] = ()) -> list[str]:
    """Units to repeat, `count` or a few less, in a fixed order for one state of `random`.

    Forms of the pattern and `examples`, whole, cut, with a sign too many or one exchanged; and
    pairs of the signs they are made of.
    """
    forms = [*examples, *[written(pattern, random) for _ in range(max(4, count // 8))]]
    found: dict[str, None] = {}
    for turn in range(count * 4):
        if len(found) >= count:
            break
        form = forms[turn % len(forms)] if turn < len(forms) else random.choice(forms)
        unit = _hurt(form, random, turn)
        if unit.strip():
            found[unit] = None
    return list(found)


def _hurt(form: str, random: Random, turn: int) -> str:
    end = random.choice(_ENDS)
    place = random.randrange(len(form)) if form else 0
    match turn % 6:
        case 0:
            return form + end
        case 1:
            return form[: place + 1] + end
        case 2:  # one exchanged for its like: a check digit is wrong, all else is right
            return form[:place] + _like(form[place : place + 1], random) + form[place + 1 :] + end
        case 3:
            return form[:place] + random.choice(_ENDS) + form[place + 1 :] + end
        case 4:
            return form[-1:] + random.choice(_ENDS) + form + end
        case _:
            signs = [*form, *_ENDS]
            return "".join([random.choice(signs) for _ in range(random.randint(2, 5))])


def _like(char: str, random: Random) -> str:
    if char.isdigit():
        return random.choice("0123456789")
    if char.isalpha():
        return random.choice("ABCDEFXZ" if char.isupper() else "abcdefxz")
    return char


def _write(nodes: list[Any], random: Random, before: str) -> str:
    """`before`, and the nodes written behind it."""
    text = before
    for op, value in nodes:
        text = _write_one(str(op), value, random, text)
    return text


def _write_one(name: str, value: Any, random: Random, text: str) -> str:
    if name == "LITERAL":
        return text + chr(value)
    if name == "NOT_LITERAL":
        return text + random.choice([char for char in "aZ0 .-" if ord(char) != value])
    if name == "ANY":
        return text + random.choice("a0 .")
    if name == "IN":
        return text + _member(value, random)
    if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, body = value
        most = most if random.random() < 0.2 else min(most, least + 4)
        for _ in range(random.randint(least, min(most, least + 64))):
            text = _write(list(body), random, text)
        return text
    if name == "BRANCH":
        return _write(list(random.choice(value[1])), random, text)
    if name == "SUBPATTERN":
        return _write(list(value[3]), random, text)
    if name == "ATOMIC_GROUP":
        return _write(list(value), random, text)
    if name == "ASSERT" and value[0] < 0:
        stands = _write(list(value[1]), random, "")
        return stands[: -len(text)] + text if len(stands) > len(text) else text
    return text


def _member(items: list[Any], random: Random) -> str:
    negated = str(items[0][0]) == "NEGATE"
    members: list[str] = []
    for op, value in items:
        if str(op) == "LITERAL":
            members.append(chr(value))
        elif str(op) == "RANGE":
            members += [chr(value[0]), chr(value[1]), chr(random.randint(value[0], value[1]))]
        elif str(op) == "CATEGORY":
            members += _CLASSES.get(str(value), "a")
    if not negated:
        return random.choice(members)
    taken = re.compile(f"[{re.escape(''.join(members))}]")
    return random.choice([char for char in _PRINTABLE if not taken.match(char)])
