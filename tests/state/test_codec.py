"""Stored replies as bytes: exact, and safe to read whoever wrote them."""

from __future__ import annotations

import enum
import math
from array import array
from typing import Any

import orjson
import pytest
import zstandard
from attrs import fields
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmpipe.errors import BadReply, ConfigError
from llmpipe.state import codec
from llmpipe.state.codec import CorruptEntry, decode_entry, encode_entry
from llmpipe.state.coding import _KINDS, _PARTS, _REPLIES
from llmpipe.state.contracts.cache import Entry
from llmpipe.types import (
    Audio,
    Completion,
    Cost,
    Document,
    Embeddings,
    Image,
    Message,
    Opaque,
    Ranked,
    Ranking,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)

texts = st.text(max_size=12)
names = texts | st.sampled_from(("$", "v", "", "text", "\x00"))
floats = st.floats(allow_nan=False)
ints = st.integers() | st.integers(-(2**80), 2**80)
numbers = ints | floats
values = st.recursive(
    st.none() | st.booleans() | ints | floats | names | st.binary(max_size=5),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(names, inner, max_size=3),
        st.dictionaries(st.integers() | st.booleans() | names, inner, max_size=2),
    ),
    max_leaves=8,
)
extras = st.dictionaries(names, values, max_size=3)
maybe_text = st.none() | texts
leaves = st.one_of(
    st.builds(Text, texts, extras),
    st.builds(Image, maybe_text, maybe_text, maybe_text, maybe_text, extras),
    st.builds(Document, maybe_text, maybe_text, maybe_text, maybe_text, maybe_text, maybe_text, extras),
    st.builds(Audio, texts, texts, extras),
    st.builds(Reasoning, texts, maybe_text, maybe_text, extras, texts),
    st.builds(ToolCall, texts, texts, texts, extras),
    st.builds(Refusal, texts, extras),
    st.builds(Opaque, texts, extras),
)
parts = st.recursive(
    leaves,
    lambda inner: st.builds(
        ToolResult, texts, st.lists(inner, max_size=3), st.booleans(), maybe_text, extras
    ),
    max_leaves=4,
)
messages = st.builds(
    Message,
    st.sampled_from(("system", "user", "assistant", "tool")),
    st.lists(parts, max_size=4),
    maybe_text,
    extras,
    texts,
)
usages = st.none() | st.builds(
    Usage, ints, ints, ints, ints, ints, st.sampled_from(("provider", "estimated")), extras
)
charges = st.none() | st.builds(Cost, ints, ints, st.booleans())
headers = st.dictionaries(texts, texts, max_size=3)
warnings = st.lists(texts, max_size=2).map(tuple)
completions = st.builds(
    Completion,
    id=texts,
    model=texts,
    message=messages,
    finish_reason=st.sampled_from(
        ("stop", "length", "tool_calls", "content_filter", "refusal", "error", None)
    ),
    usage=usages,
    provider=texts,
    created=st.none() | numbers,
    request_id=maybe_text,
    charge=charges,
    headers=headers,
    warnings=warnings,
    extra=extras,
)
rest = {
    "model": texts,
    "usage": usages,
    "id": texts,
    "provider": texts,
    "request_id": maybe_text,
    "charge": charges,
    "headers": headers,
    "extra": extras,
    "warnings": warnings,
    "dialect": texts,
}
rows = st.lists(st.floats(), max_size=5) | st.lists(numbers, max_size=5)
embeddings = st.builds(Embeddings, st.lists(rows | rows.map(tuple), max_size=4).map(tuple), **rest)
rankings = st.builds(Ranking, st.lists(st.builds(Ranked, ints, numbers, extras)).map(tuple), **rest)
entries = st.builds(Entry, completions | embeddings | rankings, st.none() | ints)


