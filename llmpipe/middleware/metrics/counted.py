"""What of a ledger was counted before: a chain inside a chain may be called several times for one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from weakref import WeakKeyDictionary

from llmpipe.pipeline.call import Attempt, Ledger, Note

__all__ = ("Counted", "lies_within")


def lies_within(ledger: Ledger, active: Container[Ledger]) -> bool:
    """Whether `ledger` is a branch's, at whatever depth, of one that is `active`: being counted already."""
    outer = ledger.within
    while outer is not None:
        if outer in active:
            return True
        outer = outer.within
    return False


class Counted:
    """Tells those who count a call when it is over which of its attempts and notes are new to them.

    A retry or a fallback outside of them comes in again with the same ledger, in which all is that their
    first calls have counted. Most ledgers are new: who begins with one that has attempts says so by `begin`.

    Attributes:
        begun: of the ledgers under way that had attempts at the beginning, how many.
    """

    __slots__ = ("_branched", "_noted", "begun")

    def __init__(self) -> None:
        self.begun: dict[Ledger, int] = {}
        # Counted by the note and not from the beginning: what is noted between two calls is of no other.
        self._noted: WeakKeyDictionary[Ledger, int] = WeakKeyDictionary()
        # Those of branches, by time and kind: they are entered anew in the ledgers that a branch lies within.
        # None until there is one: most never see a branch, and asking costs.
        self._branched: WeakKeyDictionary[Ledger, Counter[tuple[float, str]]] | None = None

    def begin(self, ledger: Ledger) -> None:
        """A call begins with this ledger, which has attempts."""
        self.begun[ledger] = len(ledger.attempts)

    def attempts(self, ledger: Ledger) -> Sequence[Attempt]:
        """The attempts since the call began. To be asked once, when it is over."""
        begun = self.begun.pop(ledger, 0)
        return ledger.attempts[begun:] if begun else ledger.attempts

    def notes(self, ledger: Ledger) -> Sequence[Note]:
        """The notes that nobody has asked for yet."""
        notes = ledger.notes
        if not notes:
            return notes
        known = self._noted.get(ledger, 0)
        self._noted[ledger] = len(notes)
        new: Sequence[Note] = notes[known:] if known else notes
        if self._branched is not None and (branched := self._branched.get(ledger)) is not None:
            new = [note for note in new if not _taken(note, branched)]
        if ledger.within is not None:
            self._branch(ledger.within, new)
        return new

    def _branch(self, outer: Ledger | None, notes: Sequence[Note]) -> None:
        """Remember that `notes`, which will be entered in `outer` and beyond, are counted."""
        if self._branched is None:
            self._branched = WeakKeyDictionary()
        while outer is not None:
            self._branched.setdefault(outer, Counter()).update([(note.at, note.kind) for note in notes])
            outer = outer.within


def _taken(note: Note, branched: Counter[tuple[float, str]]) -> bool:
    """Take `note` from those that were counted in a branch, if it is there."""
    key = (note.at, note.kind)
    if not branched[key]:
        return False
    branched[key] -= 1
    return True
