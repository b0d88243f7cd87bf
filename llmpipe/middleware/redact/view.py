"""What a reader sees in a text that comes in pieces: however it is cut, what is seen of the whole."""

from __future__ import annotations

from bisect import bisect_right

from llmpipe.middleware.redact.characters import UNSEEN, looks
from llmpipe.middleware.redact.reading import Kind, Reading

__all__ = ("View",)


class View(Kind):
    """A text that grows at its end and is dropped at its start, and what is seen of it.

    Each piece is read at once, up to an escape of which the rest has not come: that waits for the next.

    Attributes:
        raw: the original text.
        text: what is seen. The same object as `raw` where all of it is ASCII.
    """

    __slots__ = ("_ends", "_lost", "_raw_ends", "_raw_lost", "_readings", "_run", "_waiting", "raw", "text")

    def __init__(self) -> None:
        self.raw = self.text = ""
        self._waiting = ""  # the end of `raw`, of which nothing is in `text`
        self._run = 0  # characters in a row at the end that are not seen
        # How each piece was read: None where every character is seen as one, and nothing while all are. And
        # where each starts and the last one ends, in what is seen and in the original, both counted from the
        # very beginning, with how much of them is dropped.
        self._readings: list[Reading | None] = []
        self._ends, self._raw_ends = [0], [0]
        self._lost = self._raw_lost = 0

    def feed(self, piece: str) -> None:
        """Add `piece` at the end."""
        escapes = self.escapes
        if self._waiting or (escapes is not None and escapes.may_be_in(piece)):
            self._read(piece)
            return
        seen = looks(piece)
        if UNSEEN in seen:
            self._add(piece, Reading(piece, type(self), self._run, seen), len(piece))
        elif piece:
            self._note(None, len(piece), len(piece))
            same = self.text is self.raw and seen is piece
            self.raw += piece
            self.text = self.raw if same else self.text + seen
            self._run = 0

    def finish(self) -> None:
        """No more will come: half an escape is text."""
        if self._waiting:
            self._read("", last=True)

    def put(self, text: str) -> None:
        """Have `text`, which is ASCII, in the place of what there was, which was ASCII too."""
        self.raw = self.text = text
        self._run = 0

    def _read(self, piece: str, *, last: bool = False) -> None:
        assert self.escapes is not None, "without them nothing waits"
        raw = self._waiting + piece
        whole = len(raw) if last else self.escapes.whole(raw)
        self._waiting = raw[whole:]
        self._add(piece, Reading(raw[:whole], type(self), self._run), whole)

    def _add(self, piece: str, reading: Reading, length: int) -> None:
        """Add `piece` at the end, and how so many characters were read of what there is now."""
        self._note(None if reading.is_even else reading, len(reading.text), length)
        self._run = reading.run
        self.raw += piece
        self.text += reading.text

    def _note(self, reading: Reading | None, seen: int, raw: int) -> None:
        """How so many characters, of which so many are seen, were read that come behind all others."""
        if reading is None:
            if not self._readings:
                return
            if self._readings[-1] is None:
                self._ends[-1] += seen
                self._raw_ends[-1] += raw
                return
        elif not self._readings and self.text:
            self._readings.append(None)
            self._ends.append(len(self.text))
            self._raw_ends.append(len(self.text))
        self._readings.append(reading)
        self._ends.append(self._ends[-1] + seen)
        self._raw_ends.append(self._raw_ends[-1] + raw)

    def start(self, place: int) -> int:
        """Where in `raw` the character at `place` starts; at the end of `text`, where what was read ends."""
        if place >= len(self.text):
            return len(self.raw) - len(self._waiting)
        if not self._readings:
            return place
        place += self._lost
        number = bisect_right(self._ends, place) - 1
        reading, place = self._readings[number], place - self._ends[number]
        return self._raw_ends[number] - self._raw_lost + (place if reading is None else reading.start(place))

    def end(self, place: int) -> int:
        """Where in `raw` the character before `place` ends."""
        if not self._readings or not place:
            return place
        place += self._lost - 1
        number = bisect_right(self._ends, place) - 1
        reading, place = self._readings[number], place - self._ends[number] + 1
        return self._raw_ends[number] - self._raw_lost + (place if reading is None else reading.end(place))

    def drop(self, place: int) -> int:
        """Forget what is before `place`; so many characters of `raw`."""
        cut = self.start(place)
        same = self.text is self.raw
        self.raw = self.raw[cut:]
        self.text = self.raw if same else self.text[place:]
        if not self._readings:
            return cut
        self._lost += place
        self._raw_lost += cut
        gone = bisect_right(self._ends, self._lost) - 1
        del self._readings[:gone], self._ends[:gone], self._raw_ends[:gone]
        if self._readings in ([], [None]):
            self._readings, self._ends, self._raw_ends = [], [0], [0]
            self._lost = self._raw_lost = 0
            if self.text == self.raw:
                self.text = self.raw
        return cut
