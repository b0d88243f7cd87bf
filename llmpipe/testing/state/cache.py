# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What every cache keeps to."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe.state import Cache, Entry, State
from llmpipe.testing.state.harness import Harness, fill
from llmpipe.types import Completion, Embeddings, Message, Ranked, Ranking, Reasoning, ToolCall, Usage

__all__ = ("CacheSuite",)

KEY = b"\x00\xff k"


def entry(text: str = "hi", saved: int | None = 7) -> Entry:
    return Entry(Completion(message=Message("assistant", text), finish_reason="stop"), saved)


def cache(state: State, name: str = "c") -> Cache:
    return state.cache(name, max_entries=10_000, max_bytes=1 << 26)


async def put(store: Cache, key: bytes, value: Entry, keep: float = 600.0) -> None:
    waiting = store.put(key, value, keep)
    if waiting is not None:
        await waiting


class CacheSuite:
    """The cache: replies as they were, each for its time."""

    pytestmark = pytest.mark.asyncio

    async def test_what_nobody_has_put_is_missed(self, harness: Harness) -> None:
        store = cache(await harness.open())
        assert await store.get(KEY) is None
        assert await store.delete(KEY) is False
        assert store.size() in ((0, 0), None)

    @pytest.mark.parametrize(
        "result",
        [
            Completion(
                message=Message("assistant", ("é", Reasoning("why"), ToolCall("id", "f", '{"a": 1}'))),
                finish_reason="tool_calls",
                usage=Usage(3, 4),
                extra={"deep": {"list": [1, None, "x"]}},
            ),
            Embeddings(([0.25, -1.5e-7], [1.0, 2.0]), usage=Usage(5)),
            Ranking((Ranked(1, 0.75), Ranked(0, 0.5))),
        ],
        ids=["completion", "embeddings", "ranking"],
    )
    async def test_a_reply_comes_back_as_it_was(self, harness: Harness, result: Any) -> None:
        store = cache(await harness.open())
        for saved in (None, 0, 2**52 + 1):
            await put(store, KEY, Entry(result, saved))
            found = await cache(await harness.reopen()).get(KEY)
            assert found is not None
            assert found[0] == Entry(result, saved)
            assert type(found[0].result) is type(result)

    async def test_an_entry_is_as_old_as_it_is_and_gone_after_its_time(self, harness: Harness) -> None:
        store = cache(await harness.open())
        await put(store, KEY, entry(), 1000.0)
        await harness.pass_time(900.0)
        found = await store.get(KEY)
        assert found is not None
        assert found[1] == pytest.approx(900.0, abs=30.0)
        await harness.pass_time(110.0)
        assert await store.get(KEY) is None
        assert await store.delete(KEY) is False

    async def test_a_newer_entry_takes_the_place_and_the_time_of_the_older(self, harness: Harness) -> None:
        store = cache(await harness.open())
        await put(store, KEY, entry("old"), 1000.0)
        await harness.pass_time(500.0)
        await put(store, KEY, entry("new"), 1000.0)
        await harness.pass_time(700.0)
        found = await store.get(KEY)
        assert found is not None
        assert found[0] == entry("new")
        assert found[1] == pytest.approx(700.0, abs=30.0)

    async def test_a_deleted_entry_is_gone_and_the_others_stay(self, harness: Harness) -> None:
        store = cache(await harness.open())
        await put(store, b"a", entry("a"))
        await put(store, b"b", entry("b"))
        assert await store.delete(b"a") is True
        assert await store.delete(b"a") is False
        assert await store.get(b"a") is None
        assert await store.get(b"b") is not None

    async def test_clearing_forgets_all_of_this_name_only(self, harness: Harness) -> None:
        state = await harness.open()
        await put(cache(state), KEY, entry("one"))
        await put(cache(state, "other"), KEY, entry("other"))
        await cache(state).clear()
        assert await cache(state).get(KEY) is None
        found = await cache(state, "other").get(KEY)
        assert found is not None
        assert found[0] == entry("other")

    async def test_what_is_given_cannot_be_changed(self, harness: Harness) -> None:
        store = cache(await harness.open())
        await put(store, KEY, Entry(Completion(extra={"list": [1]})))
        for _ in range(2):
            found = await store.get(KEY)
            assert found is not None
            assert isinstance(found[0].result, Completion)
            listed: Any = found[0].result.extra["list"]
            assert listed == [1]
            with pytest.raises((TypeError, AttributeError)):
                listed.append(2)

    async def test_many_entries_put_at_once_are_all_there(self, harness: Harness) -> None:
        sides = [cache(await harness.open()), cache(await harness.reopen())]
        await fill(200, lambda n: put(sides[n % 2], b"%d" % n, entry(str(n))))
        for number in range(200):
            found = await sides[number % 2].get(b"%d" % number)
            assert found is not None
            assert found[0] == entry(str(number))
