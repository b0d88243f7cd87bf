"""Proof that a pattern takes linear time, and from it the pattern of its own beginnings.

A regular expression of the module `re` is searched by backtracking. What it does at one place of
the text is bounded where every quantifier is, and small where few of them give ground again; the
whole search is then that bound times the length of the text. `analyse` reads the pattern and
counts. It needs nothing but the pattern, so the proof is the same on every machine.

For streams it also derives `Shape.unsure`, a pattern that matches at a place if and only if an
attempt there would look at what comes after the end of the text. Text before the first such place
can be decided for good; the rest must wait. `narrowed` gives the part of a pattern that can match
in texts of few characters, which for plain prose is next to nothing.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from attrs import frozen

from llmpipe.errors import ConfigError

__all__ = ("Shape", "analyse", "narrowed", "reach", "written")

# The module that `re` parses with. It has no public name; its tree has been the same from Python
# 3.11 (which brought possessive quantifiers and atomic groups) to 3.14. tests/middleware/redact/
# test_linear.py says so of the running one.
_parser: Any = import_module("re._parser")
_names: Any = import_module("re._constants")

_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
_PLACES = {"AT_BOUNDARY": r"\b", "AT_NON_BOUNDARY": r"\B", "AT_END_STRING": r"\Z"}
_CHARACTERS = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_REPEATS = {"MAX_REPEAT": "", "MIN_REPEAT": "?", "POSSESSIVE_REPEAT": "+"}
_FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.ASCII: "a"}
_ENOUGH = 10**12

Tree = list[tuple[Any, Any]]


@frozen
class Shape:
    """What is known of a pattern.

    Attributes:
        max_width: characters a match has at most.
        look_behind: characters before its start that a match may depend on.
        steps: an upper bound on what the engine does at one place of a text.
        first: what a match begins with, where that is one of a few characters; else None.
        unsure: a pattern that matches, up to the end of the text, where more text could change what
            the pattern does there.
    """

    max_width: int
    look_behind: int
    steps: int
    first: frozenset[str] | None
    unsure: str


def analyse(pattern: str) -> Shape:
    r"""The shape of `pattern`.

    Raises: ConfigError, saying what to change, if it is no regular expression, has no bound, or
    depends on more than its own match and a few characters before it (``^ $ \A \Z``, references).
    """
    try:
        tree = _parser.parse(pattern)
    except (re.error, OverflowError) as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}") from None
    flags = tree.state.flags & ~re.UNICODE
    if flags:
        raise ConfigError(f"{pattern!r}: write flags as a group, (?i:...), not for the whole pattern")
    nodes = list(tree)
    _refuse(pattern, nodes)
    _, widest = tree.getwidth()
    unsure = _unsure(nodes)
    return Shape(int(widest), _look_behind(nodes), _steps(nodes)[1], _first(nodes), unsure or "(?!)")


def reach(pattern: str) -> int:
    """Characters from its start on that an attempt to match `pattern` looks at, at most."""
    tree = _parser.parse(pattern)
    ahead = [value[1].getwidth()[1] for name, value, _ in _walk(list(tree)) if _looks_ahead(name, value)]
    return int(tree.getwidth()[1] + sum(ahead)) + 1


def _looks_ahead(name: str, value: Any) -> bool:
    return name in ("ASSERT", "ASSERT_NOT") and value[0] > 0


def _refuse(pattern: str, nodes: Tree) -> None:
    for name, value, inner in _walk(nodes):
        if name in ("GROUPREF", "GROUPREF_EXISTS"):
            raise ConfigError(f"{pattern!r} refers back to a group, which cannot be bounded; write it out")
        if name == "AT" and str(value) not in ("AT_BOUNDARY", "AT_NON_BOUNDARY"):
            raise ConfigError(
                rf"{pattern!r} is anchored to the text or a line; it is looked for everywhere in a text "
                rf"that may come in pieces. Use \b or a look-around such as (?<![a-z])"
            )
        if name in _REPEATS and value[1] is _names.MAXREPEAT:
            raise ConfigError(
                f"{pattern!r} repeats without end ({written(inner)}); write the most there can be, "
                f"such as {{0,64}} for * and {{1,64}} for +"
            )


def _walk(nodes: Tree) -> Any:
    """All nodes below and including `nodes`: (name, value, the trees inside)."""
    for op, value in nodes:
        inner = _inner(str(op), value)
        yield str(op), value, [node for tree in inner for node in tree]
        for tree in inner:
            yield from _walk(tree)


def _inner(name: str, value: Any) -> list[Tree]:
    if name in _REPEATS:
        return [list(value[2])]
    if name == "SUBPATTERN":
        return [list(value[3])]
    if name == "ATOMIC_GROUP":
        return [list(value)]
    if name in ("ASSERT", "ASSERT_NOT"):
        return [list(value[1])]
    if name == "BRANCH":
        return [list(tree) for tree in value[1]]
    return []


def _look_behind(nodes: Tree) -> int:
    """The farthest any look-behind or word boundary in the tree reaches back from where it stands."""
    farthest = 0
    for name, value, _ in _walk(nodes):
        if name in ("ASSERT", "ASSERT_NOT") and value[0] < 0:
            farthest = max(farthest, value[1].getwidth()[1])
        elif name == "AT":
            farthest = max(farthest, 1)
    return farthest


def _first(nodes: Tree) -> frozenset[str] | None:
    if not nodes:
        return None
    name, value = str(nodes[0][0]), nodes[0][1]
    if name == "LITERAL":
        return frozenset(chr(value))
    if name != "IN":
        return None
    found: set[str] = set()
    for op, item in value:
        if str(op) == "LITERAL":
            found.add(chr(item))
        elif str(op) == "RANGE" and item[1] - item[0] < 128:
            found |= {chr(code) for code in range(item[0], item[1] + 1)}
        else:
            return None
    return frozenset(found)


# ------------------------------------------------------------ in texts of few characters


def narrowed(pattern: str, alphabet: frozenset[str]) -> tuple[str, ...]:
    """Patterns one of which matches where `pattern` does, in every text of `alphabet`.

    Without what such a text cannot have, and without the end of the text, which matches nothing.
    """
    nodes = _narrowed(list(_parser.parse(pattern)), alphabet)
    ways = [] if nodes is None else _ways(nodes)
    return tuple([way for way in dict.fromkeys(ways) if way != r"\Z"])


def _ways(nodes: Tree) -> list[str]:
    """The alternatives of a pattern that is nothing but alternatives; else itself."""
    if len(nodes) == 1 and str(nodes[0][0]) == "BRANCH":
        return [way for tree in nodes[0][1][1] for way in _ways(list(tree))]
    return [written(nodes)]


def _narrowed(nodes: Tree, alphabet: frozenset[str]) -> Tree | None:
    """The nodes without the branches that cannot match; None if none is left."""
    left: Tree = []
    for op, value in nodes:
        node = _narrowed_node(op, value, alphabet)
        if node is None:
            return None
        left += node
    return left


def _narrowed_node(op: Any, value: Any, alphabet: frozenset[str]) -> Tree | None:
    name = str(op)
    if name in ("LITERAL", "IN"):
        # In either case, for the flag that ignores it may stand outside.
        first = _first([(op, value)])
        possible = first is None or any(not alphabet.isdisjoint((c, c.lower(), c.upper())) for c in first)
        return [(op, value)] if possible else None
    if name == "BRANCH":
        ways = [tree for way in value[1] if (tree := _narrowed(list(way), alphabet)) is not None]
        distinct = list({written(tree): tree for tree in ways}.values())
        return [(op, (None, distinct))] if len(distinct) > 1 else distinct[0] if distinct else None
    inner = _inner(name, value)
    if not inner:
        return [(op, value)]
    tree = _narrowed(inner[0], alphabet)
    if tree is None:
        return [] if name == "ASSERT_NOT" or (name in _REPEATS and value[0] == 0) else None
    if name == "ATOMIC_GROUP":
        return [(op, tree)]
    return [(op, (*value[:-1], tree))]


# ------------------------------------------------------------ how much work


def _steps(nodes: Tree) -> tuple[int, int]:
    """(ways the engine can take through the nodes, steps to try them all), both upper bounds.

    A sequence tries what follows once for each way through what is before it. A possessive
    repeat, an atomic group and a look-around have one way: they never give ground.
    """
    ways, steps = 1, 0
    for op, value in nodes:
        more_ways, more_steps = _steps_of(str(op), value)
        steps += ways * more_steps
        ways *= more_ways
        if steps > _ENOUGH or ways > _ENOUGH:
            return _ENOUGH, _ENOUGH
    return ways, steps


def _steps_of(name: str, value: Any) -> tuple[int, int]:
    if name in _REPEATS:
        least, most, body = value
        ways, steps = _steps(list(body))
        if name == "POSSESSIVE_REPEAT":
            single = len(body) == 1 and str(body[0][0]) in _CHARACTERS
            return 1, most + 1 if single else (most + 1) * (steps + 1)
        if ways == 1:
            return most - least + 1, (most + 1) * (steps + 1)
        total = min(_ENOUGH, ways ** min(most, 64)) if most < 64 else _ENOUGH
        return total * (most - least + 1), total * (most + 1) * steps
    inner = [_steps(tree) for tree in _inner(name, value)]
    if name == "BRANCH":
        return sum(ways for ways, _ in inner), sum(steps + 1 for _, steps in inner)
    if name == "SUBPATTERN":
        return inner[0]
    if inner:  # an atomic group or a look-around
        return 1, inner[0][1] + 1
    return 1, 1


# ------------------------------------------------------------ the pattern of its beginnings


def _unsure(nodes: Tree) -> str | None:
    """A pattern for where matching `nodes` looks beyond the end of the text; None if it never does.

    Either the first node does, or it matches and the rest does: from the last node to the first.
    """
    found: str | None = None
    for op, value in reversed(nodes):
        here = _unsure_of(str(op), value)
        later = None if found is None else written([(op, value)]) + _grouped(found)
        found = "|".join(part for part in (here, later) if part is not None) or None
    return found


def _unsure_of(name: str, value: Any) -> str | None:
    if name in _CHARACTERS or name == "AT":
        return r"\Z"
    if name in _REPEATS:
        body = list(value[2])
        most = value[1] - 1
        if most < 0:
            return None
        if len(body) == 1 and str(body[0][0]) in _CHARACTERS:
            return f"{written(body)}{{0,{most}}}+\\Z" if most else r"\Z"
        inside = _unsure(body)
        if inside is None or most == 0:
            return inside
        # Any number of rounds that are sure, then one that is not: it gives ground, unlike the original.
        return f"(?:{written(body)}){{0,{most}}}{_grouped(inside)}"
    if name == "BRANCH":
        parts = [part for tree in _inner(name, value) if (part := _unsure(tree)) is not None]
        return "|".join(parts) or None
    if name in ("ASSERT", "ASSERT_NOT") and value[0] < 0:
        return None
    inner = _inner(name, value)
    found = _unsure(inner[0]) if inner else None
    if found is not None and name == "SUBPATTERN":
        return _flagged(value, found)
    return found


def _grouped(pattern: str) -> str:
    return f"(?:{pattern})"


def _flagged(value: Any, pattern: str) -> str:
    _, added, removed, _ = value
    on = "".join(sign for flag, sign in _FLAGS.items() if added & flag)
    off = "".join(sign for flag, sign in _FLAGS.items() if removed & flag)
    return f"(?{on}{'-' + off if off else ''}:{pattern})"


def written(nodes: Tree) -> str:
    """The nodes as a pattern again, without capturing."""
    return "".join([_written_one(str(op), value) for op, value in nodes])


def _written_one(name: str, value: Any) -> str:
    if name == "LITERAL":
        return _character(value)
    if name == "NOT_LITERAL":
        return f"[^{_character(value)}]"
    if name == "ANY":
        return "."
    if name == "IN":
        return f"[{''.join(_member(str(op), item) for op, item in value)}]"
    if name == "AT":
        return _PLACES[str(value)]
    if name in _REPEATS:
        least, most, body = value
        return f"(?:{written(list(body))}){{{least},{most}}}{_REPEATS[name]}"
    inner = [written(tree) for tree in _inner(name, value)]
    if name == "BRANCH":
        return f"(?:{'|'.join(inner)})"
    if name == "SUBPATTERN":
        return _flagged(value, inner[0])
    if name == "ATOMIC_GROUP":
        return f"(?>{inner[0]})"
    sign = ("<" if value[0] < 0 else "") + ("=" if name == "ASSERT" else "!")
    return f"(?{sign}{inner[0]})"


def _member(name: str, value: Any) -> str:
    if name == "NEGATE":
        return "^"
    if name == "RANGE":
        return f"{_character(value[0])}-{_character(value[1])}"
    if name == "CATEGORY":
        return _CATEGORIES[str(value)]
    return _character(value)


def _character(code: int) -> str:
    return chr(code) if code < 128 and chr(code).isalnum() else f"\\U{code:08x}"
