"""A stream of replies: from the wire's bytes to events.

Each chunk is a reply of its own, with the next piece of each candidate and the usage so far. There is
no event for the end: a reply is whole when its bytes are over and every candidate had a finish
reason; after that reason only usage may come. (As one JSON array it has the array's end besides.)
"""

from __future__ import annotations

from typing import Any

import orjson

from llmpipe.dialects.decoding import Decoding
from llmpipe.dialects.gemini_generate.array import ArraySplitter
from llmpipe.dialects.gemini_generate.candidate import CandidateDecoder
from llmpipe.dialects.gemini_generate.errors import error_in
from llmpipe.dialects.gemini_generate.reply import CHUNK_FIELDS, blocked, start_of
from llmpipe.dialects.gemini_generate.server import encode_candidate
from llmpipe.dialects.gemini_generate.usage import decode_usage
from llmpipe.dialects.jsonbody import excerpt, lines_of_json
from llmpipe.dialects.problem import says_error, stray_error
from llmpipe.dialects.sse import SSEParser
from llmpipe.errors import BadReply, LLMError, StreamBroken
from llmpipe.types import Event, Extra, Ping, UsageUpdate, fold

__all__ = ("ArrayDecoder", "EventDecoder")

_PING = Ping()
_loads = orjson.loads
_MAX_CANDIDATES = 128


class _Chunks:
    """The reply so far, in whichever framing its chunks come."""

    __slots__ = ("_extra", "_main", "_others", "_refusal", "_reply_id", "_seen", "_started", "_usage")

    def __init__(self) -> None:
        self._main = CandidateDecoder()
        self._others: dict[int, CandidateDecoder] = {}
        self._seen = False  # whether the first candidate was there at all
        self._started = False
        self._reply_id = ""
        self._extra: dict[str, Any] = {}  # fields of chunks that we do not model, as last seen
        self._usage: object = None  # as last seen
        self._refusal: LLMError | None = None

    def take(self, data: bytes, events: list[Event]) -> None:
        """Append the events of one chunk's bytes.

        Raises: the classified error that it tells of, BadReply for what is no chunk.
        """
        try:
            chunk = _loads(data)
        except orjson.JSONDecodeError as error:
            raise BadReply(
                f"a chunk of the stream is not JSON: {error.msg} at character {error.pos}; "
                f"it begins {excerpt(data)!r}",
                code="chunk_not_json",
                phase="stream",
            ) from None
        if type(chunk) is list and chunk and type(chunk[0]) is dict and says_error(chunk[0]):
            raise error_in(chunk, phase="stream")
        if type(chunk) is not dict:
            raise BadReply(
                f"a chunk of the stream is no object; it begins {excerpt(data)!r}",
                code="chunk_not_object",
                phase="stream",
            )
        if chunk.get("error"):
            raise error_in(chunk, phase="stream")
        self._take(chunk, events)

    def _take(self, chunk: dict[str, Any], events: list[Event]) -> None:
        candidates = chunk.get("candidates")
        if not candidates and "usageMetadata" not in chunk and says_error(chunk):
            raise error_in(chunk, phase="stream")
        if not self._started:
            self._start(chunk, events)
        elif not chunk.keys() <= CHUNK_FIELDS:
            self._unmodelled(chunk, events)
        if isinstance(candidates, list):
            for candidate in candidates:
                if isinstance(candidate, dict):
                    self._candidate(candidate, events)
        usage = chunk.get("usageMetadata")
        if usage is not None and usage != self._usage:
            self._usage, decoded = usage, decode_usage(usage)
            if decoded is not None:
                events.append(UsageUpdate(decoded))
        if not self._seen and self._refusal is None:
            self._refusal = blocked(chunk.get("promptFeedback"), "stream")

    def end(self, cut: str) -> list[Event]:
        """The last events, where nothing more can come.

        Args: cut says what is missing where the reply is not whole.
        Raises: StreamBroken if it is not; ContentFiltered where the prompt was blocked.
        """
        if self._refusal is not None and not self._seen:
            raise self._refusal
        open_ = [one for one in self._others.values() if one.word is None]
        if not self._seen or self._main.word is None or open_:
            raise broken(cut)
        others = [self._encoded(self._others[index]) for index in sorted(self._others)]
        events: list[Event] = [Extra({"candidates": others})] if others else []
        return events + self._main.finish()

    def _start(self, chunk: dict[str, Any], events: list[Event]) -> None:
        if not (chunk.keys() & {"candidates", "modelVersion", "responseId"}):
            return
        self._started = True
        extra = {
            name: value for name, value in chunk.items() if name not in CHUNK_FIELDS and value is not None
        }
        self._extra.update(extra)
        start = start_of(chunk, extra)
        self._reply_id = start.id
        events.append(start)

    def _unmodelled(self, chunk: dict[str, Any], events: list[Event]) -> None:
        """What changed among the fields that we do not model."""
        for name, value in chunk.items():
            if name not in CHUNK_FIELDS and value is not None and value != self._extra.get(name):
                self._extra[name] = value
                events.append(Extra({name: value}))

    def _candidate(self, candidate: dict[str, Any], events: list[Event]) -> None:
        index = candidate.get("index") or 0
        if index == 0:
            self._seen = True
            self._main.take(candidate, events, self._reply_id)
            return
        if type(index) is not int or not 0 < index < _MAX_CANDIDATES:
            raise BadReply(
                f"a candidate of the stream has index {str(index)[:40]}", code="bad_candidate", phase="stream"
            )
        other = self._others.get(index)
        if other is None:
            other = self._others[index] = CandidateDecoder(index)
        other.take(candidate, other.events, self._reply_id)

    def _encoded(self, candidate: CandidateDecoder) -> dict[str, Any]:
        """Another candidate in the form it has in a full reply."""
        return encode_candidate(fold([*candidate.events, *candidate.finish()]), candidate.index, native=True)


