"""Finding what is to be hidden in a text, and masking it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from json import dumps

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.redact import hints
from llmpipe.middleware.redact.checks import CONTEXT
from llmpipe.middleware.redact.patterns import BUILT_IN, Detector, custom
from llmpipe.middleware.redact.view import JSONView, View, unescape

__all__ = ("KINDS", "Finding", "Label", "Masking", "Scanner", "counts", "label")

KINDS: tuple[str, ...] = tuple(BUILT_IN)
"""The kinds looked for by default."""

Label = Callable[[str, str], str]
"""What to write in the place of a finding, from its kind and its text."""

Span = tuple[int, int, str]
_Group = tuple[int, Callable[[str], bool] | None, tuple[Detector, ...]]
"""Detectors that share a hint, and the digits that the least demanding of them needs."""


@frozen
class Finding:
    """Something of `kind` at `start` up to `end`, counted in characters of the original text."""

    kind: str
    start: int
    end: int


def label(kind: str, value: str) -> str:  # noqa: ARG001  a `Label`
    """``[EMAIL]`` and the like: says what was there and nothing of it."""
    return f"[{kind.upper()}]"


def counts(findings: Iterable[Finding]) -> Mapping[str, int]:
    """How many findings of each kind."""
    return Counter(finding.kind for finding in findings)


@frozen
class Scanner:
    """Looks for `kinds`, and for `patterns` of one's own as (kind, regular expression).

    Raises: ConfigError for a kind it does not know, and for a pattern that is not right: see `custom`.
    """

    kinds: tuple[str, ...] = field(default=KINDS, converter=tuple)
    patterns: tuple[tuple[str, str], ...] = field(default=(), converter=lambda value: tuple(map(tuple, value)))
    detectors: tuple[Detector, ...] = field(init=False, repr=False, eq=False)
    _groups: tuple[_Group, ...] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in BUILT_IN]
        if unknown:
            raise ConfigError(
                f"unknown kind {', '.join(map(repr, unknown))}; known: {', '.join(KINDS)}. "
                f"For one of your own give patterns=[(kind, regular expression)]"
            )
        built_in = [detector for kind in dict.fromkeys(self.kinds) for detector in BUILT_IN[kind]]
        own = tuple(custom(kind, pattern) for kind, pattern in self.patterns)
        groups: dict[Callable[[str], bool] | None, list[Detector]] = {}
        for detector in (*built_in, *own):
            groups.setdefault(detector.hint, []).append(detector)
        object.__setattr__(self, "detectors", (*built_in, *own))
        object.__setattr__(
            self,
            "_groups",
            tuple((min([d.digits for d in those]), hint, tuple(those)) for hint, those in groups.items()),
        )

    def scan(self, text: str) -> tuple[Finding, ...]:
        """What is in `text`, in order, without overlaps.

        Where findings overlap, the one that starts first stands (of two, the longer), and the other
        is what is left of it, so that no character of either is missed; of one kind they are one.
        """
        if text.isascii():
            spans = self.spans(text)
            return tuple([Finding(kind, start, end) for start, end, kind in spans]) if spans else ()
        view = View()
        view.feed(text)
        return tuple([Finding(kind, view.start(s), view.end(e)) for s, e, kind in self.spans(view.text)])

    def mask(self, text: str, label: Label = label) -> str:
        """`text` with a label for each finding; the same object if there is none."""
        findings = self.scan(text)
        if not findings:
            return text
        pieces, done = [], 0
        for finding in findings:
            pieces += (text[done : finding.start], label(finding.kind, text[finding.start : finding.end]))
            done = finding.end
        return "".join([*pieces, text[done:]])

    def mask_json(self, text: str, label: Label = label) -> str:
        """Like `mask` for a JSON text, whole or not: what it finds escaped is found, and it stays JSON."""
        masking = Masking(self, label, json=True)
        masked = masking.feed(text) + masking.flush()
        return text if masked == text else masked

    # ------------------------------------------------------------ on the view of a text

    def suspects(self, seen: str) -> list[Detector]:
        """The detectors that may find something in `seen`."""
        digits = hints.digits(seen)
        found: list[Detector] = []
        for least, hint, detectors in self._groups:
            if least <= digits and (hint is None or hint(seen)):
                found += [detector for detector in detectors if detector.digits <= digits]
        return found

    def spans(
        self, seen: str, start: int = 0, limit: int | None = None, resume: dict[Detector, int] | None = None
    ) -> list[Span]:
        """The findings that start from `start` and before `limit`: (start, end, kind), not overlapping.

        `resume` has the detectors that go on from elsewhere than `start`, and is changed to where
        they go on from next time: behind `limit`, or before it where a match was left for then.
        """
        found: list[tuple[int, int, int, str]] = []
        if limit is None:
            limit = len(seen)
        for detector in self.suspects(seen):
            search, check = detector.regex.search, detector.check
            place = start if resume is None else resume.pop(detector, start)
            left = None
            while (match := search(seen, place)) is not None:
                here = match.start()
                if here >= limit:
                    break
                span = match.span() if check is None else check(match)
                if span is None:
                    place = here + 1
                elif span[0] >= limit:  # what is found begins later than its match; another's may come before
                    left = here
                    break
                else:
                    place = span[1]
                    found.append((span[0], -span[1], self._rank[detector], detector.kind))
            if resume is not None and (left is not None or place > limit):
                resume[detector] = place if left is None else left
        return _apart(found) if found else []

    def unsure(self, seen: str, start: int) -> int:
        """From where on `seen` cannot be judged before more of it is known; its length, if all can."""
        match = self._unsure.search(seen, max(start, len(seen) - self.max_width))
        return len(seen) if match is None else match.start()

    @cached_property
    def max_width(self) -> int:
        """Characters the longest finding can have: no more than that of a stream is ever held back."""
        return max([detector.shape.max_width for detector in self.detectors], default=0)

    @cached_property
    def _rank(self) -> Mapping[Detector, int]:
        return {detector: rank for rank, detector in enumerate(self.detectors)}

    @cached_property
    def _unsure(self) -> re.Pattern[str]:
        parts = [detector.shape.unsure for detector in self.detectors]
        return re.compile("|".join(dict.fromkeys(parts)) or "(?!)")


def _apart(found: list[tuple[int, int, int, str]]) -> list[Span]:
    """Of findings (start, minus end, rank, kind): those that stand, cut where they overlap."""
    found.sort()
    spans: list[Span] = []
    done = -1
    for start, minus_end, _, kind in found:
        end = -minus_end
        if end <= done:
            continue
        if start < done and spans[-1][2] == kind:
            spans[-1] = (spans[-1][0], end, kind)
        else:
            spans.append((max(start, done), end, kind))
        done = end
    return spans


class Masking:
    """Masks a text that comes in pieces: what comes out is what masking the whole text gives.

    Holds back from the first place where more text could still change what is found, and no more.

    Args:
        json: the text is JSON, whose escapes are read and whose form is kept.
    """

    __slots__ = ("_front", "_last", "_let_out", "_resume", "_scanned", "_scanner", "_view", "_writer", "found")

    def __init__(self, scanner: Scanner, label: Label = label, *, json: bool = False) -> None:
        self._scanner = scanner
        self._view: View = JSONView() if json else View()
        self._writer = _JSONWriter(label) if json else _Writer(label)
        self._scanned = 0  # in the view: all before this is judged
        self._front = 0  # in the view: all before this is out; a finding can take it beyond `_scanned`
        self._let_out = 0  # the same in the original text
        self._resume: dict[Detector, int] = {}
        self._last = ""  # the kind of the finding that was let out last, if nothing came after it
        self.found: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Characters of the original text that are held back."""
        return len(self._view.raw) - self._let_out

    def feed(self, piece: str) -> str:
        """What can be let out now that `piece` has come."""
        view = self._view
        view.feed(piece)
        return self._advance(self._scanner.unsure(view.text, self._scanned))

    def flush(self) -> str:
        """The rest: nothing more will come."""
        self._view.finish()
        return self._advance(len(self._view.text))

    def release(self) -> str:
        """Let out what is held, though more may come. If it does, the rest of a finding is masked."""
        view = self._view
        self._front, until = len(view.text), view.start(len(view.text))
        out = self._writer.plain(view.raw[self._let_out : until])
        self._let_out, self._last = until, ""
        return out

    def _advance(self, until: int) -> str:
        """Judge the view up to `until`, let it out, and forget what nothing depends on any more."""
        view, writer, resume = self._view, self._writer, self._resume
        out: list[str] = []
        for start, end, kind in self._scanner.spans(view.text, self._scanned, until, resume):
            if end > self._front:
                begin, stop = view.start(max(start, self._front)), view.end(end)
                begin = max(begin, self._let_out)
                if start >= self._front or kind != self._last:  # else it is the rest of the one before
                    out.append(writer.plain(view.raw[self._let_out : begin]))
                    out.append(writer.cover(kind, view.raw[begin:stop]))
                    self.found[kind] += 1
                self._front, self._let_out, self._last = end, stop, kind
        stop = view.start(until)
        if stop > self._let_out:
            self._last = ""
            out.append(writer.plain(view.raw[self._let_out : stop]))
            self._let_out = stop
        self._front = max(self._front, until)
        self._scanned = until
        keep = min(until, *resume.values()) - CONTEXT if resume else until - CONTEXT
        if keep > 0:
            cut = view.start(keep)
            view.drop(keep)
            self._let_out -= cut
            self._front -= keep
            self._scanned -= keep
            for detector in resume:
                resume[detector] -= keep
        return "".join(out)


