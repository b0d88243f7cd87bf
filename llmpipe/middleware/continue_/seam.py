"""What makes one stream of two: the events of the second, so that they go on where the first one stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import define

from llmpipe.types import (
    Event,
    Extra,
    Finish,
    ReasoningDelta,
    Start,
    TextDelta,
    ToolDelta,
    Usage,
    UsageUpdate,
)
from llmpipe.types.copying import replace

__all__ = ("Given", "Seam")


@define
class Given:
    """What the caller has been given so far, as far as what goes on must fit it.

    `text` is all of it, `text_index` the part it ended in (None before any), `reasoning` the parts of
    reasoning, `dialect` whose words stand in `extra`.
    """

    text: str = ""
    text_index: int | None = None
    reasoning: int = 0
    dialect: str = ""

    def note(self, events: Iterable[Event]) -> None:
        """`events` are given to the caller, but for their text, which is noted when a stream has broken."""
        for event in events:
            kind = type(event)
            if kind is TextDelta:
                self.text_index = event.index  # type: ignore[union-attr]  # the line above says it
            elif kind is ReasoningDelta:
                self.reasoning = max(self.reasoning, event.index + 1)  # type: ignore[union-attr]  # as above
            elif kind is Start:
                self.dialect = event.dialect  # type: ignore[union-attr]  # as above


class Seam:
    """The events of a stream that goes on from what was given: one start, one text, one count of tokens.

    - Its start is dropped, and kept in `begun`.
    - Its first text goes on in the part that the text had ended in; later parts get numbers of their own.
    - White space at the end of the text was not shown to the model, for some refuse it, so what the model
      repeats of it is left out.
    - Reasoning in the middle of a text is left out: no model takes it back there. Where no text had
      begun, it makes parts of its own, so that no signature is joined to another's thought.
    - Usage counts what was spent on the streams before.
    - In `extra`, words of another dialect than the first stream's are left out.

    Args:
        given: what the caller has had.
        spent: usage of the streams before.
    """

    __slots__ = ("_given", "_owed", "_reasoning", "_shift", "_spent", "_text", "begun", "left_out", "told")

    def __init__(self, given: Given, spent: Usage) -> None:
        self._given = given
        self._spent = spent
        text = given.text
        self._owed = text[len(text.rstrip()) :]  # what the model may say again
        self._text = given.text_index
        self._shift: int | None = None if given.text_index is not None else 0
        self._reasoning = given.reasoning
        self.begun = Start()
        self.left_out = 0  # characters of white space
        self.told = False  # the usage

    def join(self, events: Iterable[Event]) -> list[Event]:
        """`events` as the caller gets them."""
        joined = [*self._joined(events)]
        self._given.note(joined)
        return joined

    def _joined(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, Start):
                self.begun = event
            elif isinstance(event, TextDelta):
                yield from self._said(event)
            elif isinstance(event, ReasoningDelta):
                if self._text is None:
                    yield self._own(replace(event, index=event.index + self._reasoning))
            elif isinstance(event, UsageUpdate):
                self.told = True
                yield UsageUpdate(self._spent + event.usage)
            elif isinstance(event, Extra):
                if not self._foreign:
                    yield event
            elif isinstance(event, (ToolDelta, Finish)):
                yield self._own(event)
            else:
                yield event

    def _said(self, event: TextDelta) -> Iterator[Event]:
        if self._shift is None:
            assert self._text is not None
            self._shift = self._text - event.index
        text = event.text
        if self._owed:
            same = _alike(self._owed, text)
            self._owed = self._owed[same:] if same == len(text) else ""
            self.left_out += same
            text = text[same:]
            if not text:
                return
        yield TextDelta(text, event.index + self._shift, None if self._foreign else event.extra)

    @property
    def _foreign(self) -> bool:
        return bool(self.begun.dialect) and self.begun.dialect != self._given.dialect

    def _own(self, event: ReasoningDelta | ToolDelta | Finish) -> Event:
        return replace(event, extra=None) if event.extra and self._foreign else event


def _alike(one: str, other: str) -> int:
    """How many characters both begin with."""
    differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))