def plain(value: Any) -> Any:
    """All that `value` is made of, with the classes of its values: unlike ``==``, which takes 1 for 1.0."""
    kind = type(value)
    if hasattr(kind, "__attrs_attrs__"):
        return kind.__name__, [(a.name, plain(getattr(value, a.name))) for a in fields(kind)]
    if isinstance(value, dict):
        return "dict", [(plain(k), plain(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return "list" if isinstance(value, list) else "tuple", [plain(item) for item in value]
    if kind is float:
        return "float", value.hex(), math.copysign(1.0, value)
    return kind.__name__, value


@settings(max_examples=150)
@given(entries, st.sampled_from(("", "zstd")))
def test_what_is_read_is_what_was_written_to_the_last_field(entry, compress):
    data = encode_entry(entry, compress=compress, above=0)
    assert plain(decode_entry(data)) == plain(entry)


def test_what_is_read_cannot_be_changed():
    entry = Entry(Embeddings(([1.0],), extra={"a": [{"b": 1}]}))
    got: Any = decode_entry(encode_entry(entry)).result
    for change in (
        lambda: got.vectors[0].append(1.0),
        lambda: got.extra["a"].append(1),
        lambda: got.extra["a"][0].update(c=1),
        lambda: got.headers.update(c="1"),
    ):
        with pytest.raises(TypeError):
            change()


@given(entries)
def test_equal_bytes_come_of_equal_entries(entry):
    data = encode_entry(entry)
    assert encode_entry(decode_entry(data)) == data


@settings(max_examples=100)
@given(entries, st.data())
def test_a_changed_bit_or_a_lost_byte_is_found(entry, data):
    good = encode_entry(entry)
    at = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptEntry):
        decode_entry(bytes(flipped))
    with pytest.raises(CorruptEntry):
        decode_entry(good[:at])
    with pytest.raises(CorruptEntry):
        decode_entry(good + b"\0")


@given(st.binary(max_size=200))
def test_bytes_of_anybody_are_refused_by_type(data):
    with pytest.raises(CorruptEntry):
        decode_entry(data)


def sealed(body: bytes, *, flags: int = 0) -> bytes:
    """`body` with a head that fits: what an enemy who knows the format can make."""
    digest = codec._digest(flags, body, b"", b"")
    return codec._HEAD.pack(b"lp", codec.VERSION, flags, digest) + body


def told(value: Any, more: bytes = b"") -> bytes:
    text = orjson.dumps(value)
    return sealed(len(text).to_bytes(4, "little") + text + more)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200)
@given(json_values, st.binary(max_size=20))
def test_any_json_under_a_valid_checksum_is_an_entry_or_refused_by_type(value, more):
    with pytest.raises(CorruptEntry):
        decode_entry(told(value, more))


@settings(max_examples=150)
@given(entries, st.data())
def test_a_valid_entry_with_one_value_replaced_is_an_entry_or_refused_by_type(entry, data):
    good = encode_entry(entry)[20:]
    length = int.from_bytes(good[:4], "little")
    tree = orjson.loads(good[4 : 4 + length])
    places = list(_places(tree))
    holder, key = data.draw(st.sampled_from(places))
    holder[key] = data.draw(
        json_values | st.sampled_from(({"$": "int", "v": "1"}, {"$": "dict", "v": [[[], 1]]}))
    )
    try:
        got = decode_entry(told(tree, good[4 + length :]))
    except CorruptEntry:
        return
    assert isinstance(got, Entry)
    assert plain(decode_entry(encode_entry(got))) == plain(got)


def _places(tree: Any):
    """Each holder and key of a JSON tree."""
    for key in range(len(tree)) if isinstance(tree, list) else list(tree) if isinstance(tree, dict) else ():
        yield tree, key
        yield from _places(tree[key])


@pytest.mark.parametrize(
    ("value", "more", "says"),
    [
        (["chat", {}, None], b"", "without message"),
        (["chat", {"message": {"role": "root", "parts": []}}, None], b"", "root"),
        (["chat", {"message": {"role": "user", "parts": [["os.system", {}]]}}, None], b"", "not a part"),
        (["chat", {"message": {"role": "user", "parts": [], "__class__": "x"}}, None], b"", "__class__"),
        (["embed", {"vectors": [3]}, None], b"\0" * 16, "cut off"),
        (["embed", {"vectors": [10**15]}, None], b"\0" * 16, "cut off"),
        (["embed", {"vectors": [1]}, None], b"\0" * 16, "left over"),
        (["embed", {"vectors": [0]}, None], b"", "cut off"),
        (["rerank", {"results": [{"index": 0}]}, None], b"", "without score"),
        (["rerank", {"results": [{"index": "0", "score": 1}]}, None], b"", "number"),
        (["rerank", {}, 1.5], b"", "whole number"),
        (["rerank", {"extra": {"a": {"$": "int", "v": "9" * 5000}}}, None], b"", "tagged"),
        (["rerank", {"extra": {"a": {"$": "pickle", "v": "gASV"}}}, None], b"", "tagged"),
        (["rerank", {"extra": {"a": {"$": "bytes", "v": "!"}}}, None], b"", "not bytes"),
        (["rerank", {"extra": [1]}, None], b"", "not a mapping"),
    ],
)
def test_a_forged_entry_is_refused_by_type(value, more, says):
    with pytest.raises(CorruptEntry, match=says):
        decode_entry(told(value, more))


def test_marker_objects_of_other_libraries_stay_data(tmp_path):
    canary = tmp_path / "canary"
    marker = {
        "lc": 1,
        "type": "constructor",
        "id": ["os", "system"],
        "kwargs": {"command": f"touch {canary}"},
        "py/object": "os.system",
        "!!python/object/apply:os.system": [f"touch {canary}"],
    }
    entry = Entry(Ranking(extra=marker))
    assert decode_entry(encode_entry(entry)).result.extra == marker
    pickled = b"cposix\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    for body in (pickled, sealed(pickled), sealed(pickled, flags=1)):
        with pytest.raises(CorruptEntry):
            decode_entry(body)
    assert not canary.exists()


def test_another_version_or_an_unknown_flag_is_refused_and_says_so():
    good = bytearray(encode_entry(Entry(Ranking())))
    good[2] = codec.VERSION + 1
    with pytest.raises(CorruptEntry, match=f"version {codec.VERSION + 1}"):
        decode_entry(bytes(good))
    good[2:4] = bytes((codec.VERSION, 2))
    with pytest.raises(CorruptEntry, match="flags 2"):
        decode_entry(bytes(good))


def test_an_entry_is_read_under_its_own_key_only():
    data = encode_entry(Entry(Ranking()), context=b"key of a")
    assert decode_entry(data, context=b"key of a") == Entry(Ranking())
    for other in (b"key of b", b"", b"key of a" + data[20:21]):
        with pytest.raises(CorruptEntry, match="another key"):
            decode_entry(data, context=other)


def test_without_the_secret_nobody_makes_an_entry_that_is_read():
    data = encode_entry(Entry(Ranking()), secret=b"s1")
    assert decode_entry(data, secret=b"s1") == Entry(Ranking())
    for forged in (data, encode_entry(Entry(Ranking()))):
        with pytest.raises(CorruptEntry):
            decode_entry(forged, secret=b"s2")


def test_nesting_is_refused_by_type_both_ways():
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(BadReply, match="nested too deep") as caught:
        encode_entry(Entry(Ranking(extra={"a": deep})))
    assert caught.value.code == "not_storable"
    for depth in (900, 5000):  # what orjson reads, and what it does not
        text = b'["rerank",{"extra":{"a":' + b"[" * depth + b"]" * depth + b"}},null]"
        try:  # newer Pythons have room for the first
            decode_entry(sealed(len(text).to_bytes(4, "little") + text))
        except CorruptEntry:
            continue
        assert depth == 900


@pytest.mark.parametrize(
    "extra",
    [
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": object()},
        {"a": {1, 2}},
        {"a": 1j},
        {"a": 10**1200},
        {"a": array("d")},
    ],
)
def test_what_has_no_exact_form_is_refused_by_type(extra):
    with pytest.raises(BadReply) as caught:
        encode_entry(Entry(Ranking(extra=extra)))
    assert caught.value.code == "not_storable"


@pytest.mark.parametrize(
    "result",
    [
        Completion(finish_reason="made up"),  # type: ignore[arg-type]
        Completion(message="hi"),  # type: ignore[arg-type]
        Completion(created="now"),  # type: ignore[arg-type]
        Completion(usage=Cost()),  # type: ignore[arg-type]
        Ranking(warnings=(1,)),  # type: ignore[arg-type]
        Ranking(extra=None),  # type: ignore[arg-type]
        Usage(),
    ],
)
def test_a_value_in_the_wrong_place_is_refused_when_it_is_written(result):
    with pytest.raises(BadReply):
        encode_entry(Entry(result))


def test_text_of_an_enumeration_is_stored_as_its_text():
    colour = enum.StrEnum("colour", {"RED": "red"})
    got = decode_entry(encode_entry(Entry(Ranking(extra={"a": colour.RED})))).result
    assert type(got.extra["a"]) is str
    assert got.extra == {"a": "red"}


def test_every_field_of_every_part_and_reply_has_a_form():
    kinds = [*_PARTS.values(), *_REPLIES.values(), Message, Usage, Cost, Ranked]
    missing = {
        f"{kind.__name__}.{a.name}: {a.type}"
        for kind in kinds
        for a in fields(kind)
        if a.name != "vectors" and str(a.type) not in _KINDS
    }
    assert missing == set()


# ------------------------------------------------------------ compression

LONG = Entry(Completion(message=Message("assistant", "the same words " * 1000)))


def test_long_entries_are_compressed_and_short_ones_are_not():
    assert len(encode_entry(LONG, compress="zstd")) < len(encode_entry(LONG)) / 20
    short = Entry(Ranking())
    assert encode_entry(short, compress="zstd") == encode_entry(short)


def test_what_does_not_shrink_is_stored_as_it_is():
    noise = Entry(Embeddings((([0.1234567891] * 1),)))
    assert encode_entry(noise, compress="zstd", above=0) == encode_entry(noise)


def test_a_bomb_is_refused_before_it_unfolds():
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(CorruptEntry, match="unfold"):
        decode_entry(sealed(bomb, flags=1))
    compressing = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    silent = compressing.compress(bytes(1 << 20)) + compressing.flush()
    with pytest.raises(CorruptEntry, match="unfold"):
        decode_entry(sealed(silent, flags=1))
    with pytest.raises(CorruptEntry, match="unfold"):
        decode_entry(encode_entry(LONG, compress="zstd"), max_bytes=1000)


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_frame_under_a_valid_checksum_is_refused_by_type(data):
    frame = bytearray(encode_entry(LONG, compress="zstd")[20:])
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        got = decode_entry(sealed(bytes(frame), flags=1))
    except CorruptEntry:
        return
    assume(got != LONG)
    assert isinstance(got, Entry)


def test_an_unknown_compression_names_the_known_one():
    with pytest.raises(ConfigError, match="zstd"):
        encode_entry(LONG, compress="lzma")