class _Writer:
    """Writes plain text."""

    __slots__ = ("_label",)

    def __init__(self, label: Label) -> None:
        self._label = label

    def plain(self, raw: str) -> str:
        return raw

    def cover(self, kind: str, raw: str) -> str:
        return self._label(kind, raw)


_STRUCTURE = re.compile(r'\\.|"', re.DOTALL)


class _JSONWriter(_Writer):
    """Writes JSON: a label inside a string is escaped, one in the place of a number becomes a string."""

    __slots__ = ("_minus", "_quoted")

    def __init__(self, label: Label) -> None:
        super().__init__(label)
        self._quoted = False
        self._minus = False

    def plain(self, raw: str) -> str:
        if raw:
            self._minus = raw[-1] == "-"
        if '"' in raw:
            for token in _STRUCTURE.findall(raw):
                if token == '"':
                    self._quoted = not self._quoted
        return raw

    def cover(self, kind: str, raw: str) -> str:
        quotes = [match.start() for match in _STRUCTURE.finditer(raw) if match.group() == '"']
        if not quotes:
            text = dumps(self._label(kind, unescape(raw)))
            if self._quoted:
                return text[1:-1]
            return "0" if self._minus else text  # after the sign of a number only a number is JSON
        # It reaches over the end of a string: of each string its part is covered, what is between stays.
        out, done = [], 0
        for place in (*quotes, len(raw)):
            part = raw[done:place]
            out.append(dumps(self._label(kind, unescape(part)))[1:-1] if part and self._quoted else part)
            if place < len(raw):
                out.append('"')
                self._quoted = not self._quoted
            done = place + 1
        return "".join(out)
