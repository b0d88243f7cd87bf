"""The memory backend against a model, and within its bounds."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.state import Cache, Entry, State, open_state
from llmpipe.state.memory import MemoryCache
from llmpipe.testing import run
from llmpipe.types import Completion, Embeddings, Message


def entry(text: str = "hi") -> Entry:
    return Entry(Completion(message=Message("assistant", text), finish_reason="stop"), 7)


KEYS = [bytes([n]) * 4 for n in range(6)]
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "get", "get", "delete", "resize"]),
        st.sampled_from(KEYS),
        st.integers(0, 9),  # seconds that pass before
        st.integers(1, 20),  # seconds to keep, or entries to hold
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(steps)
def test_it_keeps_what_a_model_keeps(script):
    async def main():
        cache, model, most = MemoryCache(4, 10**6), OrderedDict(), 4
        loop = asyncio.get_running_loop()
        for number, (what, key, pause, size) in enumerate(script):
            await asyncio.sleep(pause)
            now = loop.time()
            if what == "put":
                assert cache.put(key, entry(str(number)), size) is None
                model.pop(key, None)
                model[key] = (number, now, now + size)
                while len(model) > most:
                    model.popitem(last=False)
            elif what == "get":
                found = await cache.get(key)
                said, began, ends = model.get(key, (0, 0.0, -1.0))
                if now < ends:
                    model.move_to_end(key)
                    assert found == (entry(str(said)), now - began)
                else:
                    model.pop(key, None)
                    assert found is None
            elif what == "delete":
                assert await cache.delete(key) == (now < model.pop(key, (0, 0.0, -1.0))[2])
            else:
                most = size % 5 + 1
                cache.resize(most, 10**6 + size)  # the same entries in the same order
                while len(model) > most:
                    model.popitem(last=False)
            if number % 3 == 0:  # what has expired goes when the size is asked
                for old in [k for k, (_, _, ends) in model.items() if ends <= now]:
                    del model[old]
                assert cache.size()[0] == len(model)
        await cache.clear()
        assert cache.size() == (0, 0)

    run(main())


async def test_nothing_is_given_after_its_time():
    cache = MemoryCache(10, 10**6)
    cache.put(b"k", entry(), 60)
    await asyncio.sleep(59.999)
    found = await cache.get(b"k")
    assert found is not None
    assert found[1] == pytest.approx(59.999)
    await asyncio.sleep(0.001)
    assert await cache.get(b"k") is None
    assert cache.size() == (0, 0)


async def test_bytes_are_bounded_and_the_least_recently_used_go_first():
    cache = MemoryCache(1000, 50_000)
    for number in range(100):
        cache.put(b"%d" % number, entry("x" * 3000), 60)
        await cache.get(b"0")
    entries, size = cache.size()
    assert size <= 50_000
    assert 8 <= entries <= 16
    assert await cache.get(b"0") is not None
    assert await cache.get(b"1") is None


async def test_a_reply_larger_than_the_cache_is_not_kept_and_removes_what_it_replaces():
    cache = MemoryCache(10, 10_000)
    cache.put(b"k", entry(), 60)
    cache.put(b"k", entry("x" * 20_000), 60)
    assert await cache.get(b"k") is None
    assert cache.size() == (0, 0)


async def test_a_reply_nested_too_deep_to_be_frozen_is_not_kept():
    cache, tree = MemoryCache(10, 10**6), {}
    for _ in range(900):
        tree = {"down": tree}
    cache.put(b"k", entry(), 60)
    cache.put(b"k", Entry(Completion(extra=tree)), 60)
    assert await cache.get(b"k") is None
    assert cache.size() == (0, 0)


@pytest.mark.parametrize("letter", ["x", "長", "😀"])
async def test_the_bound_on_bytes_is_one_on_memory(letter):
    cache, bound = MemoryCache(10**9, 2_000_000), 2_000_000
    cache.put(b"warm", entry(), 60)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1000):
            text = f"{number} " + letter * 2000
            done = Completion(
                message=Message("assistant", text), finish_reason="stop", extra={"fp": str(number)}
            )
            cache.put(b"key-of-32-bytes-%16d" % number, Entry(done, number), 60)
        del done, text
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cache.size()[1] <= bound
    assert 0.5 * bound < used <= bound


async def test_what_is_stored_is_a_copy_that_nobody_can_change():
    cache = MemoryCache(10, 10**6)
    extra: dict[str, Any] = {"list": [1], "map": {"a": 1}}
    cache.put(b"k", Entry(Completion(extra=extra)), 60)
    extra["list"].append(2)
    for _ in range(2):
        found = await cache.get(b"k")
        assert found is not None
        done: Any = found[0].result
        assert done.extra == {"list": [1], "map": {"a": 1}}
        with pytest.raises(TypeError):
            done.extra["list"].append(2)
        with pytest.raises(TypeError):
            done.extra["map"]["b"] = 2
        with pytest.raises(TypeError):
            done.headers["new"] = "x"


async def test_embeddings_are_stored_as_they_are():
    cache = MemoryCache(10, 10**6)
    vectors = Embeddings(([0.25] * 1536, [0.5] * 1536))
    cache.put(b"k", Entry(vectors), 60)
    found = await cache.get(b"k")
    assert found is not None
    assert found[0].result == vectors
    assert cache.size()[1] > 2 * 1536 * 24


# ---------------------------------------------------------------- opening


async def test_a_url_opens_a_backend_whose_caches_are_found_by_name():
    state = open_state("memory://")
    assert isinstance(state, State)
    cache = state.cache("a", max_entries=10, max_bytes=10_000)
    assert isinstance(cache, Cache)
    cache.put(b"k", entry(), 60)
    again = state.cache("a", max_entries=5, max_bytes=10_000)
    assert await again.get(b"k") is not None
    assert await state.cache("b", max_entries=5, max_bytes=10_000).get(b"k") is None
    await state.aclose()  # a chain that was closed may be called again, and finds what it had
    assert await state.cache("a", max_entries=5, max_bytes=10_000).get(b"k") is not None


@pytest.mark.parametrize(
    ("url", "says"), [("memory", "begins with a scheme"), ("", "scheme"), ("nosuch://x", "memory")]
)
def test_a_url_that_opens_nothing_says_what_would(url, says):
    with pytest.raises(ConfigError, match=says):
        open_state(url)


def test_a_wrong_url_is_not_repeated_for_it_may_hold_a_password():
    with pytest.raises(ConfigError) as caught:
        open_state("nosuch://user:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


def test_an_installed_package_brings_its_scheme(monkeypatch):
    class Point:
        name = "other"

        def load(self):
            return lambda url: ("opened", url)

    monkeypatch.setattr(
        "llmpipe.state.entry_points", lambda group: [Point()] if group == "llmpipe.state" else []
    )
    opened: Any = open_state("other://somewhere")
    assert opened == ("opened", "other://somewhere")


@pytest.mark.parametrize(("entries", "size"), [(-1, 100), (1, -1), (float("nan"), 100)])
def test_bounds_that_nothing_could_keep_are_refused_and_the_old_ones_stay(entries, size):
    with pytest.raises(ConfigError, match="below 0"):
        MemoryCache(entries, size)

    async def resized() -> None:
        cache = MemoryCache(10, 10_000)
        cache.put(b"a", entry(), 10.0)
        with pytest.raises(ConfigError, match="below 0"):
            cache.resize(entries, size)
        assert cache.size()[0] == 1
        cache.resize(0, 0)
        assert cache.size() == (0, 0)

    run(resized())
