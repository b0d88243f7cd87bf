"""Masking a text that comes in pieces, and JSON."""

from __future__ import annotations

import re
from collections import Counter
from json import dumps, loads
from typing import TypeVar, cast

from llmpipe.middleware.redact.checks import CONTEXT
from llmpipe.middleware.redact.detector import Detector
from llmpipe.middleware.redact.escapes import EncodedJSONView, EncodedView, JSONView, unescape
from llmpipe.middleware.redact.hints import LONG, signs, spelled
from llmpipe.middleware.redact.scan import Label, Scanner, cover, label
from llmpipe.middleware.redact.view import View
from llmpipe.middleware.redact.walk import (
    AnyRequest,
    Role,
    adjacent,
    key_of,
    rewrite_adjacent,
    rewrite_json,
    texts_at,
)
from llmpipe.types import Request

__all__ = ("Masking", "mask_json", "mask_rows")

R = TypeVar("R", bound=AnyRequest)

_Raw = tuple[int, int, str, str]  # start, minus end, kind, and the character behind it


def mask_json(scanner: Scanner, text: str, label: Label = label) -> str:
    """A JSON text, whole or cut, masked: what is escaped in it is found, and it stays JSON.

    Returns the same object where there is nothing to mask. A number that is masked becomes a string.
    """
    # Of a long one that is asked first, for to read it at once takes a tenth of the time.
    if len(text) >= LONG and not scanner.finders and not scanner.sees_json(text):
        return text
    masking = Masking(scanner, label, json=True)
    masked = masking.feed(text) + masking.flush()
    if scanner.finders:
        masked = _mask_strings(scanner, masked, label)
    return text if masked == text else masked


_LABEL = re.compile(r"\[[A-Z][A-Za-z0-9_]*\]")


def _mask_strings(scanner: Scanner, text: str, label: Label) -> str:
    """JSON with what finders find in its strings masked; what is none is a text to them."""

    def masked(string: str, role: Role) -> str:
        labels = [match.span() for match in _LABEL.finditer(string)]
        findings = [
            found
            for found in scanner.scan(string, key_of(role))
            if not any(start < found.end and found.start < end for start, end in labels)
        ]
        return cover(string, findings, label) if findings else string

    try:
        value = loads(text)
    except ValueError:
        return masked(text, "text")
    new = rewrite_json(value, masked, data=True)
    return text if new is value else dumps(new, ensure_ascii=False)


def mask_rows(scanner: Scanner, request: R, label: Label = label) -> R:
    """The request with what reaches from one text into the next masked; the same object if nothing does."""
    for row in adjacent(request):
        assert isinstance(request, Request), "only they have messages"
        texts = texts_at(request, row)
        masked = scanner.mask_adjacent(texts, label)
        if masked != texts:
            request = cast("R", rewrite_adjacent(request, row, masked))
    return request


class _Track:
    """A text that comes in pieces, in one view of it, and how far that is judged.

    Places are counted in the original text from its beginning on, of which the view has the end only.
    """

    __slots__ = ("base", "resume", "scanned", "until", "view")

    def __init__(
        self, view: View, base: int = 0, scanned: int = 0, resume: dict[Detector, int] | None = None
    ) -> None:
        self.view = view
        self.base = base  # where in the text `view.raw` begins
        self.scanned = scanned  # in the view: all before this is judged
        self.until = scanned  # and all before this can be, of what was there when that was asked last
        self.resume = resume or {}

    def ask(self, scanner: Scanner) -> int:
        """Find out how far all can be judged now, and where in the text that is."""
        self.until = scanner.unsure(self.view.text, self.until)
        return self.stop

    def judge(self, scanner: Scanner) -> list[_Raw]:
        """What is found in the view up to `until`, in places of the text."""
        if self.until <= self.scanned:  # as long as a piece after the other may belong to the same
            return []
        view, base = self.view, self.base
        return [
            (base + view.start(start), -base - view.end(end), kind, view.text[end : end + 1])
            for start, end, kind in scanner.spans(view.text, self.scanned, self.until, self.resume)
        ]

    @property
    def stop(self) -> int:
        """Where in the text the character at `until` starts."""
        return self.base + self.view.start(self.until)

    @property
    def ahead(self) -> dict[Detector, int]:
        """Where in the text those detectors go on that do so behind what is judged."""
        return {detector: self.base + self.view.start(place) for detector, place in self.resume.items()}

    def forget(self, scanned: int) -> None:
        """All before `scanned` is judged for good; drop what nothing depends on any more."""
        self.scanned = scanned
        keep = min([scanned, *self.resume.values()]) - CONTEXT
        if keep > 0:
            self.base += self.view.drop(keep)
            self.scanned -= keep
            for detector in self.resume:
                self.resume[detector] -= keep
        self.until = self.scanned


