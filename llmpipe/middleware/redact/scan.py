"""Finding what is to be hidden in a text, and masking it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, lru_cache

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.redact import hints
from llmpipe.middleware.redact.detector import Detector, custom
from llmpipe.middleware.redact.linear import narrowed
from llmpipe.middleware.redact.patterns import BUILT_IN
from llmpipe.middleware.redact.suspicion import Hinted, by_beginning, passed
from llmpipe.middleware.redact.view import View

__all__ = ("Finding", "KINDS", "Label", "Scanner", "counts", "kinds_of", "label")

KINDS: tuple[str, ...] = tuple(BUILT_IN)
"""The kinds looked for by default."""

Label = Callable[[str, str], str]
"""What to write in the place of a finding, from its kind and its text."""

Span = tuple[int, int, str]
_FEW = 3  # refused matches in a row, up to which it is cheaper to try the next than to skip


@frozen
class Finding:
    """Something of `kind` at `start` up to `end`, counted in characters of the original text."""

    kind: str
    start: int
    end: int


def label(kind: str, value: str) -> str:
    """``[EMAIL]`` and the like: says what was there and nothing of it."""
    return f"[{kind.upper()}]"


def counts(findings: Iterable[Finding]) -> Mapping[str, int]:
    """How many findings of each kind."""
    return Counter(finding.kind for finding in findings)


def kinds_of(value: Iterable[str]) -> tuple[str, ...]:
    """Kinds as a tuple. Raises ConfigError for a single one that is not in a list."""
    if isinstance(value, str):
        raise ConfigError(f"kinds is a list, such as [{value!r}]")
    return tuple(value)


def _pairs(patterns: Iterable[Iterable[str]]) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(pair) if not isinstance(pair, str) else (pair,) for pair in patterns]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(item, str) for item in pair):
            raise ConfigError(f"a pattern of your own is (kind, regular expression), not {pair!r}")
    return tuple([(kind, pattern) for kind, pattern in pairs])


@frozen
class Scanner:
    """Looks for `kinds`, and for `patterns` of one's own as (kind, regular expression).

    Raises: ConfigError for a kind it does not know, and for a pattern that is not right: see `custom`.
    """

    kinds: tuple[str, ...] = field(default=KINDS, converter=kinds_of)
    patterns: tuple[tuple[str, str], ...] = field(default=(), converter=_pairs)
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
        own = tuple(custom(kind, pattern) for kind, pattern in self.patterns)
        object.__setattr__(self, "detectors", (*built_in, *own))
        object.__setattr__(self, "_own", own)
        object.__setattr__(self, "_hinted", _hinted(tuple(built_in)))

    def scan(self, text: str) -> tuple[Finding, ...]:
        """What is in `text`, in order, without overlaps.

        Where findings overlap, the one that starts first stands (of two, the longer), and the other
        is what is left of it, so that no character of either is missed; of one kind they are one.
        """
        if text.isascii():
            suspects = self.suspects(text)
            spans = self._spans(suspects, text) if suspects else ()
            return tuple([Finding(kind, start, end) for start, end, kind in _joined(spans)]) if spans else ()
        view = View()
        view.feed(text)
        joined = _joined(self.spans(view.text))
        return tuple([Finding(kind, view.start(start), view.end(end)) for start, end, kind in joined])

    def mask(self, text: str, label: Label = label) -> str:
        """`text` with a label for each finding; the same object if there is none."""
        findings = self.scan(text)
        if not findings:
            return text
        pieces: list[str] = []
        done = 0
        for finding in findings:
            pieces += (text[done : finding.start], label(finding.kind, text[finding.start : finding.end]))
            done = finding.end
        return "".join([*pieces, text[done:]])

    # ------------------------------------------------------------ on the view of a text

    def suspects(self, seen: str) -> list[Detector]:
        """The detectors that may find something in `seen`, or in a part of it."""
        hinted = self._hinted
        found = list(self._own)
        if hints.spelled(seen):
            found += passed(hinted.lettered, seen)
        signs = hints.signs(seen)
        if signs:
            digits = hints.digits_of(signs)
            if len(digits) < len(signs):
                found += passed(hinted.signed, seen)
            if digits:
                for probe in hinted.probes:
                    found += probe.passed(seen, digits)
        return found

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
        suspects: Iterable[Detector],
        seen: str,
        start: int = 0,
        limit: int | None = None,
        resume: dict[Detector, int] | None = None,
    ) -> list[Span]:
        found: list[tuple[int, int, int, str]] = []
        if limit is None:
            limit = len(seen)
        for detector in suspects:
            search, check = detector.regex.search, detector.check
            place = start if resume is None else resume.pop(detector, start)
            left, refused = None, 0
            while (match := search(seen, place)) is not None:
                here = match.start()
                if here >= limit:
                    break
                span = match.span() if check is None else check(match)
                if span is None:
                    place = here + 1
                    refused += 1
                    if detector.skip is not None and refused > _FEW:  # what is behind `limit` may change
                        place = max(place, min(limit, detector.skip(seen, here)))
                elif span[0] >= limit:  # what is found begins later than its match; another's may come before
                    left = here
                    break
                else:
                    place, refused = span[1], 0
                    found.append((span[0], -span[1], self._rank[detector], detector.kind))
            if resume is not None and (left is not None or place > limit):
                resume[detector] = place if left is None else left
        return _standing(found) if found else []

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


# Of built-in detectors, which are the same for every scanner: one is made anew where a call changes settings.
@lru_cache(maxsize=64)
def _hinted(detectors: tuple[Detector, ...]) -> Hinted:
    return Hinted.of(detectors)


@lru_cache(maxsize=64)
def _dull(detectors: tuple[Detector, ...]) -> re.Pattern[str]:
    unsure = [narrowed(detector.shape.unsure, hints.DULL) for detector in detectors]
    return re.compile(by_beginning([way for ways in unsure for way in ways]))


def _standing(found: list[tuple[int, int, int, str]]) -> list[Span]:
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
