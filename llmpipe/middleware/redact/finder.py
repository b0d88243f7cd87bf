"""What finds what no pattern can: names, places. It comes from outside, and reads whole texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from attrs import frozen

__all__ = ("Finder", "Finding")


@frozen
class Finding:
    """Something of `kind` at `start` up to `end`, counted in characters of the original text."""

    kind: str
    start: int
    end: int


@runtime_checkable
class Finder(Protocol):
    """Finds things in a text by whatever means.

    It is asked about what a request says, each text by itself and each string of JSON by itself, not
    about replies: of a text that comes in pieces it could not say how much of it must be held back.
    What it raises fails the call, so that nothing leaves unseen.
    """

    @property
    def thread_above(self) -> int:
        """Characters in a request above which it works in a worker thread; from several at a time."""
        ...

    def find(self, text: str) -> Iterable[Finding]:
        """What is in `text`. A kind is small letters, digits and ``_``: ``name``."""
        ...
