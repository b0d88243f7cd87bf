from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any, cast
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects.eventstream import EventStreamMessage, EventStreamParser, encode
from llmpipe.errors import BadReply

values = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40), st.text(max_size=20)
)
header_sets = st.dictionaries(st.text(min_size=1, max_size=20), values, max_size=5)
messages = st.lists(st.tuples(header_sets, st.binary(max_size=60)), max_size=5)

ONE = encode({":event-type": "a", "n": 7}, b'{"x": 1}')


def parsed(stream: bytes, cuts: list[int]) -> list[tuple[dict, bytes]]:
    parser = EventStreamParser()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    found = [m for a, b in pairwise(edges) for m in parser.feed(stream[a:b])]
    assert parser.pending == 0
    return [(dict(message.headers), message.payload) for message in found]


def resealed(message: bytes, *, prelude: bool = True) -> bytes:
    """`message` with checksums that fit what it says."""
    if prelude:
        message = message[:8] + struct.pack(">I", crc32(message[:8])) + message[12:]
    return message[:-4] + struct.pack(">I", crc32(message[:-4]))


def with_headers(raw: bytes) -> bytes:
    return resealed(struct.pack(">II", 16 + len(raw), len(raw)) + b"0000" + raw + b"0000")


@given(messages, st.lists(st.integers(0, 10_000), max_size=6))
def test_what_is_encoded_is_parsed_however_it_is_cut(said, cuts):
    stream = b"".join(encode(headers, payload) for headers, payload in said)
    assert parsed(stream, cuts) == [(headers, payload) for headers, payload in said]


def test_every_single_byte_may_be_a_read_of_its_own():
    parser = EventStreamParser()
    stream = ONE * 3
    found = [len(parser.feed(stream[at : at + 1])) for at in range(len(stream))]
    assert [at + 1 for at, count in enumerate(found) if count] == [len(ONE), 2 * len(ONE), 3 * len(ONE)]


@given(st.integers(0, len(ONE) - 1), st.integers(1, 255))
def test_a_changed_byte_never_gives_a_message(at, flip):
    broken = bytearray(ONE)
    broken[at] ^= flip
    parser = EventStreamParser(max_message_bytes=1000)
    with pytest.raises(BadReply) as caught:
        parser.feed(bytes(broken))
    assert caught.value.code in ("bad_event", "event_too_large")
    assert caught.value.phase == "stream"


@pytest.mark.parametrize("cut", range(1, len(ONE)))
def test_a_message_cut_short_is_pending_and_not_given_out(cut):
    parser = EventStreamParser()
    assert parser.feed(ONE + ONE[:cut]) == [EventStreamMessage({":event-type": "a", "n": 7}, b'{"x": 1}')]
    assert parser.pending == cut


def test_messages_before_a_broken_one_are_given_out_first():
    parser = EventStreamParser()
    assert len(parser.feed(ONE + b"\0" * 16 + ONE)) == 1
    for _ in range(2):
        with pytest.raises(BadReply, match="checksum"):
            parser.feed(b"")


@pytest.mark.parametrize("cut", [4, 11, 12, 13, 40])
def test_a_message_over_the_limit_is_refused_by_its_prelude(cut):
    parser = EventStreamParser(max_message_bytes=100)
    big = encode({}, b"x" * 101)
    with pytest.raises(BadReply) as caught:
        parser.feed(big[:cut])
        parser.feed(big[cut:20])
    assert caught.value.code == "event_too_large"


def test_text_is_no_event_stream_however_it_comes():
    for size in (1, 5, 12, 100):
        parser = EventStreamParser()
        text = b'{"message": "The security token included in the request is invalid."}'
        with pytest.raises(BadReply, match="no event stream"):
            for at in range(0, len(text), size):
                parser.feed(text[at : at + size])


@pytest.mark.parametrize(
    "raw",
    [
        b"\x05abc",  # a name that is cut
        b"\x01a",  # no type
        b"\x01a\x0a",  # a type that there is not
        b"\x01a\x07\x00\x05abc",  # a string that is cut
        b"\x01a\x04\x00\x00",  # an integer that is cut
        b"\x01a\x09" + b"\0" * 15,  # a uuid that is cut
        b"\x01a\x07\x00\x01\xff",  # no UTF-8
        b"\x01\xff\x00",
        b"\x01a\x00\x01a\x00",  # twice
        b"\x00\x00",  # without a name
    ],
)
def test_headers_that_are_none_are_refused(raw):
    with pytest.raises(BadReply, match="header"):
        EventStreamParser().feed(with_headers(raw))


def test_headers_longer_than_the_message_are_refused():
    broken = resealed(ONE[:4] + struct.pack(">I", len(ONE)) + ONE[8:])
    with pytest.raises(BadReply, match="cannot have"):
        EventStreamParser().feed(broken)


def test_every_type_of_value_is_read():
    raw = b"".join(
        (
            b"\x01a\x00",
            b"\x01b\x01",
            b"\x01c\x02\xff",
            b"\x01d\x03\xff\xfe",
            b"\x01e\x04\xff\xff\xff\xfd",
            b"\x01f\x05" + b"\xff" * 7 + b"\xfc",
            b"\x01g\x06\x00\x02\x00\xff",
            b"\x01h\x07\x00\x02\xc3\xa9",
            b"\x01i\x08\x00\x00\x01\x97\x00\x00\x00\x00",
            b"\x01j\x09" + bytes(range(16)),
        )
    )
    (message,) = EventStreamParser().feed(with_headers(raw))
    assert dict(message.headers) == {
        "a": True,
        "b": False,
        "c": -1,
        "d": -2,
        "e": -3,
        "f": -4,
        "g": b"\x00\xff",
        "h": "é",
        "i": 0x19700000000,
        "j": bytes(range(16)),
    }


def test_headers_are_shared_and_cannot_be_changed():
    first, second = EventStreamParser().feed(ONE * 2)
    assert first.headers is second.headers
    with pytest.raises(TypeError):
        cast(Any, first.headers)["n"] = 8


def test_what_the_format_has_no_room_for_is_not_encoded():
    for headers in ({"": "x"}, {"a" * 256: "x"}, {"a": "x" * 32768}):
        with pytest.raises(ValueError, match="header"):
            encode(headers)
    with pytest.raises(ValueError, match="over the format's limit"):
        encode({f"h{number}": "x" * 32000 for number in range(5)})


def test_a_long_message_in_small_reads_is_held_once():
    parser = EventStreamParser()
    stream = encode({"a": "b"}, bytes(1_000_000))
    for at in range(0, len(stream), 1000):
        found = parser.feed(stream[at : at + 1000])
    assert len(found[0].payload) == 1_000_000
    assert parser.pending == 0


@given(messages)
def test_the_vendors_own_parser_reads_what_is_encoded(said):
    buffer = pytest.importorskip("botocore.eventstream").EventStreamBuffer()
    buffer.add_data(b"".join(encode(headers, payload) for headers, payload in said))
    assert [(message.headers, message.payload) for message in buffer] == said
