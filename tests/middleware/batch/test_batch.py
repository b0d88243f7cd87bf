"""Micro-batching: one request for several calls, and every one has its own vectors, share and end."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import (
    BadReply,
    ConfigError,
    DeadlineExceeded,
    LLMError,
    ReplyClosed,
    ServiceUnavailable,
)
from llmpipe.middleware.batch import Batch
from llmpipe.middleware.batch.sharing import shared_out
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.pipeline.share import split
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.testing import run
from llmpipe.testing.conform import conform
from llmpipe.types import Cost as Charge
from llmpipe.types import EmbeddingRequest, Embeddings, Request, Usage
from llmpipe.types.copying import replace

PRICES = {"mock-1": {"input": 0.02, "output": 0.0}}


class Slow(MockProvider):
    """Answers embeddings after a second, and counts what is under way."""

    seconds = 1.0
    busy = 0

    async def __call__(self, call):
        self.busy += 1
        try:
            await asyncio.sleep(self.seconds)
            return await super().__call__(call)
        finally:
            self.busy -= 1


def now() -> float:
    return asyncio.get_running_loop().time()


def batched(script=(), *middleware, default: Any = "ok", **options) -> Any:
    return Chain(Slow(script, default=default), Batch(**options), *middleware, runtime=Runtime(seed=1))


def sizes(chain: Any) -> list[int]:
    return [len(request.inputs) for request in chain.provider.requests]


async def alone(*inputs: str, **options) -> tuple:
    return (await Chain(MockProvider(default="ok")).embed(inputs, **options)).vectors


def settled(chain: Any) -> bool:
    return (
        not chain.runtime._tasks
        and not any(chain.runtime.states("batch").values())
        and not chain.provider.busy
    )


def watched(chain: Any) -> dict[str, Any]:
    """The ledger of each call, by its first input."""
    ledgers: dict[str, Any] = {}

    class Watch:
        name, priority = "watch", 100

        async def __call__(self, call, call_next):
            ledgers[call.request.inputs[0]] = call.ledger
            return await call_next(call)

    chain.use(Watch())
    return ledgers


# ---------------------------------------------------------------- one for several


async def test_calls_of_a_moment_are_one_request_and_each_has_its_own_vectors():
    chain = batched()
    found = await asyncio.gather(*(chain.embed([f"a{n}", f"b{n}"]) for n in range(20)))
    assert sizes(chain) == [40]
    assert now() == pytest.approx(1.01)
    for n, one in enumerate(found):
        assert one.vectors == await alone(f"a{n}", f"b{n}")
    assert settled(chain)


async def test_the_window_is_counted_from_the_first_call_and_then_another_batch_opens():
    chain = batched()

    async def late(seconds, text):
        await asyncio.sleep(seconds)
        await chain.embed([text])

    await asyncio.gather(late(0, "a"), late(0.009, "b"), late(0.011, "c"), late(0.02, "d"))
    assert [request.inputs for request in chain.provider.requests] == [("a", "b"), ("c", "d")]


async def test_a_call_by_itself_is_answered_as_it_is():
    chain = batched(())
    ledgers = watched(chain)
    done = await chain.embed(["a"])
    assert done == await Chain(MockProvider(default="ok")).embed(["a"])
    assert done.usage.source == "provider"
    assert ledgers["a"].notes == []
    assert [attempt.status for attempt in ledgers["a"].attempts] == ["ok"]


async def test_a_full_batch_departs_at_once_and_the_rest_is_the_next():
    chain = batched(max_inputs=5)
    await asyncio.gather(*(chain.embed([f"{n}", "x"]) for n in range(5)))
    assert sizes(chain) == [4, 4, 2]
    chain = batched(max_tokens=30)
    await asyncio.gather(*(chain.embed(["some ten tokens or so, all in all"]) for _ in range(4)))
    assert len(sizes(chain)) > 1


async def test_a_call_that_fills_a_batch_itself_goes_alone_and_waits_for_nobody():
    chain = batched(max_inputs=3)
    await chain.embed(["a", "b", "c"])
    assert now() == 1
    chain = batched(max_tokens=2)
    began = now()
    await chain.embed(["a long text of many tokens"])
    assert now() - began == 1


DIFFERENT: list[dict[str, Any]] = [
    {"tenant": "other"},
    {"user": "other"},
    {"tags": {"a": "1"}},
    {"tags": {"b": "1"}},
    {"model": "other"},
    {"dimensions": 3},
    {"input_type": "query"},
    {"input_type": "document"},
    {"metadata": {"a": "1"}},
    {"extra": {"a": 1}},
    {"extra": {"a": "1"}},
    {"extra": {"a": 1}, "dialect": "cohere.chat"},
    {"options": {Retry: {"attempts": 1}}},
    {"without": "retry"},
    {},
]


async def test_only_what_could_be_one_request_is_one():
    chain = batched((), Retry())
    calls = [chain.embed([f"{n}{m}"], **how) for n in range(2) for m, how in enumerate(DIFFERENT)]
    await asyncio.gather(*calls)
    assert sizes(chain) == [2] * len(DIFFERENT)


async def test_texts_and_tokens_do_not_share_and_a_mixture_goes_alone():
    chain = batched()
    inputs: list[Any] = [["a"], [[1, 2]], ["a", [1]], ["b"], [[3]], ["b", [1]]]
    await asyncio.gather(*(chain.embed(one) for one in inputs))
    assert sorted(sizes(chain)) == [2, 2, 2, 2]
    sent = [request.inputs for request in chain.provider.requests]
    assert ("a", "b") in sent
    assert ([1, 2], [3]) in sent


async def test_users_share_where_that_is_asked_for_and_tenants_never():
    chain = batched(across_users=True)
    await asyncio.gather(
        chain.embed(["a"], user="1"), chain.embed(["b"], user="2"), chain.embed(["c"], tenant="x")
    )
    assert sorted(sizes(chain)) == [1, 2]


async def test_two_chains_on_one_runtime_do_not_share():
    runtime = Runtime(seed=1)
    provider = Slow(default="ok")
    one, two = (Chain(provider, Batch(), Retry(attempts=n), runtime=runtime) for n in (1, 2))
    await asyncio.gather(one.embed(["a"]), two.embed(["b"]))
    assert len(provider.requests) == 2


async def test_chats_and_rankings_pass():
    chain = Chain(MockProvider(default="ok"), Batch())
    assert (await chain.complete("hi")).text == "ok"
    assert (await chain.rerank("hi", ["hi", "ho"])).results
    assert now() == 0


# ---------------------------------------------------------------- shares


@given(st.integers(-1000, 10**15), st.lists(st.integers(1, 10**6), min_size=1, max_size=30))
def test_shares_are_whole_add_up_and_are_off_by_less_than_one(total, weights):
    parts = split(total, weights)
    assert sum(parts) == total
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part * sum(weights) - total * weight) < sum(weights)


def test_the_largest_remainder_gets_what_is_left():
    assert split(5, [3, 3, 1]) == [2, 2, 1]
    assert split(1, [1, 5, 5]) == [0, 1, 0]


counts = st.integers(0, 10**6)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5000)), min_size=1, max_size=12),
    st.tuples(counts, counts, counts, counts, counts),
    st.none() | st.tuples(counts, counts),
)
def test_usage_and_charge_of_the_parts_are_those_of_the_whole(calls, tokens, charge):
    fresh, cached, written, said, thought = tokens
    usage = Usage(fresh + cached + written, said + thought, cached, written, thought)
    total = sum(count for count, _ in calls)
    vectors = tuple([float(n)] for n in range(total))
    whole = Embeddings(vectors, "m", usage, charge=None if charge is None else Charge(*charge))
    requests = [EmbeddingRequest(inputs=("x",) * count) for count, _ in calls]
    parts: list[Any] = shared_out(whole, requests, [weight for _, weight in calls])
    assert [vector for part in parts for vector in part.vectors] == list(vectors)
    summed = sum((part.usage for part in parts[1:]), parts[0].usage)
    for name in ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens"):
        assert getattr(summed, name) == getattr(usage, name)
    assert summed.reasoning_tokens == thought
    for part in parts:
        assert part.usage.cached_input_tokens + part.usage.cache_write_tokens <= part.usage.input_tokens
        assert part.usage.reasoning_tokens <= part.usage.output_tokens
    if charge is not None:
        assert sum(part.charge.input_nano for part in parts) == charge[0]
        assert sum(part.charge.output_nano for part in parts) == charge[1]


async def test_usage_is_shared_by_length_and_adds_up_to_what_the_provider_told():
    chain = batched()
    texts = ["short", "a text of middle length", "a long text " * 20]
    found = await asyncio.gather(*(chain.embed([text]) for text in texts))
    told = await Chain(MockProvider(default="ok")).embed(texts)
    tokens: Any = [one.usage.input_tokens for one in found]
    assert sum(tokens) == told.usage.input_tokens
    assert tokens == sorted(tokens)
    assert {one.usage.source for one in found} == {"provider"}


async def test_every_ledger_has_its_part_and_the_books_have_the_sum():
    chain = batched((), Cost(prices=PRICES))
    ledgers = watched(chain)
    texts = [f"{'word ' * n}end" for n in range(1, 12)]
    found = await asyncio.gather(*(chain.embed([text], user="u") for text in texts))
    whole = await Chain(MockProvider(default="ok"), Cost(prices=PRICES)).embed(texts)
    assert sum(one.charge.total_nano for one in found) == whole.charge.total_nano
    assert sum(ledger.attempts[0].charge.total_nano for ledger in ledgers.values()) == whole.charge.total_nano
    assert sum(a.usage.input_tokens for ledger in ledgers.values() for a in ledger.attempts) == (
        whole.usage.input_tokens
    )
    totals = Cost.totals(chain.runtime)
    assert (totals.all.nano, totals.all.calls) == (whole.charge.total_nano, len(texts))


async def test_a_charge_that_is_known_inside_is_shared_to_the_nano_dollar():
    inner = Chain(Slow(default="ok"), Cost(prices={"mock-1": {"input": 0.0137, "output": 0.0}}))
    chain = Chain(inner, Batch(), Cost())
    ledgers = watched(chain)
    texts = [f"{'word ' * n}end" for n in range(1, 12)]
    found: Any = await asyncio.gather(*(chain.embed([text]) for text in texts))
    whole: int = Cost.totals(chain.runtime).all.nano
    assert whole > 0
    assert sum(one.charge.total_nano for one in found) == whole
    assert sum(ledger.attempts[0].charge.total_nano for ledger in ledgers.values()) == whole


async def test_attempts_that_failed_on_the_way_are_in_every_ledger():
    chain = batched([ServiceUnavailable("no")], Retry(base=0.1, cap=0.1))
    ledgers = watched(chain)
    await asyncio.gather(*(chain.embed([f"{n}"]) for n in range(3)))
    for n, ledger in ledgers.items():
        assert [attempt.status for attempt in ledger.attempts] == ["error", "ok"]
        assert [attempt.number for attempt in ledger.attempts] == [1, 2]
        assert {attempt.request.inputs for attempt in ledger.attempts} == {(n,)}
        assert [note.kind for note in ledger.notes] == ["batch.sent", "retry.wait"]
    assert dict(ledgers["0"].notes[0].detail) | {"leader": ""} == {"calls": 3, "inputs": 3, "leader": ""}


async def test_what_one_caller_does_to_its_reply_no_other_sees():
    chain = batched([Embeddings(([1.0], [2.0]), extra={"a": [1]}, headers={"h": "1"})])
    one, two = await asyncio.gather(chain.embed(["a"]), chain.embed(["b"]))
    one.vectors[0].append(9.0)
    assert (one.vectors, two.vectors) == (([1.0, 9.0],), ([2.0],))
    for mapping in (one.extra, one.headers):
        with pytest.raises(TypeError):
            mapping["x"] = 1
    with pytest.raises(TypeError):
        one.extra["a"].append(2)


# ---------------------------------------------------------------- ends


async def test_an_error_goes_to_each_and_each_has_its_own():
    chain = batched([ServiceUnavailable("no")])
    found = await asyncio.gather(*(chain.embed([f"{n}"]) for n in range(3)), return_exceptions=True)
    assert [type(error) for error in found] == [ServiceUnavailable] * 3
    assert len({id(error) for error in found}) == 3
    found[0].metadata["x"] = 1
    assert not found[1].metadata
    assert settled(chain)


async def test_an_answer_of_the_wrong_length_is_nobodys():
    chain = batched([Embeddings(([1.0],) * 3)])
    found = await asyncio.gather(*(chain.embed([f"{n}"]) for n in range(2)), return_exceptions=True)
    assert [(type(error), error.code) for error in found] == [(BadReply, "batch_size")] * 2


async def test_an_error_that_is_none_of_ours_reaches_all():
    chain = batched([KeyError("bug")])
    found = await asyncio.gather(*(chain.embed([f"{n}"]) for n in range(2)), return_exceptions=True)
    assert [type(error) for error in found] == [KeyError] * 2


async def test_a_caller_who_leaves_hurts_nobody_and_pays_for_its_own_part_only():
    chain = batched((), Cost(prices=PRICES))
    ledgers = watched(chain)
    tasks = [asyncio.create_task(chain.embed([f"{n} words"])) for n in range(3)]
    await asyncio.sleep(0.5)
    tasks[0].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert [one.vectors for one in found[1:]] == [await alone("1 words"), await alone("2 words")]
    assert [attempt.status for attempt in ledgers["0 words"].attempts] == ["cancelled"]
    assert ledgers["0 words"].attempts[0].charge.estimated
    assert found[1].usage.input_tokens == pytest.approx((await _tokens(3)) / 3, abs=1)


async def _tokens(count: int) -> int:
    texts = [f"{n} words" for n in range(count)]
    return (await Chain(MockProvider(default="ok")).embed(texts)).usage.input_tokens


async def test_who_leaves_before_departure_was_never_there():
    chain = batched()
    ledgers = watched(chain)
    tasks = [asyncio.create_task(chain.embed([f"{n}"])) for n in range(3)]
    await asyncio.sleep(0.005)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [request.inputs for request in chain.provider.requests] == [("1", "2")]
    assert ledgers["0"].attempts == []


async def test_when_all_leave_before_departure_nothing_is_sent():
    chain = batched()
    tasks = [asyncio.create_task(chain.embed([f"{n}"])) for n in range(3)]
    await asyncio.sleep(0.005)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(1)
    assert chain.provider.requests == []
    assert settled(chain)


async def test_the_last_to_leave_ends_the_request():
    chain = batched()
    tasks = [asyncio.create_task(chain.embed([f"{n}"])) for n in range(3)]
    await asyncio.sleep(0.5)
    for task in tasks:
        assert chain.provider.busy == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert settled(chain)
    assert now() == 0.5


class Parting:
    """A guard that has every user's requests be of another kind, so that each goes on by itself."""

    name, priority = "parting", 450

    async def __call__(self, call, call_next):
        async def guard(attempt):
            return attempt.evolve(request=replace(attempt.request, dimensions=len(call.user)))

        return await call_next(call.evolve(guards=(guard,)))


