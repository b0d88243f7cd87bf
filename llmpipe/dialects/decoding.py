"""What the decoders of streams have in common: how events, errors and the end follow one another."""

from __future__ import annotations

from abc import ABC, abstractmethod

from llmpipe.errors import LLMError
from llmpipe.types import Event

__all__ = ("Decoding",)


class Decoding(ABC):
    """One stream's bytes to events, the same for every cutting of the bytes; what they mean, a dialect says.

    Events that were completed before an error are always given out first: the error then comes from the
    next call, and from every one after it. Bytes after the end are ignored. A dialect has two methods:
    `_read`, which appends the events that some bytes complete, and `_end`, which appends the last ones
    or raises StreamBroken. Either sets `finished` when the protocol's own end was seen.
    """

    __slots__ = ("_error", "finished")

    def __init__(self) -> None:
        self._error: LLMError | None = None
        self.finished = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises: the classified error that the provider reports inside the stream, BadReply for what is
        not the protocol; both after the events completed before were returned.
        """
        if self._error is not None:
            raise self._error
        events: list[Event] = []
        if self.finished:
            return events
        try:
            self._read(data, events)
        except LLMError as error:
            self._error = error
            if not events:
                raise
        return events

    def close(self) -> list[Event]:
        """The last events, at the end of the bytes. As nothing is called after it, it raises at once.

        Raises: StreamBroken if the protocol's own end was not seen, or an error that is still due.
        """
        if self._error is not None:
            raise self._error
        events: list[Event] = []
        if self.finished:
            return events
        try:
            self._end(events)
        except LLMError as error:
            self._error = error
            raise
        return events

    @abstractmethod
    def _read(self, data: bytes, events: list[Event]) -> None: ...

    @abstractmethod
    def _end(self, events: list[Event]) -> None: ...
