"""The cache's room for each tenant, compression, and failures that are told again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import (
    AuthenticationFailed,
    ConfigError,
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    LLMError,
    ModelNotFound,
    Overloaded,
    RateLimited,
    RequestTooLarge,
    ServiceUnavailable,
)
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.faults import Faults, certain, fresh
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.testing import run


def cached(script=(), default: Any = "ok", **options) -> Any:
    return Chain(MockProvider(script, default=default), Cache(**options))


def stats(chain: Any) -> Any:
    return chain.middleware[0].stats(chain.runtime)


async def ask(chain: Chain, prompt="hi", **options) -> str:
    return (await chain.complete(prompt, **options)).text


# ---------------------------------------------------------------- whose room


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from("aab"), st.integers(0, 4), st.integers(0, 3000), st.floats(0, 5)),
        max_size=30,
    ),
    st.sampled_from(["", "zstd"]),
)
def test_with_shares_a_tenant_sees_the_same_with_and_without_the_others_in_the_least_room(script, compress):
    """Non-interference (K1), and the memory within its bounds (K6), where each put makes something go."""

    async def main(tenants):
        provider: Any = MockProvider()
        provider.default = lambda request: str(len(provider.requests)) + "x" * request.max_tokens
        cache = Cache(
            ttl=20.0,
            max_entries=6,
            max_bytes=30_000,
            max_tenant_share=0.5,
            compress=compress,
            compress_above=500,
        )
        chain = Chain(provider, cache)
        seen = []
        for tenant, number, letters, pause in script:
            await asyncio.sleep(pause)
            if tenant in tenants:
                before = len(provider.requests)
                text = await ask(chain, f"the same {number}", max_tokens=letters, tenant=tenant)
                seen.append((tenant, len(provider.requests) == before, len(text)))
                told: Any = cache.stats(chain.runtime)
                assert told.entries <= 6
                assert told.bytes <= 30_000
        return [one for one in seen if one[0] == "a"]

    def hits(seen):  # lengths of the counter in the text differ, whether it was a hit does not
        return [hit for _, hit, _ in seen]

    assert hits(run(main("ab"))) == hits(run(main("a")))


async def test_without_shares_a_busy_tenant_pushes_the_others_out():
    for share, hit in ((1.0, False), (0.5, True)):
        chain = cached(max_entries=4, max_tenant_share=share)
        await ask(chain, "a", tenant="quiet")
        for number in range(10):
            await ask(chain, str(number), tenant="busy")
        await ask(chain, "a", tenant="quiet")
        assert (stats(chain).hits == 1) is hit


async def test_a_reload_may_change_shares_and_compression():
    runtime, provider = Runtime(), MockProvider(default="long words " * 1000)
    for options in ({}, {"compress": "zstd"}, {"max_tenant_share": 0.5}, {"compress": "zstd"}, {}):
        chain = Chain(provider, Cache(**options), runtime=runtime)
        await ask(chain)
    assert len(provider.requests) == 1


async def test_compressed_replies_take_less_room():
    text = "the same words " * 2000
    sizes = []
    for compress in ("", "zstd"):
        chain = cached(default=text, compress=compress)
        assert [await ask(chain) for _ in range(3)] == [text] * 3
        sizes.append(stats(chain).bytes)
    assert sizes[1] < sizes[0] / 10


async def test_a_store_that_cannot_do_it_says_so():
    class Plain:
        def cache(self, name, *, max_entries, max_bytes):
            return object()

    runtime = Runtime()
    runtime.state("store", "plain://host/1", Plain)
    for options in ({"compress": "zstd"}, {"max_tenant_share": 0.5}):
        chain = Chain(MockProvider(["ok"]), Cache(store="plain://host/1", **options), runtime=runtime)
        with pytest.raises(ConfigError, match="plain:// has no compress"):
            await ask(chain)


# ---------------------------------------------------------------- failures told again


CERTAIN: list[LLMError] = [
    InvalidRequest("bad"),
    InvalidRequest("bad", status=422),
    ContextTooLong("long"),
    RequestTooLarge("large"),
]
UNCERTAIN: list[LLMError] = [
    RateLimited("slow down"),
    Overloaded("full"),
    ServiceUnavailable("down"),
    AuthenticationFailed("key"),
    ModelNotFound("model"),
    ContentFiltered("policy"),
    InvalidRequest("ours", sent=False),
    InvalidRequest("later", retryable=True),
    InvalidRequest("odd", health="failure"),
]


@pytest.mark.parametrize("error", CERTAIN, ids=repr)
async def test_a_failure_that_is_certain_to_repeat_is_told_again_for_its_seconds(error):
    chain = cached([error, error], negative=5.0)
    for _ in range(3):
        with pytest.raises(type(error)) as caught:
            await ask(chain)
        assert caught.value.message == error.message
        await asyncio.sleep(1)
    assert len(chain.provider.requests) == 1
    assert (stats(chain).refused, stats(chain).hits, stats(chain).misses) == (2, 0, 1)
    await asyncio.sleep(2)
    with pytest.raises(type(error)):
        await ask(chain)
    assert len(chain.provider.requests) == 2


@pytest.mark.parametrize("error", UNCERTAIN, ids=repr)
async def test_no_other_failure_is(error):
    chain = cached([error], negative=5.0)
    with pytest.raises(type(error)):
        await ask(chain)
    assert await ask(chain) == "ok"


async def test_it_is_off_by_default():
    chain = cached([InvalidRequest("bad")])
    with pytest.raises(InvalidRequest):
        await ask(chain)
    assert await ask(chain) == "ok"


async def test_what_is_told_again_is_the_tenants_own_and_the_requests_own():
    chain = cached([InvalidRequest("bad")], negative=5.0)
    with pytest.raises(InvalidRequest):
        await ask(chain, tenant="a")
    assert await ask(chain, tenant="b") == "ok"
    assert await ask(chain, "other", tenant="a") == "ok"


async def test_who_bypasses_refreshes_or_forgets_asks_again():
    for mode in ("bypass", "refresh"):
        chain = cached([InvalidRequest("bad")], negative=5.0)
        with pytest.raises(InvalidRequest):
            await ask(chain)
        assert await ask(chain, options={Cache: {"mode": mode}}) == "ok"
        if mode == "refresh":
            assert await ask(chain) == "ok"
    for forget in ("delete", "clear"):
        chain = cached([InvalidRequest("bad")], negative=5.0)
        with pytest.raises(InvalidRequest):
            await ask(chain)
        cache = chain.middleware[0]
        if forget == "delete":
            from llmpipe.types import Request

            await cache.delete(chain.new_call(Request(messages="hi")))
        else:
            await cache.clear(chain.runtime)
        assert await ask(chain) == "ok"


async def test_every_caller_gets_a_copy_that_says_nothing_was_sent():
    chain = cached([InvalidRequest("bad", metadata={"a": 1}, partial="x")], negative=5.0)
    found = []
    for _ in range(3):
        with pytest.raises(InvalidRequest) as caught:
            await ask(chain)
        found.append(caught.value)
    first, *told = found
    assert first.sent
    assert first.attempt == 1
    for error in told:
        assert (error.sent, error.billed, error.attempt, error.partial) == (False, "no", 0, None)
    told[0].metadata["b"] = 2
    assert told[1].metadata == {"a": 1}


def test_failures_are_bounded_and_the_oldest_go_first():
    faults = Faults(3)
    assert not faults
    for number in range(5):
        faults.add(bytes([number]), InvalidRequest(str(number)), 10.0)
    assert [faults.find(bytes([n]), 0.0) is not None for n in range(5)] == [False, False, True, True, True]
    assert faults.find(bytes([4]), 10.0) is None
    assert faults.drop(bytes([3]))
    assert not faults.drop(bytes([3]))
    faults.clear()
    assert not faults


def test_an_error_that_is_none_of_ours_has_no_copy():
    bug = KeyError("bug")
    assert fresh(bug) is bug
    assert not certain(Overloaded("full"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"negative": -1}, {"max_tenant_share": 0}, {"max_tenant_share": 1.1}, {"compress": "gzip"},
        {"compress_above": -1},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Cache(**wrong)


def test_it_is_built_from_plain_settings():
    built = build("cache", {"compress": "zstd", "max_tenant_share": 0.25, "negative": 3})
    assert built == Cache(compress="zstd", max_tenant_share=0.25, negative=3.0)