def parted(told: asyncio.Event) -> Any:
    """A chain in which ada's part of a batch is answered when it is `told`, and bob's never."""

    class Both(MockProvider):
        busy = 0

        async def __call__(self, call):
            self.busy += 1
            try:
                await (told.wait() if call.request.inputs == ("ada's",) else asyncio.sleep(1000))
                return await super().__call__(call)
            finally:
                self.busy -= 1

    return Chain(Both(default="ok"), Parting(), Batch(across_users=True))


async def test_a_part_of_a_batch_ends_when_all_have_left_it_whoever_waits_for_another():
    told = asyncio.Event()
    chain = parted(told)
    ada, bob = (asyncio.create_task(chain.embed([f"{user}'s"], user=user)) for user in ("ada", "bobby"))
    await asyncio.sleep(1)
    assert chain.provider.busy == 2
    bob.cancel()
    await asyncio.wait([bob])
    assert chain.provider.busy == 1
    told.set()
    assert (await ada).vectors == await alone("ada's", dimensions=3)
    await asyncio.sleep(1)
    assert settled(chain)


@pytest.mark.parametrize("turns", range(6))
async def test_the_last_to_leave_ends_what_is_under_way_also_as_another_is_just_being_told(turns):
    told = asyncio.Event()
    chain = parted(told)
    ada, bob = (asyncio.create_task(chain.embed([f"{user}'s"], user=user)) for user in ("ada", "bobby"))
    await asyncio.sleep(1)
    told.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    bob.cancel()
    await ada
    await asyncio.sleep(1)
    assert settled(chain)


