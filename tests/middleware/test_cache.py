"""The cache: what is stored, for whom, for how long, and what a hit is."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import (
    ConfigError,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.middleware.cache import Cache, CacheStats, NotCached
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.registry import build
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.state import Entry
from llmpipe.testing import run
from llmpipe.types import (
    Completion,
    Cost,
    EmbeddingRequest,
    Finish,
    Message,
    Request,
    RerankRequest,
    Start,
    TextDelta,
    ToolDelta,
)
from tests.middleware.rate_limit.limits import turns


def now() -> float:
    return asyncio.get_running_loop().time()


def cached(script=(), default="ok", **settings) -> Any:
    return Chain(MockProvider(script, default=default), Cache(**settings))


def counted(**settings) -> Any:
    """Each request to the provider is answered with its number."""
    provider = MockProvider()
    provider.default = lambda request: str(len(provider.requests))
    return Chain(provider, Cache(**settings))


def stats(chain: Chain) -> CacheStats:
    (only,) = [item for item in chain.middleware if isinstance(item, Cache)]
    return only.stats(chain.runtime)


async def ask(chain: Chain, prompt="hi", **options) -> str:
    return (await chain.complete(prompt, **options)).text


async def read(chain: Chain, prompt="hi", **options) -> str:
    async with chain.stream(prompt, **options) as reply:
        return "".join([text async for text in reply.texts()])


# ---------------------------------------------------------------- hits


async def test_the_second_time_nobody_is_asked():
    chain = counted()
    assert [await ask(chain) for _ in range(3)] == ["1"] * 3
    assert len(chain.provider.requests) == 1
    assert await ask(chain, "something else") == "2"


async def test_full_and_streamed_calls_share_what_is_stored():
    chain = cached(["hello there, all of you", "second"])
    assert await read(chain) == await ask(chain) == await read(chain) == "hello there, all of you"
    assert await ask(chain, "2") == await read(chain, "2") == "second"
    assert len(chain.provider.requests) == 2


async def test_a_hit_is_the_reply_it_was_and_costs_nothing():
    @layer(priority=500)
    async def price(call, call_next):
        reply = await call_next(call)
        return reply.amend(lambda done: evolve(done, charge=Cost(1000, 234)))

    told = Completion(
        message=Message("assistant", "hi"), finish_reason="stop", headers={"x-ratelimit-limit-requests": "1"}
    )
    chain = Chain(MockProvider([told]), Cache(), price)
    first = await chain.complete("hi")
    assert first.charge == Cost(1000, 234)
    await asyncio.sleep(12)
    call = chain.new_call(Request("", "hi"))
    hit = await (await chain(call)).full()
    assert (hit.message, hit.usage, hit.id, hit.model) == (first.message, first.usage, first.id, first.model)
    assert hit.charge == Cost(0, 0)
    assert hit.headers == {}
    assert call.ledger.attempts == []
    assert [(n.kind, n.detail) for n in call.ledger.notes] == [("cache.hit", {"saved": 1234, "age": 12})]


async def test_an_unknown_price_saves_an_unknown_amount():
    chain = cached()
    await chain.complete("hi")
    call = chain.new_call(Request("", "hi"))
    await (await chain(call)).full()
    assert call.ledger.notes[0].detail["saved"] is None


async def test_embeddings_are_cached_and_other_kinds_never_mixed_up():
    chain = cached()
    first = await chain.embed(["hi"])
    assert (await chain.embed(["hi"])).vectors == first.vectors
    assert len(chain.provider.requests) == 1
    layer_ = chain.middleware[0]
    keys = {
        layer_.key(chain.new_call(r))
        for r in (Request("", "hi"), EmbeddingRequest("", "hi"), RerankRequest("", "hi"))
    }
    assert len(keys) == 3


async def test_tool_calls_are_cached_with_their_arguments():
    chain = cached([[ToolDelta(0, "1", "f", '{"a":'), ToolDelta(0, None, None, "1}")]])
    assert await read(chain) == ""
    (call,) = (await chain.complete("hi")).tool_calls
    assert call.args == {"a": 1}


async def test_what_one_caller_does_to_a_reply_reaches_no_other():
    chain = cached(
        [Completion(message=Message("assistant", "hi"), finish_reason="stop", extra={"list": [1]})]
    )
    first = await chain.complete("hi")
    first.extra["list"].append(2)
    second = await chain.complete("hi")
    with pytest.raises(TypeError):
        second.extra["list"].append(3)
    assert (await chain.complete("hi")).extra == {"list": [1]}


# ---------------------------------------------------------------- what is stored


@pytest.mark.parametrize(
    ("line", "stored"),
    [
        (["a", Finish("stop")], True),
        ([ToolDelta(0, "1", "f", "{}"), Finish("tool_calls")], True),
        (["a", Finish("length")], False),
        (["a", Finish("content_filter")], False),
        (["a", Finish("refusal")], False),
        (["a", Finish("error")], False),
    ],
)
@pytest.mark.parametrize("how", [ask, read])
async def test_only_replies_that_came_to_a_good_end_are_stored(line, stored, how):
    chain = cached([line, "again"])
    await how(chain)
    await ask(chain)
    assert len(chain.provider.requests) == (1 if stored else 2)


async def test_other_ends_are_stored_if_asked_for():
    chain = cached([["a", Finish("length")]], finish_reasons=["stop", "length"])
    await ask(chain)
    assert await ask(chain) == "a"


async def test_nothing_of_a_broken_abandoned_or_cancelled_stream_is_stored():
    script = [["a", StreamBroken("cut")], ["a", Wait(9), "b"], ["a", Wait(9), "b"], "whole"]
    chain = cached(script)
    with pytest.raises(StreamBroken):
        await read(chain)
    async with chain.stream("hi") as reply:
        await reply.__anext__()
    task = asyncio.create_task(read(chain))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert stats(chain).stored == 0
    assert await read(chain) == "whole"
    assert chain.provider.open == 0


async def test_errors_are_not_stored():
    chain = cached([InvalidRequest("no"), "fine"])
    with pytest.raises(InvalidRequest):
        await ask(chain)
    assert await ask(chain) == "fine"


async def test_what_a_guard_further_out_refuses_is_not_stored():
    @layer(priority=300)
    async def guard(call, call_next):
        reply = await call_next(call)
        return reply.pipe(Refusing())

    class Refusing:
        def feed(self, event):
            if type(event) is TextDelta and "bad" in event.text:
                raise LLMError("not that")
            return (event,)

        def flush(self):
            return ()

    chain = Chain(MockProvider(["bad", ["ba", "bad"], "good"]), guard, Cache())
    with pytest.raises(LLMError):
        await ask(chain)
    with pytest.raises(LLMError):
        await read(chain)
    assert await ask(chain) == await read(chain) == "good"
    assert stats(chain).stored == 1


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "store"])
async def test_requests_that_use_what_a_server_remembers_are_left_alone(name):
    chain = counted()
    assert [await ask(chain, extra={name: "x"}) for _ in range(2)] == ["1", "2"]
    assert stats(chain) == CacheStats(entries=0, bytes=0)


async def test_requests_meant_to_vary_are_left_alone_if_asked_for():
    chain = counted(only_deterministic=True)
    assert [await ask(chain) for _ in range(2)] == ["1", "2"]
    assert [await ask(chain, temperature=0) for _ in range(2)] == ["3", "3"]
    assert [await ask(chain, seed=1) for _ in range(2)] == ["4", "4"]


# ---------------------------------------------------------------- for whom


async def test_tenants_users_of_other_tags_and_versions_never_share():
    runtime = Runtime()
    provider = MockProvider()
    provider.default = lambda request: str(len(provider.requests))
    chain = Chain(provider, Cache(vary=["lang"]), runtime=runtime)
    first = await ask(chain, tenant="a", tags={"lang": "el"})
    for options in (
        {"tenant": "b", "tags": {"lang": "el"}},
        {"tenant": "a", "tags": {"lang": "de"}},
        {"tenant": "a"},
    ):
        assert await ask(chain, **options) != first
    later = Chain(provider, Cache(vary=["lang"], version="2"), runtime=runtime)
    assert await ask(later, tenant="a", tags={"lang": "el"}) != first
    assert await ask(chain, tenant="a", tags={"lang": "el"}, user="another") == first


prompts = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.booleans(), st.floats(0, 20)),
    min_size=1,
    max_size=20,
)


@settings(max_examples=60)
@given(prompts, st.integers(1, 4))
def test_what_a_tenant_sees_does_not_depend_on_the_others(script, capacity):
    """Non-interference: the answers of a, with the traffic of b and without it, where both have room."""

    async def main(tenants):
        provider = MockProvider()
        asked: Counter[tuple[str, str]] = Counter()
        writer = ""

        def answer(request):
            said = (writer, request.messages[0].text)
            asked[said] += 1
            return f"{said} {asked[said]}"

        provider.default = answer
        chain = Chain(provider, Cache(ttl=15.0 * capacity))
        seen = []
        for tenant, number, stream, pause in script:
            await asyncio.sleep(pause)
            if tenant in tenants:
                how, writer = read if stream else ask, tenant
                seen.append((tenant, await how(chain, f"the same {number}", tenant=tenant)))
        return [answer for tenant, answer in seen if tenant == "a"]

    assert run(main("ab")) == run(main("a"))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), max_size=25))
def test_the_writer_of_a_hit_is_its_reader(script):
    async def main():
        provider = MockProvider()
        writer = [""]
        provider.default = lambda request: f"for {writer[0]}"
        chain = Chain(provider, Cache(max_entries=4))
        for tenant, number, stream in script:
            writer[0] = tenant
            how = read if stream else ask
            assert await how(chain, f"the same {number}", tenant=tenant) == f"for {tenant}"

    run(main())


# ---------------------------------------------------------------- for how long


async def test_a_reply_is_fresh_for_an_hour():
    chain = counted()
    assert await ask(chain) == "1"
    await asyncio.sleep(3599.9)
    assert await ask(chain) == "1"
    await asyncio.sleep(0.1)
    assert await ask(chain) == "2"


async def test_jumps_of_the_wall_clock_change_nothing():
    wall = [1e9]
    provider = MockProvider()
    provider.default = lambda request: str(len(provider.requests))
    chain = Chain(provider, Cache(ttl=10), runtime=Runtime(wall=lambda: wall[0]))
    await ask(chain)
    wall[0] += 1e6
    assert await ask(chain) == "1"
    wall[0] -= 1e7
    await asyncio.sleep(10)
    assert await ask(chain) == "2"


async def test_a_stale_reply_is_given_while_one_refresh_runs():
    chain = cached(["old", [Wait(5), "new"]], ttl=10, stale=60)
    assert await ask(chain) == "old"
    await asyncio.sleep(20)
    calls = [chain.new_call(Request("", "hi", stream=n % 2 == 0)) for n in range(10)]
    began = now()
    assert [(await (await chain(call)).full()).text for call in calls] == ["old"] * 10
    assert now() == began
    assert [call.ledger.notes[0].kind for call in calls] == ["cache.stale"] * 10
    assert calls[0].ledger.notes[0].detail == {"saved": None, "age": 20, "error": None}
    assert all(call.ledger.attempts == [] for call in calls)
    await asyncio.sleep(6)
    assert await ask(chain) == "new"
    assert len(chain.provider.requests) == 2
    assert (stats(chain).stale, stats(chain).refreshed, stats(chain).hits, stats(chain).misses) == (
        10,
        1,
        11,
        1,
    )


async def test_a_refresh_outlives_the_call_that_began_it_and_has_a_deadline_of_its_own():
    chain = cached(["old", [Wait(5), "new"], [Wait(500), "never"]], ttl=10, stale=6000, refresh_timeout=30)
    await ask(chain)
    await asyncio.sleep(20)
    task = asyncio.create_task(ask(chain, timeout=1))
    await task
    await asyncio.sleep(6)
    assert await ask(chain) == "new"
    await asyncio.sleep(20)
    assert await ask(chain) == "new"
    await asyncio.sleep(31)
    assert stats(chain).failed == 1
    assert chain.runtime._tasks == set()


async def test_a_failed_refresh_leaves_the_stale_reply_and_the_next_hit_tries_again():
    chain = cached(["old", ServiceUnavailable("down"), "new"], ttl=10, stale=600)
    await ask(chain)
    await asyncio.sleep(20)
    for expected in ("old", "old", "new"):
        assert await ask(chain) == expected
        await asyncio.sleep(1)
    assert (stats(chain).failed, stats(chain).refreshed) == (1, 1)


async def test_a_refresh_cancelled_before_its_first_step_does_not_stop_the_next():
    chain = cached(["old", "new"], ttl=10, stale=600)
    await ask(chain)
    await asyncio.sleep(20)
    assert await ask(chain) == "old"
    await chain.runtime.aclose()
    assert await ask(chain) == "old"
    await asyncio.sleep(1)
    assert await ask(chain) == "new"


async def test_past_stale_the_reply_is_not_given():
    chain = counted(ttl=10, stale=5)
    await ask(chain)
    await asyncio.sleep(15)
    assert await ask(chain) == "2"


@pytest.mark.parametrize(
    ("error", "helped"),
    [
        (Overloaded("busy"), True),
        (RateLimited("slow"), True),
        (InvalidRequest("no"), False),
        (RuntimeError("bug"), False),
    ],
)
async def test_a_stale_reply_stands_in_for_a_failure_of_the_provider(error, helped):
    chain = cached(["old", error], ttl=10, stale_if_error=100)
    await ask(chain)
    await asyncio.sleep(50)
    call = chain.new_call(Request("", "hi"))
    if not helped:
        with pytest.raises(type(error)):
            await chain(call)
        return
    assert (await (await chain(call)).full()).text == "old"
    assert call.ledger.notes[-1].kind == "cache.stale"
    assert call.ledger.notes[-1].detail["error"] == error.type


async def test_beyond_its_time_even_a_failure_is_told():
    chain = cached(["old", Overloaded("busy")], ttl=10, stale_if_error=5)
    await ask(chain)
    await asyncio.sleep(20)
    with pytest.raises(Overloaded):
        await ask(chain)


# ---------------------------------------------------------------- per call


async def test_settings_of_a_call_hold_for_what_it_stores_too():
    chain = counted()
    assert await ask(chain, options={Cache: {"ttl": 10}}) == "1"
    await asyncio.sleep(20)
    assert await ask(chain) == "2"
    chain = cached([Completion(message=Message("assistant", "cut"), finish_reason="length")])
    assert await ask(chain, options={Cache: {"finish_reasons": ("length",)}}) == "cut"
    assert await ask(chain) == "cut"


async def test_a_refresh_goes_behind_every_caller_whatever_their_priority():
    seen = []

    @layer(priority=900)
    async def look(call, call_next):
        seen.append(call.priority)
        return await call_next(call)

    chain = Chain(MockProvider(default="ok"), Cache(ttl=1, stale=10), look)
    for priority in (-5, 5):
        await ask(chain, f"{priority}", priority=priority)
        await asyncio.sleep(2)
        await ask(chain, f"{priority}", priority=priority)
        await turns()
    assert seen == [-5, -6, 5, -1]


async def test_an_error_that_a_stale_reply_stands_in_for_keeps_no_frames_alive():
    chain = cached(["ok", Overloaded("busy")], ttl=1, stale_if_error=10)
    await ask(chain)
    await asyncio.sleep(2)
    call = chain.new_call(Request("", "hi"))
    assert (await (await chain(call)).full()).text == "ok"
    (attempt,) = call.ledger.attempts
    assert attempt.error.__traceback__ is None


async def test_a_call_can_go_past_the_cache():
    chain = counted()
    bypass = {Cache: {"mode": "bypass"}}
    assert await ask(chain, options=bypass) == "1"
    assert await ask(chain) == "2"  # the first was not stored
    assert await ask(chain, options=bypass) == "3"
    assert await ask(chain) == "2"


async def test_a_call_can_refresh_what_is_stored():
    chain = counted()
    await ask(chain)
    assert await ask(chain, options={Cache: {"mode": "refresh"}}) == "2"
    assert await ask(chain) == "2"


async def test_a_call_can_ask_for_nothing_but_the_cache():
    chain = counted(ttl=10, stale=10)
    only = {Cache: {"mode": "only"}}
    with pytest.raises(NotCached) as caught:
        await ask(chain, options=only)
    assert isinstance(caught.value, LookupError)
    assert (caught.value.status, caught.value.sent, caught.value.billed, caught.value.retryable) == (
        504,
        False,
        "no",
        False,
    )
    await ask(chain)
    assert await ask(chain, options=only) == "1"
    await asyncio.sleep(12)
    assert await ask(chain, options=only) == "1"  # stale, and no refresh behind it
    await asyncio.sleep(1)
    assert len(chain.provider.requests) == 1
    with pytest.raises(NotCached):
        await ask(chain, options=only, extra={"store": True})


# ---------------------------------------------------------------- from outside


async def test_stats_clear_and_delete():
    chain = counted()
    layer_ = chain.middleware[0]
    await ask(chain, "a")
    await ask(chain, "a")
    await ask(chain, "b")
    seen = stats(chain)
    assert (seen.hits, seen.misses, seen.stored, seen.entries) == (1, 2, 2, 2)
    assert seen.rate == pytest.approx(1 / 3)
    assert seen.bytes is not None
    assert seen.bytes > 0
    assert CacheStats().rate == 0
    assert await layer_.delete(chain.new_call(Request("", "a")))
    assert not await layer_.delete(chain.new_call(Request("", "a"), tenant="other"))
    assert await ask(chain, "a") == "3"
    await layer_.clear(chain.runtime)
    assert stats(chain).entries == 0
    assert await ask(chain, "b") == "4"


async def test_a_rebuilt_chain_keeps_its_cache_within_its_new_bounds():
    runtime, provider = Runtime(), MockProvider()
    provider.default = lambda request: str(len(provider.requests))
    old = Chain(provider, Cache(), runtime=runtime)
    for prompt in "abc":
        await ask(old, prompt)
    new = Chain(provider, Cache(max_entries=2), runtime=runtime)
    assert [await ask(new, prompt) for prompt in "bc"] == ["2", "3"]
    assert stats(new).entries == 2
    other = Chain(provider, Cache(name="other"), runtime=runtime)
    assert await ask(other, "b") == "4"


async def test_a_store_that_takes_its_time_is_written_to_in_the_background():
    written = []

    class Slow:
        def cache(self, name, *, max_entries, max_bytes):
            return self

        async def get(self, key):
            await asyncio.sleep(1)
            return next(((e, 3.0) for k, e in written if k == key), None)

        async def _put(self, key, entry):
            await asyncio.sleep(5)
            written.append((key, entry))

        def put(self, key, entry, keep):
            assert isinstance(entry, Entry)
            assert keep == 3600
            return self._put(key, entry)

        def size(self):
            return None

    runtime = Runtime()
    runtime.state("store", "slow://", Slow)
    chain = Chain(MockProvider(["one"]), Cache(store="slow://"), runtime=runtime)
    assert await ask(chain) == "one"
    assert now() == 1  # the read; nobody waits for the write
    await asyncio.sleep(5)
    assert await ask(chain) == "one"
    assert (stats(chain).entries, stats(chain).hits) == (None, 1)


async def test_starts_of_streams_are_kept_whole():
    chain = cached([[Start("id-1", "model-1", "p", 5.0, "req-1", {"x-request-id": "1"}, {"a": 1}), "hi"]])
    assert await read(chain) == "hi"
    hit = await chain.complete("hi")
    assert (hit.id, hit.model, hit.provider, hit.created, hit.request_id, hit.extra) == (
        "id-1", "model-1", "p", 5.0, "req-1", {"a": 1},
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 0},
        {"stale": -1},
        {"max_entries": 0},
        {"max_bytes": 0},
        {"mode": "never"},
        {"refresh_timeout": 0},
    ],
)
def test_wrong_settings_are_refused_at_construction(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Cache(**wrong)


def test_it_is_built_from_a_table_of_plain_settings():
    assert build("cache", {"ttl": 60, "vary": ["lang"], "mode": "use"}) == Cache(ttl=60, vary=("lang",))
    assert build("cache", {"vary": "lang"}) == Cache(vary=["lang"])  # one name, not its letters
    with pytest.raises(ConfigError, match="ttl"):
        build("cache", {"tll": 60})
