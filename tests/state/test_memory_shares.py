"""The memory cache where owners have shares, and where replies are compressed."""

from __future__ import annotations

import asyncio
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.state import Entry
from llmpipe.state.memory.cache import OWNER_BYTES, MemoryCache
from llmpipe.testing import run
from llmpipe.types import Completion, Message, Ranking

ROOM = 40_000


def entry(text: str = "hi") -> Entry:
    return Entry(Completion(message=Message("assistant", text), finish_reason="stop"), 7)


def key(owner: str, number: int) -> bytes:
    return owner.encode().ljust(OWNER_BYTES, b"-") + bytes([number])


def sound(cache: MemoryCache) -> None:
    """The books agree with what is held."""
    held = cache._held
    assert cache._bytes == sum(one.size for one in held.values()) <= cache._max_bytes
    assert len(held) <= cache._max_entries
    if cache._rooms is None:
        return
    owned = {name: room for name, room in cache._rooms.items() if room.keys}
    assert owned == cache._rooms  # nobody who has nothing is remembered
    assert {k for room in owned.values() for k in room.keys} == set(held)
    for name, room in owned.items():
        assert all(k[:OWNER_BYTES] == name for k in room.keys)
        assert room.bytes == sum(held[k].size for k in room.keys) <= cache._max_bytes * cache._share
        assert len(room.keys) <= cache._max_entries * cache._share
        assert [k for k in held if k in room.keys] == list(room.keys)  # the same order of use


steps = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["put", "put", "get", "get", "delete"]),
        st.integers(0, 5),
        st.integers(0, 12_000),  # letters
        st.floats(0, 5),  # seconds that pass before
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(steps, st.sampled_from(["", "zstd"]))
def test_what_an_owner_finds_does_not_depend_on_the_other_though_there_is_little_room(script, compress):
    async def main(owners):
        cache = MemoryCache(8, ROOM)
        cache.shape(compress=compress, above=1000, max_share=0.5)
        seen = []
        for owner, what, number, letters, pause in script:
            await asyncio.sleep(pause)
            if owner not in owners:
                continue
            if what == "put":
                cache.put(key(owner, number), entry(f"{owner}{number}" + "x" * letters), 30)
            elif what == "get":
                seen.append((owner, await cache.get(key(owner, number))))
            else:
                seen.append((owner, await cache.delete(key(owner, number))))
            sound(cache)
        return [found for owner, found in seen if owner == "a"]

    assert run(main("ab")) == run(main("a"))


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 4), st.sampled_from([1.0, 0.5, 0.1, 0.9])), max_size=40
    )
)
def test_shares_may_change_at_any_time(script):
    async def main():
        cache = MemoryCache(12, ROOM)
        for number, owner, share in script:
            cache.put(key("abcde"[owner], number), entry("x" * 500 * number), 60)
            if share != 0.9:
                cache.shape(max_share=share)
            sound(cache)
        cache.resize(3, ROOM // 2)
        await cache.clear()
        sound(cache)
        assert cache.size() == (0, 0)

    run(main())


async def test_an_owner_that_needs_room_loses_its_own_least_recently_used():
    cache = MemoryCache(8, 10**6)
    cache.shape(max_share=0.25)
    cache.put(key("a", 0), entry(), 60)
    for number in range(3):
        cache.put(key("b", number), entry(), 60)
        assert await cache.get(key("b", 0)) is not None
    assert [await cache.get(key("b", n)) is not None for n in range(3)] == [True, False, True]
    assert await cache.get(key("a", 0)) is not None


async def test_a_reply_above_the_share_of_one_is_not_kept():
    cache = MemoryCache(8, ROOM)
    cache.shape(max_share=0.25)
    cache.put(key("a", 0), entry("x" * ROOM), 60)
    cache.put(key("a", 1), entry("x" * (ROOM // 3)), 60)
    assert cache.size() == (0, 0)
    few = MemoryCache(3, ROOM)
    few.shape(max_share=0.25)  # of three entries a quarter is none
    few.put(key("a", 0), entry(), 60)
    assert few.size() == (0, 0)


# ---------------------------------------------------------------- compression

LONG = "the same words " * 1000


async def test_a_compressed_reply_takes_less_room_and_is_the_same():
    plain, packed = MemoryCache(8, 10**6), MemoryCache(8, 10**6)
    packed.shape(compress="zstd")
    for cache in (plain, packed):
        cache.put(b"k", entry(LONG), 60)
        found = await cache.get(b"k")
        assert found is not None
        assert found[0] == entry(LONG)
    assert packed.size()[1] < plain.size()[1] / 5


async def test_short_replies_and_those_that_bytes_cannot_say_are_kept_as_they_are():
    cache = MemoryCache(8, 10**6)
    cache.shape(compress="zstd", above=2000)
    odd: Any = Entry(Ranking(extra={"a": array("d", [1.0] * 1000)}))
    for number, one in enumerate((entry("short"), odd)):
        cache.put(bytes([number]), one, 60)
        assert isinstance(cache._held[bytes([number])].entry, Entry)
        found = await cache.get(bytes([number]))
        assert found is not None
        assert found[0] == one


async def test_what_is_kept_stays_readable_when_compression_is_switched():
    cache = MemoryCache(8, 10**6)
    cache.put(b"1", entry(LONG), 60)
    cache.shape(compress="zstd")
    cache.put(b"2", entry(LONG), 60)
    cache.shape()
    cache.put(b"3", entry(LONG), 60)
    for name in (b"1", b"2", b"3"):
        found = await cache.get(name)
        assert found is not None
        assert found[0] == entry(LONG)


async def test_a_compressed_reply_is_a_copy_for_each():
    cache = MemoryCache(8, 10**6)
    cache.shape(compress="zstd", above=0)
    cache.put(b"k", Entry(Completion(message=Message("assistant", LONG), extra={"a": [1]})), 60)
    one, two = await cache.get(b"k"), await cache.get(b"k")
    assert one is not None
    assert two is not None
    assert one[0].result == two[0].result
    with pytest.raises(TypeError):
        one[0].result.extra["a"].append(2)


@pytest.mark.parametrize("wrong", [{"compress": "gzip"}, {"max_share": 0}, {"max_share": 1.5}])
def test_a_shape_that_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        MemoryCache(1, 1).shape(**wrong)