class Masking:
    """Masks a text that comes in pieces: what comes out is what masking the whole text gives.

    Holds back from the first place where more text could still change what is found, and no more.
    From an escape on (``%40``, ``&#64;``) the text is looked at as it stands and as it is meant.

    Args:
        json: the text is JSON, whose escapes are read and whose form is kept.
    """

    __slots__ = (
        "_calm",
        "_dull",
        "_found",
        "_json",
        "_last",
        "_let_out",
        "_meant",
        "_raw",
        "_scanner",
        "_stop",
        "_track",
        "_width",
        "_writer",
        "found",
    )

    def __init__(self, scanner: Scanner, label: Label = label, *, json: bool = False) -> None:
        self._scanner = scanner
        self._track = _Track(JSONView() if json else View())
        self._meant: _Track | None = None  # the same text, escapes in it read, where it has some
        self._json = json
        self._writer = _JSONWriter(label) if json else _Writer(label)
        self._found: list[_Raw] = []  # behind what every track has judged
        self._raw = ""  # of the text what is not out
        self._stop = -1  # up to where in the text all tracks have judged it
        self._let_out = 0  # where in the text that begins; a finding can take it beyond what is judged
        self._last = ""  # the kind of the finding that was let out last, if nothing came after it
        self.found: Counter[str] = Counter()
        self._dull = None if json else scanner.dull
        self._calm = True
        self._width = scanner.max_width

    @property
    def held(self) -> int:
        """Characters of the original text that are held back."""
        return len(self._raw)

    def feed(self, piece: str) -> str:
        """What can be let out now that `piece` has come."""
        track = self._track
        if self._dull is not None and piece.isascii() and not signs(piece) and (self._calm or self._calms()):
            seen = track.view.text + piece
            if not spelled(seen):
                return self._pass(self._dull, seen)
        if self._calm:
            self._calm = False
            track.until = track.scanned
        escaped = self._may_be_escaped(piece)
        if escaped and self._meant is None:
            view = EncodedJSONView() if isinstance(track.view, JSONView) else EncodedView()
            view.feed(track.view.raw)
            self._meant = _Track(view, track.base, track.scanned, dict(track.resume))
        self._raw += piece
        meant = self._meant
        track.view.feed(piece)
        if meant is not None:
            meant.view.feed(piece)
        stop = self._sure()
        if stop <= self._stop:
            return ""  # and nothing was found before it that was not found then
        self._stop = stop
        out = self._judge(stop)
        track.forget(track.until)
        if meant is not None:
            meant.forget(meant.until)
            if not escaped and not self._may_be_escaped(meant.view.raw) and meant.ahead == track.ahead:
                self._meant = None
        return out

    def _sure(self) -> int:
        """How far all tracks can judge the text; `_stop` where one of them can as far as before.

        No other is asked then. That one is most often the one in which escapes are read.
        """
        stop, meant = -1, self._meant
        if meant is not None:
            stop = meant.ask(self._scanner)
            if stop <= self._stop:
                return stop
        own = self._track.ask(self._scanner)
        return own if meant is None else min(stop, own)

    def _may_be_escaped(self, text: str) -> bool:
        """Whether a track that reads escapes may see something else in `text`."""
        return "%" in text or "&" in text or ("\\" in text and not self._json)

    def _tracks(self) -> list[_Track]:
        return [self._track] if self._meant is None else [self._track, self._meant]

    def _calms(self) -> bool:
        """Whether all there is is dull, and nothing of it is under way."""
        track = self._track
        seen = track.view.text
        self._calm = (
            self._meant is None
            and not self._found
            and track.base + track.scanned == self._let_out
            and not track.resume
            and seen is track.view.raw
            and seen.isascii()
            and not signs(seen)
        )
        return self._calm

    def _pass(self, dull: re.Pattern[str], seen: str) -> str:
        """What can be let out of `seen`, which is all there is, and dull."""
        track = self._track
        scanned, least = track.scanned, len(seen) - self._width
        match = dull.search(seen, max(scanned, least))
        until = len(seen) if match is None else match.start()
        out = seen[scanned:until]
        if out:
            self._last = ""
        self._raw = seen[until:]
        self._let_out += until - scanned
        if until > CONTEXT:
            seen = seen[until - CONTEXT :]
            track.base += until - CONTEXT
            until = CONTEXT
        track.view.put(seen)
        track.scanned = until
        return out

    def flush(self) -> str:
        """The rest: nothing more will come."""
        return self._all(last=True)

    def release(self) -> str:
        """All that is held, judged as if nothing more came. What more adds to a finding is masked."""
        return self._all(last=False)

    def _all(self, *, last: bool) -> str:
        self._calm = False
        tracks = self._tracks()
        if last:
            for track in tracks:
                track.view.finish()
        sure: list[int] = []
        for track in tracks:
            track.until = len(track.view.text)
            sure.append(track.until if last else self._scanner.unsure(track.view.text, track.scanned))
        self._stop = -1
        out = self._judge(self._track.stop)
        for track, until in zip(tracks, sure, strict=True):
            track.resume.clear()
            track.forget(until)
        return out

    def _judge(self, stop: int) -> str:
        """Let the text out up to `stop`, masked; beyond it where a finding reaches over it."""
        found, writer, raw, base = self._found, self._writer, self._raw, self._let_out
        found += self._track.judge(self._scanner)
        if self._meant is not None:
            found += self._meant.judge(self._scanner)
            found.sort()
        out: list[str] = []
        done, later = base, 0
        for start, minus_end, kind, after in found:
            if start >= stop:
                break
            later += 1
            end = -minus_end
            if end > done:
                goes_on = start < done and kind == self._last
                begin = max(start, done)
                # Of a finding that goes on, what is not seen between its halves is part too.
                out.append(writer.plain(raw[done - base : begin - base]))
                out.append(writer.cover(kind, raw[begin - base : end - base], after, goes_on))
                self.found[kind] += not goes_on
                done, self._last = end, kind
        del found[:later]
        if stop > done:
            self._last = ""
            out.append(writer.plain(raw[done - base : stop - base]))
            done = stop
        self._raw, self._let_out = raw[done - base :], done
        return "".join(out)


