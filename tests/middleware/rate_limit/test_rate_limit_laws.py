"""Any traffic, cancellations included, is admitted when a short model says, and the laws hold."""

from __future__ import annotations

import asyncio
import heapq
from contextlib import suppress
from math import inf

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import ConnectFailed, LimitReached
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.rate_limit.admission import Gate
from llmpipe.middleware.rate_limit.buckets import REQUESTS, TOKENS, Limit
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.testing import run
from llmpipe.types import Request


@frozen
class Visit:
    """When a call comes, what it takes, how long it stays, when it is cancelled if ever, and whose it is."""

    at: float
    tokens: float
    stays: float
    priority: int
    cancelled: float
    tenant: str


# No two things of the script happen in one moment, so that there is one right answer.
visits = st.lists(
    st.builds(
        Visit,
        st.integers(0, 400).map(lambda n: n / 7),
        st.integers(1, 30).map(float),
        st.integers(1, 300).map(lambda n: n / 11 + 3**0.5 / 1000),
        st.integers(0, 2),
        st.one_of(st.just(inf), st.integers(0, 500).map(lambda n: n / 13 + 0.001)),
        st.sampled_from("aab"),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda visit: visit.at,
)


def rates(most: float) -> st.SearchStrategy[float]:
    return st.floats(0.2, most).map(lambda rate: rate + 2**0.5 / 1000)  # so that no turn falls on an arrival


limits = st.tuples(rates(3), st.integers(1, 4), rates(10), st.integers(1, 20), st.integers(1, 4))


def model(script, limit):
    """When each visit is admitted, None if never: buckets as levels, lists of who waits and of moments."""
    request_rate, request_burst, token_rate, token_burst, room = limit
    levels, rates, bursts = (
        [request_burst, token_burst],
        [request_rate, token_rate],
        [request_burst, token_burst],
    )
    moments = [(v.at, 0, n) for n, v in enumerate(script)] + [
        (v.cancelled, 1, n) for n, v in enumerate(script)
    ]
    heapq.heapify(moments)
    admitted, queue, gone, inside, clock = [None] * len(script), [], set(), set(), 0.0
    served = {}  # the tenants who wait and have been served: which turn that was
    come, turn = {}, 0
    while moments:
        now, what, n = heapq.heappop(moments)
        if now == inf:
            break
        levels = [min(b, lv + (now - clock) * r) for lv, r, b in zip(levels, rates, bursts, strict=True)]
        clock = now
        if what == 0 and n not in gone:
            queue.append(n)
            turn += 1
            come[n] = turn
        elif what == 1:
            gone.add(n)
            queue = [place for place in queue if place != n]
        if (what == 1 or what == 2) and n in inside:
            inside.discard(n)
        while queue:
            served = {who: at for who, at in served.items() if who in {script[n].tenant for n in queue}}
            firsts = {
                script[n].tenant: n for n in sorted(queue, key=lambda n: (script[n].priority, -come[n]))
            }
            head = min(
                firsts.values(),
                key=lambda n: (-script[n].priority, max(come[n], served.get(script[n].tenant, 0))),
            )
            asks = [1.0, script[head].tokens]
            lack = [(min(a, b) - lv) / r for a, lv, r, b in zip(asks, levels, rates, bursts, strict=True)]
            if len(inside) >= room:
                break
            if max(lack) > 1e-6:
                heapq.heappush(moments, (now + max(lack), 3, -1))
                break
            queue.remove(head)
            turn += 1
            served[script[head].tenant] = turn
            levels = [lv - a for lv, a in zip(levels, asks, strict=True)]
            admitted[head] = now
            inside.add(head)
            heapq.heappush(moments, (now + script[head].stays, 2, head))
    return admitted


async def reality(script, limit):
    request_rate, request_burst, token_rate, token_burst, room = limit
    runtime, most = Runtime(), 0
    admitted: list[float | None] = [None] * len(script)
    gate = Gate(
        ("key",),
        (
            Limit("requests", REQUESTS, 60.0, request_rate * 60, float(request_burst)),
            Limit("tokens", TOKENS, 60.0, token_rate * 60, float(token_burst)),
        ),
        room,
        inf,
        runtime.now(),
    )

    async def visit(n: int, v: Visit) -> None:
        nonlocal most
        await asyncio.sleep(v.at)
        call = Call(Request("m", "hi"), runtime, priority=v.priority, tenant=v.tenant)
        amounts, now = (1.0, v.tokens, v.tokens, 0.0), runtime.now()
        if gate.queue or gate.wait(amounts, now):
            permit = await gate.enter(call, amounts, inf, 1000)
        else:
            permit = gate.take(amounts, now)
        admitted[n] = runtime.now()
        most = max(most, gate.in_flight)
        try:
            await asyncio.sleep(v.stays)
        finally:
            permit.settle(runtime.now())
            permit.settle(runtime.now())  # a second time, which changes nothing
            permit.cancel(runtime.now())

    tasks = [asyncio.create_task(visit(n, v)) for n, v in enumerate(script)]
    for task, v in zip(tasks, script, strict=True):
        if v.cancelled < inf:
            asyncio.get_running_loop().call_at(v.cancelled, task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most <= room
    assert gate.in_flight == 0
    assert not gate.queue
    assert gate._timer is None
    return admitted


@settings(max_examples=150)
@given(visits, limits, st.one_of(st.none(), st.integers(0, 99)))
def test_admission_is_what_the_model_says(script, limit, seed):
    ours, theirs = run(reality(script, limit), seed=seed), model(script, limit)
    assert ours == [None if at is None else pytest.approx(at, abs=1e-5) for at in theirs]


class Scripted(MockProvider):
    """Answers, fails or hangs as each prompt says."""

    async def __call__(self, call: Call) -> Reply:
        assert isinstance(call.request, Request)
        seconds, _, fate = call.request.messages[0].text.partition(" ")
        await asyncio.sleep(float(seconds))
        if fate == "fails":
            raise ConnectFailed("no connection")
        return await super().__call__(call)


traffic = st.lists(
    st.tuples(
        st.floats(0, 20),  # comes at
        st.sampled_from(["0.5 ok", "3 ok", "1 fails", "40 ok"]),
        st.booleans(),  # as a stream
        st.one_of(st.none(), st.floats(0.1, 30)),  # is cancelled after
        st.one_of(st.none(), st.floats(0.5, 20)),  # has a deadline
        st.sampled_from(["wait", "reject"]),
    ),
    max_size=25,
)


@settings(max_examples=80)
@given(traffic, st.integers(0, 99))
def test_whatever_becomes_of_the_calls_everything_is_given_back(script, seed):
    provider = Scripted(default=["a", "b"])
    layer = RateLimit(requests_per_minute=60, burst=5, tokens_per_minute=3000, token_burst=400, concurrency=3)
    chain = Chain(provider, layer)

    async def visit(at, prompt, stream, cancelled, deadline, mode):
        await asyncio.sleep(at)
        options = {"timeout": deadline, "options": {RateLimit: {"mode": mode}}}

        async def ask():
            if not stream:
                return await chain.complete(prompt, **options)
            async with chain.stream(prompt, **options) as reply:
                return await reply.full()

        task = asyncio.ensure_future(ask())
        if cancelled is not None:
            asyncio.get_running_loop().call_later(cancelled, task.cancel)
        with suppress(LimitReached, ConnectFailed, asyncio.CancelledError):
            await task

    async def main():
        await asyncio.gather(*(visit(*call) for call in script))
        for key in layer.status(chain.runtime):
            assert (key.in_flight, key.waiting) == (0, 0)
        await asyncio.sleep(3600)
        for key in layer.status(chain.runtime):
            assert [limit.remaining for limit in key.limits] == [limit.burst for limit in key.limits]
        assert provider.open == 0

    run(main(), seed=seed)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.integers(1, 30), st.sampled_from("abc"), st.sampled_from((0, 0, 1))),
        min_size=1,
        max_size=15,
    ),
    st.tuples(st.floats(0, 2), st.integers(1, 30), st.sampled_from("ad")),
)
def test_retry_after_is_the_earliest_moment_that_works(before, last):
    """In front of it a queue of any shape: who comes at that moment, with nobody else about, is admitted."""

    def gate() -> Gate:
        tokens = Limit("tokens", TOKENS, 60.0, 120, 10.0)
        return Gate(("key",), (Limit("requests", REQUESTS, 60.0, 60, 2.0), tokens), inf, inf, 0.0)

    async def main(extra: float | None):
        runtime, ours = Runtime(), gate()

        async def enter(patience, units, tenant, priority=0):
            amounts = (1.0, float(units), float(units), 0.0)
            call = Call(Request("m", "hi"), runtime, tenant=tenant, priority=priority)
            permit = await ours.enter(call, amounts, patience, 1000)
            permit.settle(runtime.now())

        tasks = []
        for pause, *whose in before:
            await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(enter(inf, *whose)))
        await asyncio.sleep(last[0])
        if extra is not None:
            await asyncio.sleep(extra)
        try:
            await enter(0.0, *last[1:])
        except LimitReached as refused:
            found = refused.retry_after
        else:
            found = 0.0
        await asyncio.gather(*tasks)
        return found

    wait = run(main(None))
    if wait:
        assert run(main(wait)) == pytest.approx(0.0, abs=1e-3)
        if wait > 0.002:
            assert run(main(wait - 0.001)) > 0


@settings(max_examples=20)
@given(st.integers(1, 300))
def test_a_queue_of_any_length_tells_the_same_wait_for_one_limit(waiting):
    async def main():
        runtime = Runtime()
        gate = Gate(("key",), (Limit("requests", REQUESTS, 60.0, 60, 1.0),), inf, inf, 0.0)
        one = (1.0, 0.0, 0.0, 0.0)
        tasks = [
            asyncio.create_task(gate.enter(Call(Request("m", "hi"), runtime), one, inf, 1000))
            for _ in range(waiting)
        ]
        await asyncio.sleep(0)
        call = Call(Request("m", "hi"), runtime)
        assert gate.expected(call, one, runtime.now()) == pytest.approx(waiting)
        with pytest.raises(LimitReached) as refused:
            await gate.enter(call, one, 0.0, inf)
        assert refused.value.retry_after == pytest.approx(waiting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())
