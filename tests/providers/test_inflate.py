"""Gzip under a cap, however the bytes are cut."""

from __future__ import annotations

import gzip
import random
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import BadReply, StreamBroken
from llmpipe.providers.inflate import Inflate


def inflated(data: bytes, cuts: list[int] | None = None, max_bytes: int = 2**26) -> bytes:
    inflate = Inflate("gzip", max_bytes)
    ends = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or [])})
    plain = b"".join(inflate.feed(data[a:b]) for a, b in pairwise(ends))
    inflate.close()
    return plain


@given(st.binary(max_size=3000), st.lists(st.integers(0, 10_000), max_size=8), st.integers(0, 9))
def test_what_was_packed_comes_out_however_it_is_cut(plain, cuts, level):
    assert inflated(gzip.compress(plain, level), cuts) == plain


@pytest.mark.parametrize("size", [2**18 - 1, 2**18, 2**18 + 1, 2**20, 3 * 2**18])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_nothing_is_left_inside_at_the_edges_of_a_step(size, level):
    plain = bytes(random.Random(size).choices(b"ab cd", k=size))
    for flush in (zlib.Z_SYNC_FLUSH, zlib.Z_FINISH):
        packer = zlib.compressobj(level, wbits=31)
        data = packer.compress(plain) + packer.flush(flush)
        assert Inflate("gzip", 2**26).feed(data) == plain


@pytest.mark.parametrize("size", [2**18 - 1, 2**18 + 1, 2**18 + 100, 2**18 + 257, 3 * 2**18 + 5])
def test_what_has_come_is_given_out_at_once(size):
    """A copy that the end of a step has cut in two has no bytes of its own to come."""
    plain = b"a" * size
    packed = gzip.compress(plain, 9)
    inflate = Inflate("gzip", 2**26)
    assert inflate.feed(packed[:-8]) == plain  # all but the sum and the length
    assert inflate.feed(packed[-8:]) == b""
    inflate.close()


@given(st.binary(min_size=20, max_size=300), st.integers(1, 300))
def test_a_cut_is_never_a_success(plain, cut):
    packed = gzip.compress(plain)
    with pytest.raises((StreamBroken, BadReply)):
        inflated(packed[: -min(cut, len(packed))])


@given(st.binary(max_size=200))
def test_junk_is_a_typed_error_or_nothing(junk):
    with pytest.raises((StreamBroken, BadReply)):
        inflated(junk)


@given(st.binary(min_size=1, max_size=20), st.lists(st.integers(0, 500), max_size=4))
def test_nothing_may_follow_the_end(more, cuts):
    with pytest.raises(BadReply, match="goes on after the end"):
        inflated(gzip.compress(b"text") + more, cuts)


@pytest.mark.parametrize("limit", [1000, 300_000])
def test_the_cap_is_exact(limit):
    plain = random.Random(limit).randbytes(limit)
    assert inflated(gzip.compress(plain), max_bytes=limit) == plain
    with pytest.raises(BadReply, match="decompress to more than"):
        inflated(gzip.compress(plain + b"x"), max_bytes=limit)


def test_a_ratio_that_no_text_has_is_a_bomb_from_a_mebibyte_on():
    packed = gzip.compress(b"\0" * 2**20)
    assert len(inflated(packed)) == 2**20
    with pytest.raises(BadReply, match="gzip bomb"):
        inflated(gzip.compress(b"\0" * 2**22))
