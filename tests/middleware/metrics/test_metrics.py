"""Metrics: what happened, counted once, however a call went."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmpipe.errors import (
    CircuitOpen,
    ConfigError,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    StreamBroken,
)
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.metrics import Metrics
from llmpipe.middleware.metrics.instruments import OTHER, Histogram
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.registry import build
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.types import Completion, Message, Start, TextDelta, Usage

METRICS = Metrics()


def values(chain: Chain, name: str, metrics: Metrics = METRICS) -> dict[str, float]:
    """The children of a family: their label values, joined, and their value or count."""
    found = {}
    for family in metrics.registry(chain.runtime).families():
        if family.name == name:
            for labels, child in family.children():
                found[" ".join(labels.values())] = (
                    child.count if isinstance(child, Histogram) else child.value
                )
    return found


def nonzero(chain: Chain, name: str) -> dict[str, float]:
    return {labels: value for labels, value in values(chain, name).items() if value}


async def read(chain: Chain) -> None:
    async with chain.stream("hi") as reply:
        async for _ in reply:
            pass


USAGE = Usage(100, 20, cached_input_tokens=60, cache_write_tokens=30, reasoning_tokens=5)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_succeeds_is_counted_in_every_way(stream: bool):
    provider = MockProvider([[Wait(2), "hello ", Wait(1), "you"]], name="p", model="m", usage=USAGE)
    chain = Chain(provider, METRICS)
    await (read(chain) if stream else chain.complete("hi"))
    assert nonzero(chain, "requests.total") == {"p m ok": 1}
    assert nonzero(chain, "attempts.total") == {"p m ok ": 1}
    assert nonzero(chain, "finish_reasons.total") == {"p m stop": 1}
    assert nonzero(chain, "tokens.total") == {
        "p m input": 100,
        "p m output": 20,
        "p m cached_input": 60,
        "p m cache_write": 30,
        "p m reasoning": 5,
    }
    assert nonzero(chain, "errors.total") == {}
    durations = {"request.duration": 3.0, "attempt.duration": 3.0}
    if stream:
        durations["request.first_content"] = 2.0
    else:
        assert nonzero(chain, "request.first_content") == {}
    for name, total in durations.items():
        family = next(f for f in METRICS.registry(chain.runtime).families() if f.name == name)
        assert family.total() == pytest.approx(total), name
        assert nonzero(chain, name) == {f"p m{' ok' if name == 'request.duration' else ''}": 1}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_counted_by_type_and_retryability(stream: bool):
    chain = Chain(MockProvider([RateLimited("slow"), InvalidRequest("no")], name="p", model="m"), METRICS)
    for error in (RateLimited, InvalidRequest):
        with pytest.raises(error):
            await (read(chain) if stream else chain.complete("hi"))
    assert nonzero(chain, "requests.total") == {"p m error": 2}
    assert nonzero(chain, "errors.total") == {
        "p m RATE_LIMIT true provider_rate_limited": 1,
        "p m INVALID_REQUEST false caller_invalid_request": 1,
    }
    assert nonzero(chain, "attempts.total") == {"p m error RATE_LIMIT": 1, "p m error INVALID_REQUEST": 1}
    assert nonzero(chain, "request.first_content") == {}


async def test_an_error_of_another_kind_is_counted_by_its_class():
    chain = Chain(MockProvider([KeyError("x")], name="p", model="m"), METRICS)
    with pytest.raises(KeyError):
        await chain.complete("hi")
    assert nonzero(chain, "errors.total") == {"p m KeyError false llmpipe_internal": 1}


async def test_a_refusal_without_an_attempt_is_counted_under_the_target():
    @layer(priority=300)
    async def refuse(call, call_next):
        raise InvalidRequest("no", sent=False)

    chain = Chain(MockProvider(name="p", model="m"), METRICS, refuse)
    with pytest.raises(InvalidRequest):
        await chain.complete("hi")
    assert nonzero(chain, "requests.total") == {"p m error": 1}
    assert nonzero(chain, "attempts.total") == {}


async def test_a_stream_that_breaks_is_an_error_with_the_tokens_it_used():
    chain = Chain(MockProvider([["one two", StreamBroken("cut")]], name="p", model="m"), METRICS)
    with pytest.raises(StreamBroken):
        await read(chain)
    assert nonzero(chain, "requests.total") == {"p m error": 1}
    assert nonzero(chain, "errors.total") == {"p m NETWORK_ERROR true provider_connection_failed": 1}
    assert nonzero(chain, "attempts.total") == {"p m error NETWORK_ERROR": 1}
    assert values(chain, "tokens.total")["p m output"] > 0
    assert nonzero(chain, "finish_reasons.total") == {}


async def test_cancelled_and_abandoned_streams_are_counted_as_that():
    chain = Chain(MockProvider(default=["one", Wait(9), "two"], name="p", model="m"), METRICS)
    async with chain.stream("hi") as reply:
        await reply.__anext__()
    task = asyncio.create_task(read(chain))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert nonzero(chain, "requests.total") == {"p m abandoned": 1, "p m cancelled": 1}
    assert nonzero(chain, "attempts.total") == {"p m abandoned ": 1, "p m cancelled CancelledError": 1}
    assert nonzero(chain, "errors.total") == {}


async def test_a_call_that_is_cancelled_before_its_reply_is_counted_too():
    chain = Chain(MockProvider([[Wait(9), "late"]], name="p", model="m"), METRICS)
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    assert values(chain, "requests.in_flight") == {"": 1}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert nonzero(chain, "requests.total") == {"p m cancelled": 1}
    assert values(chain, "requests.in_flight") == {"": 0}


async def test_calls_are_in_flight_until_their_stream_is_read():
    chain = Chain(MockProvider(default=["one", "two"], name="p", model="m"), METRICS)
    async with chain.stream("hi") as first, chain.stream("hi") as second:
        assert values(chain, "requests.in_flight") == {"": 2}
        async for _ in first:
            pass
        assert values(chain, "requests.in_flight") == {"": 1}
        assert second.streamed
    assert values(chain, "requests.in_flight") == {"": 0}


async def test_a_call_whose_end_cannot_be_counted_is_not_in_flight_for_ever():
    @layer(priority=990)
    async def canned(call, call_next):
        def change(done):
            raise ValueError("this takes whole replies only")

        call.ledger.attempts.clear()
        return Reply.stream(source()).amend(change)

    async def source():
        yield Start()
        yield TextDelta("a")

    chain = Chain(MockProvider(default="ok"), METRICS, canned)
    async with chain.stream("hi") as reply:
        await anext(reply)
    assert values(chain, "requests.in_flight") == {"": 0}


async def test_a_circuit_that_was_dropped_has_no_state():
    chain = Chain(MockProvider(default=Overloaded("down"), name="p", model="m"), METRICS, Breaker())
    for _ in range(6):
        with pytest.raises(LLMError):
            await chain.complete("hi")
    assert values(chain, "circuit.state") == {"p mock m": 2}
    await asyncio.sleep(8000)
    with pytest.raises(LLMError):
        await chain.complete("hi", model="another")
    assert values(chain, "circuit.state") == {"p mock another": 0}


async def test_every_attempt_of_a_retried_call_is_counted_and_the_call_once():
    provider = MockProvider(
        [Overloaded("busy"), RateLimited("slow", retry_after=2), "ok"], name="p", model="m"
    )
    chain = Chain(provider, METRICS, Retry())
    await chain.complete("hi")
    assert nonzero(chain, "requests.total") == {"p m ok": 1}
    assert nonzero(chain, "attempts.total") == {
        "p m error SERVICE_UNAVAILABLE": 1,
        "p m error RATE_LIMIT": 1,
        "p m ok ": 1,
    }
    assert nonzero(chain, "events.total") == {"retry.wait": 2}
    assert nonzero(chain, "retry.attempts") == {"p mock m": 2}
    assert nonzero(chain, "retry.successful") == {"p mock m": 1}
    assert nonzero(chain, "retry.failed") == {"p mock m": 1}
    assert values(chain, "retry.delay")["p mock m"] > 2


async def test_the_circuits_figures_are_the_breakers():
    provider = MockProvider([Overloaded("busy")] * 5, default="ok", name="p", model="m")
    chain = Chain(provider, METRICS, Breaker(consecutive=5))
    for _ in range(7):
        with pytest.raises((Overloaded, CircuitOpen)):
            await chain.complete("hi")
    assert values(chain, "circuit.state") == {"p mock m": 2}
    assert values(chain, "circuit.requests.total") == {"p mock m": 7}
    assert values(chain, "circuit.requests.failed") == {"p mock m": 5}
    assert values(chain, "circuit.requests.rejected") == {"p mock m": 2}
    assert values(chain, "circuit.requests.successful") == {"p mock m": 0}
    assert nonzero(chain, "errors.total") == {
        "p m SERVICE_UNAVAILABLE true provider_overloaded": 5,
        "p m CIRCUIT_OPEN false llmpipe_dropped": 2,
    }
    assert nonzero(chain, "events.total") == {"breaker.opened": 1, "breaker.refused": 2}


async def test_money_is_counted_by_model_and_by_user_where_that_is_asked_for():
    metrics = Metrics(users=True)
    provider = MockProvider(default="ok", name="p", model="m", usage=Usage(1_000_000, 0))
    chain = Chain(provider, metrics, Cost(prices={"m": {"input": 2, "output": 1}}))
    await chain.complete("hi", tenant="acme", user="u1")
    await chain.complete("hi", tenant="acme", user="u2")
    assert values(chain, "cost.total", metrics) == {"p m": pytest.approx(4.0)}
    assert values(chain, "cost.requests", metrics) == {"p m": 2}
    assert values(chain, "cost.by_user", metrics) == {
        "acme u1": pytest.approx(2.0),
        "acme u2": pytest.approx(2.0),
    }
    assert "llmpipe_cost_usd_total{" in metrics.prometheus(chain.runtime)


async def test_what_an_unknown_price_would_be_is_not_counted_as_nothing():
    chain = Chain(MockProvider(default="ok", name="p", model="m"), METRICS, Cost())
    await chain.complete("hi")
    assert nonzero(chain, "cost.requests") == {}
    assert nonzero(chain, "events.total") == {"cost.unknown_price": 1}


NOTED: dict[str, tuple[dict[str, Any], str, float]] = {
    "cache.hit": ({"saved": 2_000_000_000}, "cost.saved", 2.0),
    "cache.stale": ({"saved": None}, "cache.hits", 1),
    "coalesce.joined": ({}, "coalesced.total", 1),
    "fallback.switched": ({}, "fallbacks.total", 1),
    "redact.request": ({"found": {"email": 2, "phone": 1}}, "redactions.total", 3),
    "rate_limit.wait": ({"seconds": 1.5}, "rate_limit.wait", 1),
    "something.new": ({"x": 1}, "events.total", 1),
}


@pytest.mark.parametrize("kind", NOTED)
async def test_notes_are_counted_by_what_they_say(kind: str):
    detail, name, value = NOTED[kind]

    @layer(priority=400)
    async def noting(call, call_next):
        call.note(kind, **detail)
        return await call_next(call)

    chain = Chain(MockProvider(["ok"]), METRICS, noting)
    await chain.complete("hi")
    assert sum(values(chain, name).values()) == pytest.approx(value)
    assert nonzero(chain, "events.total") == {kind: 1}


async def test_a_hit_is_counted_under_what_had_answered_and_uses_no_tokens():
    @layer(priority=400)
    async def cached(call, call_next):
        return Reply.of(
            Completion(
                message=Message("assistant", "ok"), model="m", provider="p", finish_reason="stop", usage=USAGE
            )
        )

    chain = Chain(MockProvider(), METRICS, cached)
    await chain.complete("hi")
    assert nonzero(chain, "requests.total") == {"p m ok": 1}
    assert nonzero(chain, "tokens.total") == {}
    assert nonzero(chain, "attempts.total") == {}


async def test_a_chain_inside_a_chain_is_counted_once():
    inner = Chain(MockProvider(default="ok", name="p", model="m"), Metrics())
    chain = Chain(inner, METRICS)
    await chain.complete("hi")
    await read(chain)
    assert nonzero(chain, "requests.total") == {"p m ok": 2}
    assert nonzero(chain, "attempts.total") == {"p m ok ": 2}
    assert values(chain, "requests.in_flight") == {"": 0}


async def test_embeddings_are_counted():
    chain = Chain(MockProvider(["x"], name="p", model="m"), METRICS)
    await chain.embed("hi")
    assert nonzero(chain, "requests.total") == {"p m ok": 1}
    assert values(chain, "tokens.total")["p m input"] > 0


async def test_models_beyond_the_limit_are_counted_together():
    metrics = Metrics(max_targets=2)
    chain = Chain(MockProvider(default="ok", name="p"), metrics)
    for number in range(50):
        await chain.complete("hi", model=f"m{number}")
    found = {labels: value for labels, value in values(chain, "requests.total", metrics).items() if value}
    assert found == {"p m0 ok": 1, "p m1 ok": 1, f"{OTHER} {OTHER} ok": 48}


async def test_reasons_that_a_provider_makes_up_fill_no_memory():
    metrics = Metrics(max_targets=2)
    script = [Completion(message=Message("assistant", "x"), finish_reason=f"r{n}") for n in range(100)]  # type: ignore[arg-type]  # as a provider may
    chain = Chain(MockProvider(script, name="p", model="m"), metrics)
    for _ in script:
        await chain.complete("hi")
    book = chain.runtime.states("metrics")["metrics"]
    assert max(len(target.reasons) for target in book._targets.values()) <= 32
    found = values(chain, "finish_reasons.total", metrics)
    assert sum(found.values()) == 100
    assert len(found) <= 41


async def test_a_rebuilt_chain_on_the_same_runtime_goes_on_counting():
    chain = Chain(MockProvider(default="ok", name="p", model="m"), METRICS)
    await chain.complete("hi")
    again = Chain(chain.provider, Metrics(labels={"v": "2"}), runtime=chain.runtime)
    await again.complete("hi")
    assert nonzero(again, "requests.total") == {"p m ok": 2}


async def test_the_text_has_prefix_and_labels_and_no_line_that_a_model_name_broke():
    metrics = Metrics(prefix="app", labels={"region": "eu"})
    chain = Chain(MockProvider(default="ok", name="p"), metrics)
    await chain.complete("hi", model='m"\n# EVIL\\')
    text = metrics.prometheus(chain.runtime)
    assert (
        'app_requests_total{region="eu",provider="p",'
        'model="m\\"\N{REPLACEMENT CHARACTER}# EVIL\\\\",status="ok"} 1' in text
    )
    assert all(line.startswith(("app_", "# HELP app_", "# TYPE app_")) for line in text.splitlines())
    assert "app_request_duration_seconds_bucket" in text
    assert "app_tokens_total" in text
    assert metrics.snapshot(chain.runtime)["requests.in_flight"]["values"] == [{"labels": {}, "value": 0}]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prefix": "a-b"}, "prefix"),
        ({"labels": {"le": "x"}}, "label"),
        ({"bounds": (2.0, 1.0)}, "ascend"),
        ({"max_targets": 0}, "max_targets"),
    ],
)
def test_wrong_settings_are_refused_at_construction(settings: dict[str, Any], problem: str):
    with pytest.raises(ConfigError, match=problem):
        Metrics(**settings)


def test_it_is_built_from_a_file():
    assert build("metrics", {"prefix": "app", "bounds": [1, 2.5], "labels": {"a": "b"}}) == Metrics(
        prefix="app", bounds=(1.0, 2.5), labels={"a": "b"}
    )