async def test_a_part_of_a_batch_that_is_cancelled_from_within_leaves_nobody_waiting():
    class Cancelled(MockProvider):
        async def __call__(self, call):
            if call.request.inputs == ("b",):
                raise asyncio.CancelledError  # as a library does that has lost what it waited for
            return await super().__call__(call)

    chain = Chain(Cancelled(default="ok"), Parting(), Batch(across_users=True))
    async with asyncio.timeout(10):
        good, bad = await asyncio.gather(
            chain.embed(["a"], user="a"), chain.embed(["b"], user="bb"), return_exceptions=True
        )
    assert good.vectors == await alone("a", dimensions=1)
    assert isinstance(bad, ReplyClosed)


@pytest.mark.real_time
def test_calls_in_another_thread_do_not_wait_for_a_loop_that_is_not_theirs():
    chain = Chain(MockProvider(default="ok"), Batch(window=30.0))
    waiting = asyncio.new_event_loop()
    task = waiting.create_task(chain.embed(["a"]))
    waiting.run_until_complete(asyncio.sleep(0.01))  # and stands still from now on
    flights = chain.runtime.state("batch", "batch", dict)
    (open_one,) = flights.values()
    other = asyncio.new_event_loop()
    second = other.create_task(chain.embed(["b"]))
    other.run_until_complete(asyncio.sleep(0.01))
    assert open_one.inputs == 1
    for loop, one in ((other, second), (waiting, task)):
        one.cancel()
        loop.run_until_complete(asyncio.wait([one]))
        loop.close()
    assert flights == {}


