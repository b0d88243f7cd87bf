"""The middlewares that hold something, all in one chain: whatever becomes of its callers, all is given back.

A call may be read whole or as a stream, be cancelled, run out of time, leave its stream half read or drop
it without a word, while providers fail in each of their ways, before the first content and after it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    StreamBroken,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.breaker.rules import HALF_OPEN
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.retry.quota import Quotas
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing import run
from llmpipe.types import Request
from tests.middleware.rate_limit.limits import turns

LINES: tuple[Any, ...] = (
    [Wait(1), "a", Wait(1), "b"],
    ["a", Wait(2), "b"],
    ["a", Wait(20), "b"],
    [Wait(20), "a", "b"],
    Overloaded("busy"),
    [Wait(1), Overloaded("busy", retry_after=2)],
    RateLimited("slow down", retry_after=1),
    AuthenticationFailed("revoked"),
    InvalidRequest("no"),
    ["a", Wait(1), StreamBroken("cut")],
    ["a", RuntimeError("a bug")],
    [Wait(1), RuntimeError("a bug")],
)
LIMIT = RateLimit(concurrency=2, requests_per_minute=600, tokens_per_minute=60_000, max_wait=8)
BREAKER = Breaker(consecutive=2, base=1.0, close_after=2)
METRICS = Metrics()


def everything(script: list[Any], other: list[Any]) -> Chain:
    own = MockProvider(script, default="ab", name="own")
    spare = MockProvider(other, default="ab", name="spare")
    return Chain(
        own,
        METRICS,
        Timeout(first=5, idle=5, total=30),
        Cache(ttl=3, stale=3, stale_if_error=3),
        Coalesce(),
        Cost(),
        Fallback(spare),
        Retry(attempts=3),
        LIMIT,
        BREAKER,
    )


async def visit(chain: Chain, line: tuple[float, str, float | None, dict[str, Any]]) -> Call:
    at, how, cancelled, options = line
    await asyncio.sleep(at)
    request = Request(messages=options["question"], temperature=0, stream=how != "full")
    made = chain.new_call(request, **{key: options[key] for key in options if key != "question"})

    async def go() -> None:
        reply = await chain(made)
        if how == "full":
            assert (await reply.full()).text == "ab"
        elif how == "read":
            async with reply:
                assert "".join([text async for text in reply.texts()]) == "ab"
        elif how == "left":
            async with reply:
                await anext(reply)
        # else: dropped

    task = asyncio.create_task(go())
    if cancelled is not None:
        asyncio.get_running_loop().call_later(cancelled, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        assert cancelled is not None
    except (LLMError, RuntimeError) as error:
        error.__traceback__ = None
    return made


def nothing_is_held(chain: Chain) -> None:
    now = asyncio.get_running_loop().time()
    runtime = chain.runtime
    for key in LIMIT.status(runtime):
        assert (key.in_flight, key.waiting) == (0, 0)
    for gate in runtime.states("rate_limit").get("rate_limit", {}).values():
        assert not gate.ramp.room or gate.ramp.on_way == 0
    for circuit in BREAKER.board(runtime):
        assert circuit._out == 0
        assert circuit.state == HALF_OPEN or circuit.peek(now + 3600) == 0
    assert not runtime.states("coalesce").get("coalesce")
    assert not any(shelf.refreshing for shelf in runtime.states("cache").values())
    assert not METRICS.registry(runtime).gauge("requests.in_flight", "Calls under way.").of().value
    for _, quota in Quotas.of(runtime).items():
        assert 0 <= quota.spent <= 500
    assert not any(line.pending for line in runtime.states("timeout").get("deadlines", {}).values())
    for provider in (chain.provider, *chain.middleware[5].targets):  # type: ignore[attr-defined]
        assert provider.open == 0
    assert not runtime._tasks


visits = st.lists(
    st.tuples(
        st.floats(0, 12),  # comes at
        st.sampled_from(["full", "read", "left", "dropped"]),
        st.one_of(st.none(), st.none(), st.floats(0, 6)),  # is cancelled after
        st.fixed_dictionaries(
            {"question": st.sampled_from("xyz"), "priority": st.integers(-1, 1)},
            optional={"timeout": st.floats(0.1, 8), "tenant": st.just("other")},
        ),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300 if os.environ.get("LLMPIPE_LONG") else 20)  # a second each
@given(
    visits,
    st.lists(st.sampled_from(LINES), max_size=8),
    st.lists(st.sampled_from(LINES), max_size=8),
    st.one_of(st.none(), st.integers(0, 99)),
)
def test_whatever_becomes_of_the_callers_nothing_is_held_and_every_attempt_has_ended(
    script: list[Any], own: list[Any], other: list[Any], seed: int | None
):
    async def main() -> None:
        chain = everything(own, other)
        calls = await asyncio.gather(*(visit(chain, line) for line in script))
        if any(how == "dropped" for _, how, _, _ in script):
            gc.collect()
        await asyncio.sleep(100)
        await turns()
        nothing_is_held(chain)
        for call in calls:
            for attempt in call.ledger.attempts:
                assert attempt.status != "open"
                assert attempt.ended_at is not None
        # And nobody who comes now is worse off for those who came before.
        await asyncio.sleep(3600)
        chain.provider._script = iter(())  # type: ignore[attr-defined]
        assert (await chain.complete("new", temperature=0)).text == "ab"
        await chain.aclose()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of the dropped
        run(main(), seed=seed)


async def test_a_circuit_whose_probe_is_lost_opens_again_though_fallback_goes_round_it():
    """Nobody visits a half-open circuit that a router passes over, so nobody found out."""
    own = MockProvider([Overloaded("down")] * 2 + [[Wait(1e6), "never"]], default="back", name="own")
    chain = Chain(own, BREAKER, Fallback(MockProvider(default="spare", name="spare")))
    for _ in range(2):
        assert (await chain.complete("hi")).text == "spare"
    await asyncio.sleep(2)
    probe = asyncio.create_task(chain.complete("hi"))
    await turns()
    seen = []
    for _ in range(20):
        await asyncio.sleep(10)
        seen.append((await chain.complete("hi")).text)
    assert seen[0] == "spare"
    assert seen[-1] == "back"
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)


async def test_each_caller_of_a_shared_call_gets_an_end_of_its_own():
    """One is cancelled, one leaves, one reads, one wants it whole, one is out of time."""
    chain = everything([["a", Wait(4), "b"]], [])

    async def read(events: int | None = None) -> str:
        async with chain.stream("x", temperature=0) as reply:
            if events is not None:
                return "".join([getattr(await anext(reply), "text", "") for _ in range(events)])
            return "".join([text async for text in reply.texts()])

    async def whole(**options: Any) -> str:
        return (await chain.complete("x", temperature=0, **options)).text

    cancelled, *tasks = [
        asyncio.create_task(work) for work in (read(), read(2), read(), whole(), whole(timeout=2))
    ]
    await asyncio.sleep(1)
    cancelled.cancel()
    left, full, whole_one, late = await asyncio.gather(*tasks, return_exceptions=True)
    assert (left, full, whole_one) == ("a", "ab", "ab")
    assert isinstance(late, DeadlineExceeded)
    assert cancelled.cancelled()
    assert len(chain.provider.requests) == 1  # type: ignore[attr-defined]
    assert await whole() == "ab"  # from the cache
    assert len(chain.provider.requests) == 1  # type: ignore[attr-defined]
    await turns()
    nothing_is_held(chain)
