"""Which detectors can find something in a text: asked of every text, so that few of them need look.

A question that is answered with no is a proof. Where a text has one finding, it is answered with yes;
and where it is answered with yes of a part of a text, it is of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from attrs import frozen

from llmpipe.middleware.redact import hints
from llmpipe.middleware.redact.detector import Detector
from llmpipe.middleware.redact.hints import NUMERIC, is_dense
from llmpipe.middleware.redact.linear import reach

__all__ = ("Hinted", "Probe", "by_beginning", "passed")

Hint = Callable[[str], bool]
Groups = tuple[tuple[Hint | None, tuple[Detector, ...]], ...]
"""Detectors that share a hint."""

_BESIDE = 8  # characters from a digit on that what it looks like may depend on
_HEAD = re.compile(r"\[[^\]]+\]|\\.|.")  # what a pattern begins with: a class of characters, or one
_NOT_AFTER_A_DIGIT = "(?<![0-9"


@frozen
class Probe:
    """One search in the place of many, for detectors that need digits.

    Only round the digits of a text: so far `before` the first of them a match may begin, and from
    its beginning on it depends on `after` characters at most. `number` is what a digit in a match
    looks like where it stands, and found sooner.
    """

    number: re.Pattern[str] | None
    regex: re.Pattern[str]
    before: int
    after: int
    groups: Groups

    def finds(self, seen: str, first: int, last: int) -> bool:
        """Whether there is one in `seen`, which has its first digit at `first` and its last at `last`."""
        if self.number is not None and self.number.search(seen, first, last + _BESIDE) is None:
            return False
        start = first - self.before if first > self.before else 0
        return self.regex.search(seen, start, last + self.after) is not None


@frozen
class Hinted:
    """Detectors by what is asked before they look.

    Attributes:
        lettered: hints, though the text has letters only.
        signed: hints, where the text has a sign.
        probes: whether they would find something, where the text has a digit.
    """

    lettered: Groups
    signed: Groups
    probes: tuple[Probe, ...]

    @classmethod
    def of(cls, detectors: Iterable[Detector]) -> Hinted:
        """What is asked for these detectors."""
        lettered: list[Detector] = []
        signed: list[Detector] = []
        numbers: list[Detector] = []
        others: list[Detector] = []
        for detector in detectors:
            if detector.digits:
                # One digit is in most texts, and where it stands says little: so no search for many.
                numeric = detector.digits > 1 or _is_numeric(detector.pattern)
                (numbers if numeric else others).append(detector)
            else:
                (lettered if detector.lettered else signed).append(detector)
        probes = [_together(numbers)] if numbers else []
        probes += [_alone(detector) for detector in others]
        return cls(_groups(lettered), _groups(signed), tuple(probes))

    def suspected(self, seen: str) -> list[Detector]:
        """Those that may find something in `seen`, or in a part of it."""
        found: list[Detector] = []
        if hints.spelled(seen):
            found += passed(self.lettered, seen)
        signs = hints.signs(seen)
        if signs:
            digits = hints.digits_of(signs)
            if len(digits) < len(signs):
                found += passed(self.signed, seen)
            if digits:
                found += self._numbered(seen, digits)
        return found

    def _numbered(self, seen: str, digits: str) -> list[Detector]:
        """Those that may find something in `seen` because of its `digits`."""
        count = len(digits)
        if is_dense(count, len(seen)):  # a search would take longer than to sieve it
            groups = [group for probe in self.probes for group in probe.groups]
            return [detector for _, those in groups for detector in those if detector.digits <= count]
        first, last = seen.find(digits[0]), seen.rfind(digits[-1])
        found: list[Detector] = []
        for probe in self.probes:
            if probe.finds(seen, first, last):
                found += [each for each in passed(probe.groups, seen) if each.digits <= count]
        return found


def passed(groups: Groups, seen: str) -> list[Detector]:
    """The detectors whose hints say yes to `seen`."""
    found: list[Detector] = []
    for hint, detectors in groups:
        if hint is None or hint(seen):
            found += detectors
    return found


_WORD_BEGINS = re.compile(r"(\[[^\]]+\])(?=\(\?<!\[(?=[^\]]*A-Z)(?=[^\]]*a-z)(?=[^\]]*0-9)[^\]]*\]\.\))")


def by_beginning(patterns: Iterable[str]) -> str:
    """A pattern for all of `patterns`; what matches where a word begins is tried there only."""
    words, others = [], []
    for pattern in dict.fromkeys(patterns):
        head = _WORD_BEGINS.match(pattern)
        if head is None:
            others.append(pattern)
        else:
            words.append(f"(?<={head[1]}){pattern[head.end() :]}")
    if words:
        others.insert(0, f"[A-Za-z0-9](?<![A-Za-z0-9].)(?:{'|'.join(words)})")
    return "|".join(others) or "(?!)"


def _groups(detectors: Iterable[Detector]) -> Groups:
    by_hint: dict[Hint | None, list[Detector]] = {}
    for detector in detectors:
        by_hint.setdefault(detector.hint, []).append(detector)
    return tuple([(hint, tuple(those)) for hint, those in by_hint.items()])


def _is_numeric(pattern: str) -> bool:
    """Whether all it matches begins with what a number begins with."""
    first = re.compile(_head(pattern))
    return all(chr(code) in NUMERIC for code in range(128) if first.match(chr(code)))


def _head(pattern: str) -> str:
    head = _HEAD.match(pattern)
    assert head is not None, "a pattern is not empty"
    return head.group()


def _alone(detector: Detector) -> Probe:
    """A probe for a detector by itself."""
    number = None if detector.probe is None else re.compile(detector.probe)
    return Probe(number, detector.regex, detector.reach, detector.reach, _groups([detector]))


def _together(detectors: list[Detector]) -> Probe:
    """A probe for many, whose patterns or probes begin with what a number begins with."""
    near: list[str] = []
    far: list[str] = []
    inside: list[str] = []
    patterns = [detector.pattern if detector.probe is None else detector.probe for detector in detectors]
    for detector, pattern in zip(detectors, patterns, strict=True):
        head = _head(pattern)
        way = f"(?<={head}){pattern[len(head) :]}"
        if _NOT_AFTER_A_DIGIT not in pattern:
            inside.append(way)
        else:
            (near if detector.digits >= 7 else far).append(way)
    # Of a number only the first digit is tried, and of one with few digits few patterns.
    close = rf"(?=(?:[ .\-/()]{{0,3}}+[0-9]){{6}})(?:{'|'.join(near)})" if near else "(?!)"
    ways = "|".join([f"(?<![0-9].)(?:{'|'.join([close, *far])})", *inside])
    # `re` skips at three nanoseconds a character to where the class at the beginning fits.
    regex = re.compile(f"[{re.escape(''.join(sorted(NUMERIC)))}](?:{ways})")
    return Probe(None, regex, 1, max(map(reach, patterns)), _groups(detectors))
