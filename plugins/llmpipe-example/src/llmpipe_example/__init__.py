"""A third-party middleware for llmpipe: `WordLimit`, found as ``word_limit`` by its entry point."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from attrs import evolve, field, frozen, validators

from llmpipe import Call, Event, Finish, Handler, Reply, TextDelta, bands

__all__ = ("WordLimit",)

_RUN = re.compile(r"\S+")


@frozen(kw_only=True)
class WordLimit:
    """Ends a reply's text right before the first word too many, with finish reason ``"length"``.

    What is between white space is a word. Reasoning and tool calls pass untouched.

    Attributes:
        words: most words that get through, at least 1.
    """

    words: int = field(validator=validators.ge(1))
    name: str = "word_limit"
    priority: int = bands.GUARD + 50  # inside the guards, so that they judge what the caller gets

    why: ClassVar[str] = "outside the cache, which keeps the whole reply for callers with other limits"

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply, cut."""
        reply = await call_next(call)
        return reply.pipe(_Cut(self.words))


class _Cut:
    """Counts words as they pass. A word may come in pieces, so it remembers whether it is in one."""

    def __init__(self, words: int) -> None:
        self._left = words
        self._in_word = False
        self._cut = False

    def feed(self, event: Event) -> Iterable[Event]:
        if type(event) is Finish and self._cut:
            return (evolve(event, reason="length"),)
        if type(event) is not TextDelta:
            return (event,)
        kept = self._kept(event.text)
        return (evolve(event, text=kept),) if kept else ()

    def flush(self) -> Iterable[Event]:
        return ()

    def _kept(self, text: str) -> str:
        if self._cut:
            return ""
        for word in _RUN.finditer(text):
            continues = self._in_word and word.start() == 0
            if not continues and self._left == 0:
                self._cut = True
                return text[: word.start()]
            self._left -= not continues
            self._in_word = word.end() == len(text)
        if text[-1:].isspace():
            self._in_word = False
        return text
