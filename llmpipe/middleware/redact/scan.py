"""Finding what is to be hidden in a text, and masking it."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache, partial
from itertools import accumulate

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.redact import hints
from llmpipe.middleware.redact.base64 import in_base64
from llmpipe.middleware.redact.detector import Detector, custom
from llmpipe.middleware.redact.escapes import EncodedJSONView, EncodedView, JSONView, is_encoded
from llmpipe.middleware.redact.finder import Finder, Finding
from llmpipe.middleware.redact.linear import narrowed
from llmpipe.middleware.redact.patterns import BUILT_IN
from llmpipe.middleware.redact.reading import Reading
from llmpipe.middleware.redact.sieve import Beginnings, sieved
from llmpipe.middleware.redact.suspicion import Hinted, by_beginning
from llmpipe.middleware.redact.view import View

__all__ = ("Finding", "KINDS", "Label", "Scanner", "counts", "cover", "finders_of", "kinds_of", "label")

KINDS: tuple[str, ...] = tuple(BUILT_IN)
"""The kinds looked for by default."""

Label = Callable[[str, str], str]
"""What to write in the place of a finding, from its kind and its text."""

Span = tuple[int, int, str]
Found = tuple[int, int, int, str]  # where it starts, minus where it ends, the rank of its detector, its kind
_FEW = 3  # refused matches in a row, after which the rest of a text is sieved
# Characters of which that is dearer than to search, and of which for numbers in rows.
_SHORT, _SHORTER = 512, 64
_NEAR = 32  # times as long as to search a place of a text does it take to try whether there is a match


def label(kind: str, value: str) -> str:
    """``[EMAIL]`` and the like: says what was there and nothing of it."""
    return f"[{kind.upper()}]"


def cover(text: str, findings: Iterable[Finding], label: Label = label) -> str:
    """`text` with a label in the place of each finding."""
    pieces: list[str] = []
    done = 0
    for finding in findings:
        pieces += (text[done : finding.start], label(finding.kind, text[finding.start : finding.end]))
        done = finding.end
    return "".join([*pieces, text[done:]])


def _within(findings: Iterable[Finding], start: int, end: int) -> tuple[Finding, ...]:
    """What of findings lies between `start` and `end`, counted from `start`."""
    return tuple(
        [
            Finding(f.kind, max(f.start, start) - start, min(f.end, end) - start)
            for f in findings
            if f.end > start and f.start < end
        ]
    )


def counts(findings: Iterable[Finding]) -> Mapping[str, int]:
    """How many findings of each kind."""
    return Counter(finding.kind for finding in findings)


def kinds_of(value: Iterable[str]) -> tuple[str, ...]:
    """Kinds as a tuple. Raises ConfigError for a single one that is not in a list."""
    if isinstance(value, str):
        raise ConfigError(f"kinds is a list, such as [{value!r}]")
    return tuple(value)


def finders_of(value: Iterable[Finder]) -> tuple[Finder, ...]:
    """Finders as a tuple. Raises ConfigError for what is none."""
    finders = tuple(value)
    for finder in finders:
        if not isinstance(finder, Finder):
            raise ConfigError(f"a finder has find(text) and thread_above; {finder!r} has not")
    return finders


def _pairs(patterns: Iterable[Iterable[str]]) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(pair) if not isinstance(pair, str) else (pair,) for pair in patterns]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(item, str) for item in pair):
            raise ConfigError(f"a pattern of your own is (kind, regular expression), not {pair!r}")
    return tuple([(kind, pattern) for kind, pattern in pairs])


@frozen
class Scanner:
    """Looks for `kinds`, for `patterns` of one's own as (kind, regular expression), and asks `finders`.

    With `base64` what is written in it is looked for too, of `kinds`.

    Raises: ConfigError for a kind it does not know, and for a pattern that is not right: see `custom`.
    """

    kinds: tuple[str, ...] = field(default=KINDS, converter=kinds_of)
    patterns: tuple[tuple[str, str], ...] = field(default=(), converter=_pairs)
    finders: tuple[Finder, ...] = field(default=(), converter=finders_of)
    base64: bool = True
    detectors: tuple[Detector, ...] = field(init=False, repr=False, eq=False)
    _own: tuple[Detector, ...] = field(init=False, repr=False, eq=False)
    _hinted: Hinted = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in BUILT_IN]
        if unknown:
            raise ConfigError(
                f"unknown kind {', '.join(map(repr, unknown))}; known: {', '.join(KINDS)}. "
                f"For one of your own give patterns=[(kind, regular expression)]"
            )
        built_in = [detector for kind in dict.fromkeys(self.kinds) for detector in BUILT_IN[kind]]
        if built_in and self.base64:
            built_in += _in_base64(tuple(dict.fromkeys(self.kinds)))
        own = tuple(custom(kind, pattern) for kind, pattern in self.patterns)
        object.__setattr__(self, "detectors", (*built_in, *own))
        object.__setattr__(self, "_own", own)
        object.__setattr__(self, "_hinted", _hinted(tuple(built_in)))

    def scan(self, text: str, key: str = "", *, json: bool = False) -> tuple[Finding, ...]:
        """What is in `text`, in order, without overlaps.

        Where findings overlap, the one that starts first stands (of two, the longer), and the other
        is what is left of it, so that no character of either is missed; of one kind they are one.

        Args:
            key: what `text` is called, as the value of a field: a ``password`` is one whatever it is.
            json: it is JSON, whose escapes are read.
        """
        if not key and not json and not self.finders and text.isascii() and not is_encoded(text):
            return self._plain(text)
        if key and hints.telling(key):
            before = f'"{key}": "'
            found = self.scan(f'{before}{text}"', json=json)
            return _within(found, len(before), len(before) + len(text))
        if self.finders and not json:
            more = [
                (found.start, -found.end, rank, found.kind)
                for rank, finder in enumerate(self.finders, 2)
                for found in finder.find(text)
            ]
            return self._scan(text, more, json=json)
        return self._scan(text, [], json=json)

    def _scan(self, text: str, more: list[Found], *, json: bool) -> tuple[Finding, ...]:
        """What is in `text`, and `more` that was found in it."""
        encoded = is_encoded(text)
        if text.isascii() and not more and not encoded and not (json and "\\" in text):
            return self._plain(text)
        found = more + self._seen_by(JSONView if json else View, text, 0)
        if encoded:
            found += self._seen_by(EncodedJSONView if json else EncodedView, text, 1)
        if not found:
            return ()
        return tuple([Finding(kind, start, end) for start, end, kind in _joined(_standing(found))])

    def sees_json(self, text: str) -> bool:
        """Whether there is anything in a JSON text, as it stands and as its escapes are read."""
        return bool(self._seen_by(JSONView, text, 0)) or (
            is_encoded(text) and bool(self._seen_by(EncodedJSONView, text, 1))
        )

    def _plain(self, text: str) -> tuple[Finding, ...]:
        """What is in a text that is seen as it stands."""
        suspects = self.suspects(text)
        spans = self._spans(suspects, text) if suspects else ()
        return tuple([Finding(kind, start, end) for start, end, kind in _joined(spans)]) if spans else ()

    def _seen_by(self, view: type[View], text: str, rank: int) -> list[Found]:
        """What is found in `text` as `view` has it."""
        seen = Reading(text, view)
        spans = self.spans(seen.text)
        return [(seen.start(start), -seen.end(end), rank, kind) for start, end, kind in spans]

    def mask(self, text: str, label: Label = label, key: str = "") -> str:
        """`text` with a label for each finding; the same object if there is none."""
        findings = self.scan(text, key)
        return cover(text, findings, label) if findings else text

    def mask_adjacent(self, texts: list[str], label: Label = label) -> list[str]:
        """Texts that are read as one, with a label for each piece of what reaches from one into another."""
        ends = list(accumulate(map(len, texts)))
        reaching: list[list[Finding]] = [[] for _ in texts]
        for finding in self.scan("".join(texts)):
            first, last = bisect_right(ends, finding.start), bisect_left(ends, finding.end)
            if first == last:
                continue
            for number in range(first, last + 1):
                begin = ends[number] - len(texts[number])
                reaching[number] += _within((finding,), begin, ends[number])
        return [
            cover(text, found, label) if found else text for text, found in zip(texts, reaching, strict=True)
        ]

    # ------------------------------------------------------------ on the view of a text

    def suspects(self, seen: str) -> list[Detector]:
        """The detectors that may find something in `seen`, or in a part of it."""
        suspected = self._hinted.suspected(seen)
        return [*self._own, *suspected] if self._own else suspected

    def spans(
        self, seen: str, start: int = 0, limit: int | None = None, resume: dict[Detector, int] | None = None
    ) -> list[Span]:
        """The findings that start from `start` and before `limit`: (start, end, kind), in order of both.

        They may overlap.

        `resume` has the detectors that go on from elsewhere than `start`, and is changed to where
        they go on from next time: behind `limit`, or before it where a match was left for then.
        """
        suspects = self.suspects(seen)
        return self._spans(suspects, seen, start, limit, resume) if suspects else []

    def _spans(
        self,
        suspects: list[Detector],
        seen: str,
        start: int = 0,
        limit: int | None = None,
        resume: dict[Detector, int] | None = None,
    ) -> list[Span]:
        found: list[Found] = []
        if limit is None:
            limit = len(seen)
        if resume is None:  # else one that is left out would never go on
            suspects = [each for each in suspects if each.instead is None or each.instead not in suspects]
        hard: list[tuple[Detector, int]] = []
        beginnings = Beginnings(seen, start, limit) if limit - start >= hints.LONG else None
        is_near = (limit - start) * _NEAR < len(seen) - limit
        for detector in suspects:
            search, check = detector.regex.search, detector.check
            if is_near:
                search = partial(_match_before, limit, detector.regex)
            place = start if resume is None else resume.pop(detector, start)
            left, refused = None, 0
            is_slow = is_nowhere = False
            if beginnings is not None:
                count = beginnings.count(detector)
                is_slow, is_nowhere = beginnings.dense(detector, count), not count
            while not (is_slow or is_nowhere) and (match := search(seen, place)) is not None:
                here = match.start()
                if here >= limit:
                    break
                span = match.span() if check is None else check(match)
                if span is None:
                    place = here + 1
                    refused += 1
                    is_slow = refused > _FEW and limit - place > (
                        _SHORT if detector.places is None else _SHORTER
                    )
                elif span[0] >= limit:  # what is found begins later than its match; another's may come before
                    left = here
                    break
                else:
                    place, refused = span[1], 0
                    kind = detector.kind if len(span) == 2 else span[2]
                    found.append((span[0], -span[1], self._rank[detector], kind))
            if is_slow:
                hard.append((detector, place))
            elif resume is not None and (left is not None or place > limit):
                resume[detector] = place if left is None else left
        if hard:
            self._sift(hard, seen, limit, resume, found)
        return _standing(found) if found else []

    def _sift(
        self,
        hard: list[tuple[Detector, int]],
        seen: str,
        limit: int,
        resume: dict[Detector, int] | None,
        found: list[Found],
    ) -> None:
        """The same as a search with `re` would find, added to `found`."""
        places, left = dict(hard), dict[Detector, int]()
        for detector, heres in sieved(seen, limit, self._reach, hard):
            match_at, check, place = detector.regex.match, detector.check, places[detector]
            rank = self._rank[detector]
            for here in heres:
                if here < place or (match := match_at(seen, here)) is None:
                    continue
                span = match.span() if check is None else check(match)
                if span is None:
                    continue
                if span[0] >= limit:
                    left.setdefault(detector, here)
                    break
                place = span[1]
                kind = detector.kind if len(span) == 2 else span[2]
                found.append((span[0], -span[1], rank, kind))
            places[detector] = place
        if resume is not None:
            for detector, place in places.items():
                if detector in left or place > limit:
                    resume[detector] = left.get(detector, place)

    def unsure(self, seen: str, start: int) -> int:
        """From where on `seen` cannot be judged before more of it is known; its length, if all can."""
        start = max(start, len(seen) - self.max_width)
        every, wordy = self._unsure
        match = (every if hints.numeric(seen) else wordy).search(seen, start)
        return len(seen) if match is None else match.start()

    @cached_property
    def dull(self) -> re.Pattern[str] | None:
        """What is unsure in texts of `hints.DULL` in which nothing is `hints.spelled`.

        They have no finding. None for a scanner of which that is not known: with patterns of one's own.
        """
        return None if self._own else _dull(self.detectors)

    @cached_property
    def max_width(self) -> int:
        """Characters the longest finding can have: no more than that of a stream is ever held back."""
        return max([detector.shape.max_width for detector in self.detectors], default=0)

    @cached_property
    def _reach(self) -> int:
        return max([detector.reach for detector in self.detectors], default=0)

    @cached_property
    def _rank(self) -> Mapping[Detector, int]:
        return {detector: rank for rank, detector in enumerate(self.detectors)}

    @cached_property
    def _unsure(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """What is unsure of all detectors, and of those that can begin otherwise than a number does."""
        shapes = [detector.shape for detector in self.detectors]
        every = [shape.unsure for shape in shapes]
        wordy = [shape.unsure for shape in shapes if shape.first is None or not shape.first <= hints.NUMERIC]
        return re.compile("|".join(every) or "(?!)"), re.compile("|".join(wordy) or "(?!)")

    def compile(self, *, streams: bool) -> None:
        """Compile all patterns now (20 ms; for streams 70 more), rather than at the first text."""
        for detector in self.detectors:
            detector.regex  # noqa: B018  a cached property
        if streams:
            self._unsure, self.dull  # noqa: B018  and two


def _match_before(limit: int, regex: re.Pattern[str], seen: str, place: int) -> re.Match[str] | None:
    """The first match from `place` that starts before `limit`. A search would try what starts later too."""
    for here in range(place, limit):
        match = regex.match(seen, here)
        if match is not None:
            return match
    return None


# Of built-in detectors, which are the same for every scanner: one is made anew where a call changes settings.
@lru_cache(maxsize=64)
def _hinted(detectors: tuple[Detector, ...]) -> Hinted:
    return Hinted.of(detectors)


@lru_cache(maxsize=64)
def _in_base64(kinds: tuple[str, ...]) -> tuple[Detector, ...]:
    return in_base64(Scanner(kinds, base64=False).spans)


@lru_cache(maxsize=64)
def _dull(detectors: tuple[Detector, ...]) -> re.Pattern[str]:
    unsure = [narrowed(detector.shape.unsure, hints.DULL) for detector in detectors]
    return re.compile(by_beginning([way for ways in unsure for way in ways]))


def _standing(found: list[Found]) -> list[Span]:
    """Of findings (start, minus end, rank, kind): those that do not lie in the ones before, by start."""
    found.sort()
    spans: list[Span] = []
    done = -1
    for start, minus_end, _, kind in found:
        if -minus_end > done:
            done = -minus_end
            spans.append((start, done, kind))
    return spans


def _joined(spans: list[Span]) -> list[Span]:
    """Spans cut where they overlap; those of one kind joined."""
    joined: list[Span] = []
    done = -1
    for start, end, kind in spans:
        if start < done and joined[-1][2] == kind:
            joined[-1] = (joined[-1][0], end, kind)
        else:
            joined.append((max(start, done), end, kind))
        done = end
    return joined
