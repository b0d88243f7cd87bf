"""Server-sent events, byte by byte."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects.sse import ServerSentEvent, SSEParser, encode
from llmpipe.errors import BadReply


def parse(*pieces: bytes, limit: int = 8 * 1024 * 1024) -> list[ServerSentEvent]:
    parser = SSEParser(limit)
    return [event for piece in pieces for event in parser.feed(piece)] + parser.close()


def outcome(pieces: list[bytes], limit: int) -> tuple[list[ServerSentEvent], str]:
    """Events and the error after them, as a reader sees them who goes on until something is raised."""
    parser, found = SSEParser(limit), []
    try:
        for piece in pieces:
            found += parser.feed(piece)
        found += parser.close()
    except BadReply as error:
        return found, error.message
    return found, ""


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [(None, b"a")]),
        (b"data:a\n\n", [(None, b"a")]),
        (b"data:  a\n\n", [(None, b" a")]),
        (b"data: a\r\n\r\n", [(None, b"a")]),
        (b"data: a\r\r", [(None, b"a")]),
        (b"data: a\r\n\ndata: b\n\r\n", [(None, b"a"), (None, b"b")]),
        (b"data: a\ndata: b\n\n", [(None, b"a\nb")]),
        (b"data\n\n", [(None, b"")]),
        (b"data:\n\n", [(None, b"")]),
        (b"data\ndata\n\n", [(None, b"\n")]),
        (b"event: x\ndata: a\n\n", [("x", b"a")]),
        (b"data: a\nevent: x\n\n", [("x", b"a")]),
        (b"event: x\nevent: y\ndata: a\n\n", [("y", b"a")]),
        (b"event:\ndata: a\n\n", [(None, b"a")]),
        (b"event: \ndata: a\n\n", [(None, b"a")]),
        (b"event: x\n\ndata: a\n\n", [(None, b"a")]),  # no data, no event; and its name is forgotten
        (b"id: 7\nretry: 10\nunknown: z\ndata: a\n\n", [(None, b"a")]),
        (b"DATA: a\n\n", []),
        (b" data: a\n\n", []),
        (b": ping\n\n", [(None, None)]),
        (b":\ndata: a\n\n", [(None, None), (None, b"a")]),
        (b"\n\n\ndata: a\n\n\n\n", [(None, b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(None, b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),  # only the first mark is one
        (b"data: a:b: c\n\n", [(None, b"a:b: c")]),
        (b"data: a", [(None, b"a")]),
        (b"data: a\n", [(None, b"a")]),
        (b"data: a\ndata: b", [(None, b"a\nb")]),
        (b"event: x", []),
        (b"\xef\xbb", []),
        (b"", []),
    ],
)
def test_events_are_those_of_the_standard(stream, events):
    assert parse(stream) == events
    assert parse(*[stream[i : i + 1] for i in range(len(stream))]) == events
    for cut in range(len(stream) + 1):
        assert parse(stream[:cut], stream[cut:]) == events


@pytest.mark.parametrize(
    "text", ["\u0085", "\u2028", "\u2029", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x00", "é", "🌻"]
)
def test_only_cr_and_lf_end_a_line(text):
    data = f"a{text}b".encode()
    assert parse(b"data: " + data + b"\n\n") == [(None, data)]


pieces_of_a_stream = st.sampled_from(
    [
        *(b"data", b"event", b"id", b":", b" ", b"x", b"\n", b"\r", b"\r\n", b"\n\n"),
        *(b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbb\xbf"),
        *(b"data: {}\n\n", b"event: ping\ndata: 1\n\n", b": c\n", b"data: " + b"y" * 30),
    ]
)


@given(
    st.lists(pieces_of_a_stream, max_size=30).map(b"".join),
    st.lists(st.integers(0, 400), max_size=8).map(sorted),
    st.sampled_from([12, 40, 10_000]),
)
def test_however_the_bytes_are_cut_the_events_are_the_same(stream, positions, limit):
    borders = [0, *(min(p, len(stream)) for p in positions), len(stream)]
    cut = [stream[a:b] for a, b in pairwise(borders)]
    assert outcome(cut, limit) == outcome([stream], limit)
    assert outcome([stream[i : i + 1] for i in range(len(stream))], limit) == outcome([stream], limit)


def lines_of_the_standard(stream: bytes) -> list[bytes]:
    """Whole lines, by the slowest reading of the standard there is."""
    lines, line, place = [], bytearray(), 0
    while place < len(stream):
        byte = stream[place : place + 1]
        if byte in (b"\r", b"\n"):
            place += 2 if stream[place : place + 2] == b"\r\n" else 1
            lines.append(bytes(line))
            line.clear()
        else:
            line += byte
            place += 1
    return [*lines, bytes(line), b""]


@given(st.lists(pieces_of_a_stream, max_size=30).map(b"".join))
def test_the_events_are_those_of_a_literal_reading_of_the_standard(stream):
    events, name, data = [], None, None
    for line in lines_of_the_standard(stream.removeprefix(b"\xef\xbb\xbf")):
        if not line:
            if data is not None:
                events.append((name, b"\n".join(data)))
            name = data = None
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not field:
            events.append((None, None))
        elif field == b"data":
            data = [*(data or []), value]
        elif field == b"event":
            name = value.decode("utf-8", "replace") or None
    assert parse(stream) == events


def test_an_event_up_to_the_limit_passes_and_one_above_it_does_not():
    line = b"data: " + b"x" * 94
    assert parse(line + b"\n\n", limit=100) == [(None, b"x" * 94)]
    parser = SSEParser(99)
    with pytest.raises(BadReply, match="99 bytes") as caught:
        parser.feed(line + b"\n\n")
    assert caught.value.phase == "stream"
    with pytest.raises(BadReply, match="99 bytes"):
        parser.feed(b"data: a\n\n")
    with pytest.raises(BadReply, match="99 bytes"):
        parser.close()


def test_the_limit_holds_for_a_line_that_never_ends_and_for_many_short_ones():
    endless, many = SSEParser(1000), SSEParser(1000)
    with pytest.raises(BadReply):
        for _ in range(100):
            endless.feed(b"data: " + b"x" * 20)
    with pytest.raises(BadReply):
        for _ in range(1000):
            many.feed(b"data:\n")


def test_events_before_one_that_is_too_large_are_returned_first():
    parser = SSEParser(20)
    assert parser.feed(b"data: a\n\ndata: " + b"x" * 50) == [ServerSentEvent(None, b"a")]
    with pytest.raises(BadReply):
        parser.feed(b"")


def test_comments_and_foreign_lines_take_no_memory_and_no_part_of_the_limit():
    parser = SSEParser(64)
    for _ in range(1000):
        assert parser.feed(b": still here, wait a little\nid: 123456789\nfoo: bar\n")[0].data is None
    assert parser.feed(b"data: a\n\n") == [ServerSentEvent(None, b"a")]


def test_lines_that_are_no_field_are_kept_for_the_error_and_not_without_end():
    parser = SSEParser()
    parser.feed(b'{"error": "busy"}\n' + b"<html>\n" * 10_000)
    assert parser.stray.startswith(b'{"error": "busy"}\n<html>')
    assert len(parser.stray) < 10_000


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_memory_is_a_small_multiple_of_the_bytes_however_small_the_pieces(size):
    line = b"data: " + b"x" * 1_000_000
    pieces = [line[i : i + size] for i in range(0, len(line), size)]
    tracemalloc.start()
    try:
        parser = SSEParser()
        for piece in pieces:
            parser.feed(piece)
        (event,) = parser.feed(b"\n\n")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert event.data == line[6:]
    assert peak < 6 * len(line)


def test_a_long_line_in_small_pieces_is_not_scanned_again_for_each():
    """The parser looks at the bytes of a piece, never again at those it holds: work is linear."""
    looked_at = 0

    class Line(bytearray):
        def __contains__(self, item):
            nonlocal looked_at
            looked_at += len(self)
            return super().__contains__(item)

        def __bytes__(self):
            nonlocal looked_at
            looked_at += len(self)
            return bytes(bytearray(self))

        def find(self, *args):
            nonlocal looked_at
            looked_at += len(self)
            return super().find(*args)

    parser = SSEParser()
    parser.feed(b"data: ")
    parser._line = Line(parser._line)
    for _ in range(20_000):
        parser.feed(b"xxxxx")
    assert looked_at == 0
    assert [len(event.data or b"") for event in parser.feed(b"\n\n")] == [100_000]
    assert looked_at <= 2 * 100_006


@given(st.binary(max_size=60), st.none() | st.text(min_size=1, max_size=5))
def test_what_is_encoded_is_parsed_again_but_for_the_spelling_of_line_ends(data, name):
    if name is not None and ("\n" in name or "\r" in name):
        with pytest.raises(ValueError, match="line ends"):
            encode(data, name)
        return
    assert parse(encode(data, name)) == [(name, data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))]
