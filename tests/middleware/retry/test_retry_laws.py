"""What holds of retries whatever happens: attempts, time, load and spread."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from math import comb
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmpipe.errors import LLMError, Overloaded, RateLimited, StreamBroken, Timeout
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.testing.loop import run
from llmpipe.types import Request

HINTS = st.none() | st.floats(0, 200)
FAILURES = st.one_of(
    st.builds(lambda hint: RateLimited("slow down", retry_after=hint), HINTS),
    st.builds(lambda hint: Overloaded("busy", retry_after=hint), HINTS),
    st.builds(lambda: Timeout("slow")),
)
LINES = st.lists(FAILURES | st.just("hi"), max_size=12)


def play(lines, *, timeout: float | None = None, seed: int = 0, targets: int = 0, **options):
    """One call against a script: its error or None, the call, its end, and each request's time and line."""

    async def main():
        loop = asyncio.get_running_loop()
        rest, seen = iter(lines), []

        def line(request):
            said = next(rest, "hi")
            seen.append((loop.time(), said))
            return said

        def provider(name: str) -> MockProvider:
            return MockProvider(default=line, name=name)

        layers = [Retry(**options)]
        if targets:
            layers.append(Fallback(*[provider(f"spare-{n}") for n in range(targets)]))
        chain = Chain(provider("own"), *layers, runtime=Runtime(seed=seed))
        call = chain.new_call(Request("", "hi"), timeout=timeout)
        error = None
        try:
            await (await chain(call)).full()
        except LLMError as raised:
            error = raised
        return error, call, loop.time(), seen

    return run(main())


@given(lines=LINES, attempts=st.integers(1, 6), seed=st.integers(0, 99))
def test_one_target_sees_no_more_attempts_than_allowed(lines, attempts: int, seed: int):
    error, call, _, seen = play(lines, attempts=attempts, seed=seed)
    assert len(seen) == len(call.ledger.attempts) <= attempts
    assert (error is None) == (seen[-1][1] == "hi")


@given(lines=LINES, attempts=st.integers(1, 6), targets=st.integers(1, 4), seed=st.integers(0, 99))
def test_targets_and_retries_add_up_and_do_not_multiply(lines, attempts: int, targets: int, seed: int):
    error, _, _, seen = play(lines, attempts=attempts, targets=targets, seed=seed)
    # Each target gets its first; all the rest comes out of the one allowance.
    assert len(seen) <= max(attempts, 1 + targets)
    if error is not None:
        assert len(seen) >= 1 + targets


@given(lines=LINES, timeout=st.floats(0.01, 60), targets=st.integers(0, 2), seed=st.integers(0, 99))
def test_waiting_never_crosses_the_deadline(lines, timeout: float, targets: int, seed: int):
    _, _, ended, seen = play(lines, timeout=timeout, targets=targets, seed=seed)
    assert ended <= timeout
    assert all(at + 0.5 <= timeout for at, _ in seen[1:])  # there was time left for an attempt