class EventDecoder(Decoding):
    """The decoder of a stream of server-sent events (``alt=sse``).

    It is never `finished` before the bytes are: usage may follow the finish reason.
    """

    __slots__ = ("_chunks", "_parser")

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__()
        self._parser = SSEParser(max_event_bytes)
        self._chunks = _Chunks()

    def _read(self, data: bytes, events: list[Event]) -> None:
        for _, chunk in self._parser.feed(data):
            self._take(chunk, events)

    def _end(self, events: list[Event]) -> None:
        for _, chunk in self._parser.close():
            if chunk is not None and (_is_json(chunk) or lines_of_json(chunk, b"[DONE]")):
                self._take(chunk, events)  # else it was cut inside
        stray = self._parser.stray.strip()
        if stray and (wire := stray_error(stray)) is not None:
            raise error_in(wire, phase="stream")
        hint = f"; it has {excerpt(stray)!r}, which is no event" if stray else ""
        events += self._chunks.end(f"no finish reason{hint}")

    def _take(self, chunk: bytes | None, events: list[Event]) -> None:
        if not chunk or chunk.strip() == b"[DONE]":  # a comment, or another protocol's end, from a proxy
            events.append(_PING)
            return
        for line in lines_of_json(chunk, b"[DONE]") or (chunk,):  # a server that leaves out the blank line
            if line.strip() != b"[DONE]":
                self._chunks.take(line, events)


class ArrayDecoder(Decoding):
    """The decoder of a stream that is one JSON array of chunks; its end is the array's."""

    __slots__ = ("_array", "_chunks")

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__()
        self._array = ArraySplitter(max_event_bytes)
        self._chunks = _Chunks()

    def _read(self, data: bytes, events: list[Event]) -> None:
        for chunk in self._array.feed(data):
            self._chunks.take(chunk, events)
        if self._array.closed:
            events += self._chunks.end("no finish reason")
            self.finished = True

    def _end(self, events: list[Event]) -> None:
        raise broken("the JSON array is not closed")


def broken(missing: str) -> StreamBroken:
    """The error for a stream that was cut."""
    return StreamBroken(
        f"the stream ended before its end: {missing}", code="stream_broken", phase="stream", billed="unknown"
    )


def _is_json(data: bytes) -> bool:
    try:
        _loads(data)
    except orjson.JSONDecodeError:
        return data.strip() == b"[DONE]"
    return True