async def test_who_left_takes_no_room():
    chain = batched(max_inputs=4)
    gone = asyncio.create_task(chain.embed(["a", "b"]))
    stays = asyncio.create_task(chain.embed(["c", "d"]))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    await asyncio.gather(stays, chain.embed(["e"]), return_exceptions=True)
    assert sizes(chain) == [3]


async def test_each_has_its_own_deadline_and_the_request_the_latest():
    seen = []

    class Look:
        name, priority = "look", 900

        async def __call__(self, call, call_next):
            seen.append((call.deadline, call.priority))
            return await call_next(call)

    chain = batched((), Look())
    hurried = asyncio.create_task(chain.embed(["a"], timeout=0.5))
    patient = asyncio.create_task(chain.embed(["b"], timeout=5))
    with pytest.raises(DeadlineExceeded) as caught:
        await hurried
    assert now() == pytest.approx(0.5)
    assert (caught.value.sent, caught.value.billed) == (True, "unknown")
    assert (await patient).vectors == await alone("b")
    await asyncio.gather(chain.embed(["a"], timeout=5, priority=-3), chain.embed(["b"], priority=7))
    assert seen == [(5, 0), (None, 7)]


async def test_who_has_no_time_for_the_window_goes_alone():
    chain = batched(window=1.0)
    chain.provider.seconds = 0.1
    await chain.embed(["a"], timeout=1.5)
    assert now() == pytest.approx(0.1)


