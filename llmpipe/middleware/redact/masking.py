"""Masking a text that comes in pieces, and JSON."""

from __future__ import annotations

import re
from collections import Counter
from json import dumps

from llmpipe.middleware.redact.checks import CONTEXT
from llmpipe.middleware.redact.detector import Detector
from llmpipe.middleware.redact.hints import signs, spelled
from llmpipe.middleware.redact.scan import Label, Scanner, label
from llmpipe.middleware.redact.view import JSONView, View, unescape

__all__ = ("Masking", "mask_json")


def mask_json(scanner: Scanner, text: str, label: Label = label) -> str:
    """A JSON text, whole or cut, masked: what is escaped in it is found, and it stays JSON.

    Returns the same object where there is nothing to mask. A number that is masked becomes a string.
    """
    masking = Masking(scanner, label, json=True)
    masked = masking.feed(text) + masking.flush()
    return text if masked == text else masked


class Masking:
    """Masks a text that comes in pieces: what comes out is what masking the whole text gives.

    Holds back from the first place where more text could still change what is found, and no more.

    Args:
        json: the text is JSON, whose escapes are read and whose form is kept.
    """

    __slots__ = (
        "_calm",
        "_dull",
        "_front",
        "_last",
        "_let_out",
        "_resume",
        "_scanned",
        "_scanner",
        "_view",
        "_width",
        "_writer",
        "found",
    )

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
        self._dull = None if json else scanner.dull
        self._calm = True
        self._width = scanner.max_width

    @property
    def held(self) -> int:
        """Characters of the original text that are held back."""
        return len(self._view.raw) - self._let_out

    def feed(self, piece: str) -> str:
        """What can be let out now that `piece` has come."""
        if self._dull is not None and piece.isascii() and not signs(piece) and (self._calm or self._calms()):
            seen = self._view.text + piece
            if not spelled(seen):
                return self._pass(self._dull, seen)
        self._calm = False
        view = self._view
        view.feed(piece)
        until = self._scanner.unsure(view.text, self._scanned)
        out = self._judge(until)
        self._forget(until)
        return out

    def _calms(self) -> bool:
        """Whether all there is is dull, and nothing of it is under way."""
        seen = self._view.text
        self._calm = (
            self._scanned == self._front == self._let_out
            and not self._resume
            and seen is self._view.raw
            and seen.isascii()
            and not signs(seen)
        )
        return self._calm

    def _pass(self, dull: re.Pattern[str], seen: str) -> str:
        """What can be let out of `seen`, which is all there is, and dull."""
        scanned, least = self._scanned, len(seen) - self._width
        match = dull.search(seen, max(scanned, least))
        until = len(seen) if match is None else match.start()
        out = seen[scanned:until]
        if out:
            self._last = ""
        if until > CONTEXT:
            seen = seen[until - CONTEXT :]
            until = CONTEXT
        self._view.put(seen)
        self._scanned = self._front = self._let_out = until
        return out

    def flush(self) -> str:
        """The rest: nothing more will come."""
        self._calm = False
        self._view.finish()
        end = len(self._view.text)
        out = self._judge(end)
        self._resume.clear()
        self._forget(end)
        return out

    def release(self) -> str:
        """All that is held, judged as if nothing more came. What more adds to a finding is masked."""
        self._calm = False
        seen = self._view.text
        unsure = self._scanner.unsure(seen, self._scanned)
        out = self._judge(len(seen))
        self._resume.clear()
        self._forget(unsure)
        return out

    def _judge(self, until: int) -> str:
        """Let the view out up to `until`, masked; beyond it where a finding reaches over it."""
        view, writer = self._view, self._writer
        out: list[str] = []
        for start, end, kind in self._scanner.spans(view.text, self._scanned, until, self._resume):
            if end > self._front:
                goes_on = start < self._front and kind == self._last
                # Of a finding that goes on, what is not seen between its halves is part too.
                begin = self._let_out if goes_on else max(view.start(max(start, self._front)), self._let_out)
                stop = view.end(end)
                out.append(writer.plain(view.raw[self._let_out : begin]))
                out.append(writer.cover(kind, view.raw[begin:stop], view.text[end : end + 1], goes_on))
                self.found[kind] += not goes_on
                self._front, self._let_out, self._last = end, stop, kind
        stop = view.start(until)
        if stop > self._let_out:
            self._last = ""
            out.append(writer.plain(view.raw[self._let_out : stop]))
            self._let_out = stop
        self._front = max(self._front, until)
        return "".join(out)

    def _forget(self, scanned: int) -> None:
        """All before `scanned` is judged for good; drop what nothing depends on any more."""
        self._scanned = scanned
        keep = min([scanned, *self._resume.values()]) - CONTEXT
        if keep > 0:
            self._let_out -= self._view.start(keep)
            self._view.drop(keep)
            self._front -= keep
            self._scanned -= keep
            for detector in self._resume:
                self._resume[detector] -= keep


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