@given(lines=st.lists(FAILURES, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_hint_is_kept_or_the_call_fails_at_once(lines, seed: int):
    error, _, ended, seen = play(lines, seed=seed)
    for (at, line), (after, _) in pairwise(seen):
        if isinstance(line, LLMError) and line.retry_after is not None:
            assert after - at >= line.retry_after
    if error is not None:
        assert (error, ended) == (seen[-1][1], seen[-1][0])


@given(cut=st.integers(0, 3), failures=st.integers(0, 3), pings=st.booleans())
def test_after_the_first_content_there_is_no_retry(cut: int, failures: int, pings: bool):
    """However many attempts came before it, the one that reached the caller is the last."""

    async def main():
        broken: list = [*(["text"] * cut), StreamBroken("cut")]
        if pings:
            broken.insert(0, Wait(1.0))
        provider = MockProvider([*[Overloaded("busy")] * failures, broken], default=["whole"])
        chain = Chain(provider, Retry(attempts=9), runtime=Runtime(seed=1))
        async with chain.stream("hi") as reply:
            if cut:
                with pytest.raises(StreamBroken):
                    await reply.full()
            else:
                assert (await reply.full()).text == "whole"
        return len(provider.requests)

    assert run(main()) == failures + (1 if cut else 2)


# -- load


def outage(rate: float, latency: float, seed: int, *, healthy: float = 20.0, down: float = 30.0):
    """When callers came and when requests reached a provider that works, is down, and works again."""

    async def main():
        loop = asyncio.get_running_loop()
        came: list[float] = []
        sent: list[float] = []

        def line(request):
            sent.append(loop.time())
            broken = healthy <= loop.time() < healthy + down
            return [Wait(latency), Timeout("down") if broken else "hi"]

        chain = Chain(MockProvider(default=line), Retry(), Breaker(), runtime=Runtime(seed=seed))
        random = Random(seed)

        async def caller():
            came.append(loop.time())
            try:
                await chain.complete("hi")
            except LLMError:
                return False
            return True

        async with asyncio.TaskGroup() as group:
            tasks = []
            while loop.time() < 2 * healthy + down:
                tasks.append(group.create_task(caller()))
                await asyncio.sleep(random.expovariate(rate))
        answered = [task.result() for task in tasks]
        return came, sent, answered, [*Breaker().board(chain.runtime).history]

    return run(main())


@pytest.mark.parametrize("latency", [0.02, 1.5])
@pytest.mark.parametrize("rate", [5.0, 50.0, 150.0])
def test_an_outage_is_amplified_by_a_fifth_at_most_over_any_ten_seconds(rate: float, latency: float):
    came, sent, answered, history = outage(rate, latency, seed=int(rate))
    for last, at in enumerate(sent):
        requests = last + 1 - bisect_right(sent, at - 10.0)
        callers = bisect_right(came, at) - bisect_right(came, at - 10.0)
        assert requests <= 1.2 * callers, f"{requests} requests for {callers} callers before {at:.2f} s"
    opened, closed = history[-3], history[-1]
    assert (opened.kind, closed.kind) == ("opened", "closed")
    # When the provider is back, so are the callers: one open time and two probes later.
    assert closed.at <= max(50.0, opened.at) + opened.seconds + 2 * latency + 20 / rate
    assert all(answered[bisect_right(came, closed.at) :])


def test_the_budget_alone_bounds_the_retries_of_an_outage_without_a_breaker():
    async def main():
        provider = MockProvider(default=Overloaded("down"))
        chain = Chain(provider, Retry(), runtime=Runtime(seed=1))
        results = await asyncio.gather(*(chain.complete("hi") for _ in range(1000)), return_exceptions=True)
        assert all(isinstance(result, Overloaded) for result in results)
        return len(provider.requests)

    assert run(main()) == 1000 + 500 // 14


# -- spread


def tail(n: int, p: float, k: int) -> float:
    """The probability that a binomial variable is at least k."""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


def fullest_bin(callers: int, bins: float) -> int:
    """What the fullest of so many equally likely bins holds at most, but for one run in a million."""
    k = int(callers / bins)
    while bins * tail(callers, 1 / bins, k + 1) > 1e-6:
        k += 1
    return k


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("error", "width"),
    [
        (lambda: Timeout("slow"), 0.5),
        (lambda: RateLimited("slow down"), 1.0),
        (lambda: RateLimited("slow down", retry_after=10), 1.1),
    ],
    ids=["backoff", "throttled", "hint"],
)
def test_callers_who_failed_together_do_not_come_back_together(error, width: float, seed: int):
    async def main():
        loop = asyncio.get_running_loop()
        back: list[float] = []
        tried: Counter = Counter()

        def line(request):
            tried[request.messages[0].text] += 1
            if tried[request.messages[0].text] == 1:
                return error()
            back.append(loop.time())
            return "hi"

        chain = Chain(MockProvider(default=line), Retry(budget=0), runtime=Runtime(seed=seed))
        await asyncio.gather(*(chain.complete(f"caller {n}") for n in range(1000)))
        return back

    back = run(main())
    assert len(back) == 1000
    start = min(back)
    bins = Counter(int((at - start) / 0.01) for at in back)
    assert max(bins.values()) <= fullest_bin(1000, width / 0.01)
    assert max(back) - start > 0.95 * width  # and they use all of the time they were given


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_waits(seed: int):
    lines = [Overloaded("busy"), RateLimited("slow down", retry_after=3)]
    _, first, ended, _ = play(lines, seed=seed)
    _, second, again, _ = play(lines, seed=seed)
    assume(ended > 0)
    assert [note.detail for note in first.ledger.notes] == [note.detail for note in second.ledger.notes]
    assert ended == again