async def test_closing_the_runtime_tells_those_on_board():
    chain = batched()
    tasks = [asyncio.create_task(chain.embed([f"{n}"])) for n in range(2)]
    await asyncio.sleep(0.5)
    await chain.aclose()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in found] == [ReplyClosed] * 2


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),  # tenant
            st.floats(0, 0.04),  # when it comes
            st.integers(1, 3),  # how many inputs
            st.none() | st.floats(0.001, 1.5),  # when it is cancelled
            st.none() | st.floats(0.001, 1.5),  # its timeout
        ),
        max_size=25,
    ),
    st.sampled_from(["ok", "error", "mixed"]),
)
def test_whatever_callers_do_each_gets_its_own_vectors_or_its_own_error(calls, provider):
    script = {
        "ok": [],
        "error": [ServiceUnavailable("no")] * 30,
        "mixed": ["ok", ServiceUnavailable("no")] * 15,
    }

    async def main():
        chain = batched(script[provider], max_inputs=8)
        chain.provider.seconds = 0.5
        sent: Counter[str] = Counter()

        async def one(n, tenant, begin, count, cancelled, timeout):
            await asyncio.sleep(begin)
            inputs = [f"{tenant}{n}-{m}" for m in range(count)]
            task = asyncio.create_task(chain.embed(inputs, tenant=tenant, timeout=timeout))
            if cancelled is not None:
                asyncio.get_running_loop().call_later(cancelled, task.cancel)
            result: Any = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(result, Embeddings):
                assert result.vectors == await alone(*inputs)
            elif isinstance(result, asyncio.CancelledError):
                assert cancelled is not None
            else:
                assert isinstance(result, LLMError)
                assert isinstance(result, DeadlineExceeded) is not isinstance(result, ServiceUnavailable)

        await asyncio.gather(*(one(n, *call) for n, call in enumerate(calls)))
        for request in chain.provider.requests:
            assert len(request.inputs) <= 8
            assert len({text[0] for text in request.inputs}) == 1  # one tenant
            sent.update(request.inputs)
        assert all(count == 1 for count in sent.values())
        assert settled(chain)

    run(main())


async def test_it_keeps_the_laws_of_the_pipeline():
    requests = [
        Request("conform-1", "Tell me about the rain."),
        EmbeddingRequest("conform-embed-1", ("rain",)),
        EmbeddingRequest("conform-embed-1", ("rain", "snow")),
    ]
    report = await conform(lambda: Batch(window=0.5), requests=requests)
    assert report.cancellations > 100


@pytest.mark.parametrize(
    "options",
    [{"window": -1}, {"window": 61}, {"max_inputs": 0}, {"max_tokens": 0}, {"window": float("nan")}],
)
def test_wrong_settings_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Batch(**options)


def test_it_is_built_by_name():
    assert build("batch", {"window": 1, "across_users": True}) == Batch(window=1.0, across_users=True)
