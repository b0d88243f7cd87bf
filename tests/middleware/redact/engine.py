"""A backtracking engine that counts its steps: what `re` does, slowly, with nothing skipped.

One step is one comparison of a character, or one time a loop or an alternative is entered.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

__all__ = ("Engine",)

parser: Any = import_module("re._parser")
compiler: Any = import_module("re._compiler")


class Engine:
    """Matches one pattern; `steps` counts."""

    def __init__(self, pattern: str) -> None:
        self.tree = list(parser.parse(pattern))
        self.steps = 0

    def match(self, text: str, place: int) -> int | None:
        """Where the match at `place` ends, or None."""
        self.text = text
        return next(self.sequence(self.tree, 0, place, False), None)

    def sequence(self, nodes: list[Any], index: int, place: int, fold: bool) -> Iterator[int]:
        if index == len(nodes):
            yield place
            return
        op, value = nodes[index]
        for end in self.node(str(op), value, place, fold):
            yield from self.sequence(nodes, index + 1, end, fold)

    def node(self, op: str, value: Any, place: int, fold: bool) -> Iterator[int]:
        if op in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            if self.fits(op, value, place, fold):
                yield place + 1
        elif op in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, body = value
            ends = self.repeat(op, least, most, list(body), place, fold)
            if op == "POSSESSIVE_REPEAT":
                end = next(ends, None)
                if end is not None:
                    yield end
            else:
                yield from ends
        elif op == "BRANCH":
            for nodes in value[1]:
                self.steps += 1
                yield from self.sequence(list(nodes), 0, place, fold)
        elif op == "SUBPATTERN":
            yield from self.sequence(list(value[3]), 0, place, fold or bool(value[1] & 2))
        elif op == "ATOMIC_GROUP":
            end = next(self.sequence(list(value), 0, place, fold), None)
            if end is not None:
                yield end
        elif op in ("ASSERT", "ASSERT_NOT"):
            if self.looks(value, place, fold) == (op == "ASSERT"):
                yield place
        else:
            assert op == "AT"
            self.steps += 1
            if self.at(str(value), place):
                yield place

    def fits(self, op: str, value: Any, place: int, fold: bool) -> bool:
        self.steps += 1
        if place >= len(self.text):
            return False
        char = self.text[place]
        chars = {char, char.lower(), char.upper()} if fold else {char}
        if op == "ANY":
            return char != "\n"
        if op != "IN":
            return any(ord(c) == value for c in chars) == (op == "LITERAL")
        return any(self.member(value, c) for c in chars)

    def member(self, items: Any, char: str) -> bool:
        found, negated = False, False
        for name, item in items:
            if str(name) == "NEGATE":
                negated = True
            elif str(name) == "LITERAL":
                found |= ord(char) == item
            elif str(name) == "RANGE":
                found |= item[0] <= ord(char) <= item[1]
            else:
                kind = str(item)
                by_kind = {
                    "DIGIT": char.isdigit(),
                    "SPACE": char.isspace(),
                    "WORD": char.isalnum() or char == "_",
                }
                found |= by_kind[kind.rpartition("_")[2]] != ("NOT" in kind)
        return found != negated

    def repeat(
        self, op: str, least: int, most: int, nodes: list[Any], place: int, fold: bool
    ) -> Iterator[int]:
        if (
            len(nodes) == 1
            and str(nodes[0][0]) in ("LITERAL", "NOT_LITERAL", "ANY", "IN")
            and op != "MIN_REPEAT"
        ):
            end = place
            while end - place < most and self.fits(str(nodes[0][0]), nodes[0][1], end, fold):
                end += 1
            while end - place >= least:
                yield end
                end -= 1
                self.steps += 1
            return
        possessive = op == "POSSESSIVE_REPEAT"
        if possessive:  # each round keeps to the first way it finds
            ends = [place]
            while len(ends) <= most:
                self.steps += 1
                after = next(self.sequence(nodes, 0, ends[-1], fold), None)
                if after is None or after == ends[-1]:
                    break
                ends.append(after)
            if len(ends) > least:
                yield ends[-1]
            return
        yield from self.rounds(op, least, most, nodes, place, 0, fold)

    def rounds(
        self, op: str, least: int, most: int, nodes: list[Any], place: int, done: int, fold: bool
    ) -> Iterator[int]:
        self.steps += 1
        if op == "MIN_REPEAT" and done >= least:
            yield place
        if done < most:
            for end in self.sequence(nodes, 0, place, fold):
                if end > place or done < least:
                    yield from self.rounds(op, least, most, nodes, end, done + 1, fold)
        if op == "MAX_REPEAT" and done >= least:
            yield place

    def looks(self, value: Any, place: int, fold: bool) -> bool:
        direction, body = value
        if direction < 0:
            place -= body.getwidth()[0]
            if place < 0:
                return False
        return next(self.sequence(list(body), 0, place, fold), None) is not None

    def at(self, name: str, place: int) -> bool:
        def word(i: int) -> bool:
            return 0 <= i < len(self.text) and (self.text[i].isalnum() or self.text[i] == "_")

        if name == "AT_END_STRING":
            return place == len(self.text)
        return (word(place - 1) != word(place)) == (name == "AT_BOUNDARY")
