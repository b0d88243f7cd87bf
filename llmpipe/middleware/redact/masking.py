"""Masking a text that comes in pieces, and JSON."""

from __future__ import annotations

import re
from collections import Counter
from json import dumps

from llmpipe.middleware.redact.checks import CONTEXT
from llmpipe.middleware.redact.detector import Detector
from llmpipe.middleware.redact.scan import Label, Scanner, label
from llmpipe.middleware.redact.view import JSONView, View, unescape

__all__ = ("Masking", "mask_json")


def mask_json(scanner: Scanner, text: str, label: Label = label) -> str:
    """A JSON text, whole or cut, masked: what is escaped in it is found, and it stays JSON.

    Returns the same object where there is nothing to mask. A number that is masked becomes a string.
    """
    masking = Masking(scanner, label, json=True)
    masked = masking.feed(text) + masking.flush()
    return masked if masking.found else text


class Masking:
    """Masks a text that comes in pieces: what comes out is what masking the whole text gives.

    Holds back from the first place where more text could still change what is found, and no more.

    Args:
        json: the text is JSON, whose escapes are read and whose form is kept.
    """

    __slots__ = (
        "_front",
        "_last",
        "_let_out",
        "_resume",
        "_scanned",
        "_scanner",
        "_view",
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
            for sign in _STRUCTURE.findall(raw):
                if sign == '"':
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