class _Writer:
    """Writes plain text."""

    __slots__ = ("_label",)

    def __init__(self, label: Label) -> None:
        self._label = label

    def plain(self, raw: str) -> str:
        return raw

    def cover(self, kind: str, raw: str, after: str, goes_on: bool) -> str:
        """A label; none if the finding goes on from one of its kind that has its label."""
        return "" if goes_on else self._label(kind, raw)


_ESCAPE_OR_QUOTE = re.compile(r'\\.|"', re.DOTALL)
_STRUCTURE = re.compile(r"[,:{}\[\]]")
_IN_NUMBERS = frozenset("0123456789+-.eE")


class _JSONWriter(_Writer):
    """Writes JSON: a label inside a string is escaped, one in the place of a number becomes a string."""

    __slots__ = ("_before", "_quoted")

    def __init__(self, label: Label) -> None:
        super().__init__(label)
        self._quoted = False
        self._before = ""

    def plain(self, raw: str) -> str:
        self._before = raw[-1:] or self._before
        if '"' in raw:
            for sign in _ESCAPE_OR_QUOTE.findall(raw):
                if sign == '"':
                    self._quoted = not self._quoted
        return raw

    def cover(self, kind: str, raw: str, after: str, goes_on: bool) -> str:
        """Of each string its part is covered; what stands between two is kept, for it is no value."""
        quotes = [match.start() for match in _ESCAPE_OR_QUOTE.finditer(raw) if match.group() == '"']
        out, done = [], 0
        for place in (*quotes, len(raw)):
            part = raw[done:place]
            out.append(self._value(kind, part, after if place == len(raw) else '"', goes_on) if part else "")
            if place < len(raw):
                out.append('"')
                self._quoted = not self._quoted
            done = place + 1
        self._before = raw[-1:]
        return "".join(out)

    def _value(self, kind: str, part: str, after: str, goes_on: bool) -> str:
        if not self._quoted and (
            _STRUCTURE.search(part)
            # Part of a number: nothing that is looked for is negative or broken, and `-"[…]"` is no JSON.
            or (part[0].isdigit() and not (part.isdigit() and {self._before, after}.isdisjoint(_IN_NUMBERS)))
        ):
            return part
        text = super().cover(kind, unescape(part), after, goes_on)
        if self._quoted:
            return dumps(text)[1:-1]
        return dumps(text) if text else ""
