"""Cost: every attempt is priced, and what is not known is never nothing."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import (
    ConfigError,
    ConnectFailed,
    NetworkError,
    Overloaded,
    RateLimited,
    ServiceUnavailable,
    StreamBroken,
)
from llmpipe.middleware.cost import Cost, Total
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.registry import build
from llmpipe.pipeline.reply import Reply
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing import run
from llmpipe.tokens import estimate_request
from llmpipe.types import Completion, Message, Request, Start, TextDelta, Usage, UsageUpdate

PRICES = {"m": {"input": 2, "output": 10}}  # USD per million: 2,000 and 10,000 nano-USD a token
COST = Cost(prices=PRICES)
USAGE = Usage(100, 20)
NANO = 100 * 2_000 + 20 * 10_000


def chain_of(*script: Any, middleware: tuple[Any, ...] = (), cost: Cost = COST, **settings: Any) -> Chain:
    provider = MockProvider(script, name="p", model="m", usage=settings.pop("usage", USAGE), **settings)
    return Chain(provider, cost, *middleware)


async def read(chain: Chain, **options: Any) -> Any:
    stream = chain.stream("hi", **options)
    async with stream as reply:
        async for _ in reply:
            pass
    return stream.call


def books(chain: Chain) -> Total:
    return Cost.totals(chain.runtime).all


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_says_what_it_cost(stream: bool):
    chain = chain_of("ok")
    if stream:
        async with chain.stream("hi") as reply:
            done = await reply.full()
    else:
        done = await chain.complete("hi")
    assert done.cost == Decimal("0.0004")
    assert done.charge is not None
    assert (done.charge.input_nano, done.charge.output_nano, done.charge.estimated) == (
        200_000,
        200_000,
        False,
    )
    assert books(chain) == Total(calls=1, attempts=1, input_tokens=100, output_tokens=20, nano=NANO)
    assert books(chain).usd == Decimal("0.0004")


async def test_the_packaged_table_knows_the_usual_models():
    done = await Chain(MockProvider(["ok"], name="openai", model="gpt-4o-mini"), Cost()).complete("hi")
    assert done.cost is not None
    assert done.cost > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_price_is_none_and_is_told(stream: bool):
    chain = Chain(MockProvider(["ok"], name="p", model="nobody-knows", usage=USAGE), COST)
    if stream:
        call = await read(chain)
    else:
        call = chain.new_call(Request(messages="hi"))
        done = await (await chain(call)).full()
        assert done.charge is None
    assert [attempt.charge for attempt in call.ledger.attempts] == [None]
    assert [(note.kind, dict(note.detail)) for note in call.ledger.notes] == [
        ("cost.unknown_price", {"provider": "p", "model": "nobody-knows", "attempt": 1})
    ]
    assert books(chain) == Total(calls=1, attempts=1, input_tokens=100, output_tokens=20, unknown=1)


ESTIMATE = estimate_request(Request("m", "hi")) * 2_000


@pytest.mark.parametrize(
    ("failure", "nano"),
    [
        (RateLimited("slow"), 0),  # billed: no
        (Overloaded("busy"), 0),
        (ConnectFailed("refused"), 0),  # not sent
        (ServiceUnavailable("500"), ESTIMATE),  # billed: unknown
        (NetworkError("reset"), ESTIMATE),
        (ServiceUnavailable("500", billed="yes"), ESTIMATE),
        (ServiceUnavailable("500", sent=False), 0),
        (LookupError("a bug of the adapter"), ESTIMATE),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else str(value),
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_attempt_costs_what_it_may_have(failure: Exception, nano: int, stream: bool):
    chain = chain_of(failure)
    request = Request("m", "hi", stream=stream)
    call = chain.new_call(request)
    with pytest.raises(type(failure)):
        await chain(call)
    charge = call.ledger.attempts[0].charge
    assert charge is not None
    assert charge.total_nano == nano
    assert charge.estimated is (nano > 0)
    assert books(chain).nano == nano
    assert books(chain).estimated_nano == nano
    assert books(chain).calls == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_cost_of_a_call_is_the_sum_of_all_its_attempts(stream: bool):
    chain = chain_of(ServiceUnavailable("500"), RateLimited("slow"), "ok", middleware=(Retry(),))
    if stream:
        async with chain.stream(Request("m", "hi")) as reply:
            done = await reply.full()
    else:
        done = await chain.complete(Request("m", "hi"))
    assert done.charge is not None
    assert done.charge.total_nano == ESTIMATE + NANO
    assert done.charge.estimated
    total = books(chain)
    assert (total.calls, total.attempts, total.nano, total.estimated_nano) == (
        1,
        3,
        ESTIMATE + NANO,
        ESTIMATE,
    )


async def test_one_attempt_without_a_price_makes_the_sum_unknown():
    def fallback(call, call_next):
        async def go():
            try:
                return await call_next(call)
            except ServiceUnavailable:
                return await call_next(call.evolve(target=other))

        return go()

    fallback.name, fallback.priority = "fallback", 600  # type: ignore[attr-defined]
    other = MockProvider(["ok"], name="q", model="nobody-knows")
    chain = chain_of(ServiceUnavailable("500"), middleware=(fallback,))
    done = await chain.complete("hi")
    assert done.charge is None
    totals = Cost.totals(chain.runtime)
    assert totals.by_provider["p"].nano > 0
    assert totals.by_provider["q"].unknown == 1


async def test_an_abandoned_stream_costs_what_it_had_used():
    chain = chain_of(
        [Start("1", "m", "p"), UsageUpdate(Usage(100, 0)), "one two three", Wait(9), "four"], usage=None
    )
    async with chain.stream("hi") as reply:
        async for event in reply:
            if type(event) is TextDelta:
                break
    total = books(chain)
    assert total.calls == 1
    assert total.input_tokens == 100
    assert 0 < total.output_tokens < 10
    assert total.nano == total.estimated_nano == 100 * 2_000 + total.output_tokens * 10_000


@pytest.mark.parametrize("when", ["before its content", "in the middle"])
async def test_a_cancelled_call_costs_an_estimate(when: str):
    chain = chain_of([Wait(5), "one", Wait(5), "two"], usage=None)
    task = asyncio.create_task(read(chain))
    await asyncio.sleep(2 if when == "before its content" else 7)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    total = books(chain)
    assert total.calls == total.attempts == 1
    assert total.nano == total.estimated_nano > 0
    assert (total.output_tokens > 0) is (when == "in the middle")


async def test_a_stream_that_breaks_is_charged_and_its_partial_reply_says_an_estimate():
    chain = chain_of(["one two three", StreamBroken("cut")], usage=None)
    with pytest.raises(StreamBroken) as caught:
        await read(chain)
    partial = caught.value.partial
    assert isinstance(partial, Completion)
    assert partial.charge is not None
    assert partial.charge.estimated
    assert partial.charge.total_nano == books(chain).nano > 0


async def test_the_usage_that_counts_is_the_providers_whatever_layers_make_of_the_text():
    @layer(priority=950)
    async def shorten(call, call_next):
        reply = await call_next(call)

        class Drop:
            def feed(self, event):
                return () if type(event) is TextDelta else (event,)

            def flush(self):
                return ()

        return reply.pipe(Drop())

    chain = chain_of("a long answer", middleware=(shorten,))
    await read(chain)
    assert books(chain).nano == NANO


async def test_the_price_is_that_of_the_model_that_answered_or_else_of_the_one_asked():
    prices = {**PRICES, "dear": {"input": 20, "output": 100}}
    answered = Completion(message=Message("assistant", "ok"), model="dear", finish_reason="stop")
    dated = Completion(message=Message("assistant", "ok"), model="deployment-7", finish_reason="stop")
    chain = chain_of(answered, dated, cost=Cost(prices=prices))
    assert (await chain.complete("hi", model="m")).charge.total_nano == 10 * NANO
    assert (await chain.complete("hi", model="m")).charge.total_nano == NANO


async def test_a_service_tier_has_its_own_price():
    chain = Chain(MockProvider(default="ok", name="openai", model="gpt-5", usage=Usage(1_000_000, 0)), Cost())
    standard = (await chain.complete("hi")).charge
    flex = (await chain.complete("hi", extra={"service_tier": "flex"})).charge
    for other in ("auto", ["flex"], None):
        assert (await chain.complete("hi", extra={"service_tier": other})).charge == standard
    assert flex.total_nano < standard.total_nano


@pytest.mark.parametrize("priority", [350, 520])
async def test_a_reply_that_needed_no_attempt_costs_nothing_and_outside_the_cache_it_is_a_hit(priority: int):
    @layer(priority=400)
    async def cache(call, call_next):
        call.note("cache.hit", saved=5_000)
        return Reply.of(
            Completion(message=Message("assistant", "ok"), model="m", provider="p", finish_reason="stop")
        )

    chain = Chain(MockProvider(name="p", model="m"), Cost(prices=PRICES, priority=priority), cache)
    done = await chain.complete("hi")
    if priority < 400:
        assert done.cost == 0
        assert books(chain) == Total(calls=1, hits=1, saved_nano=5_000)
        assert books(chain).saved_usd == Decimal("0.000005")
    else:
        assert books(chain) == Total()


async def test_the_books_are_kept_by_model_provider_tenant_project_and_user():
    chain = chain_of("ok", "ok", "ok")
    await chain.complete("hi", tenant="acme", user="u1", tags={"project": "x"})
    await chain.complete("hi", tenant="acme", user="u2", tags={"project": "y"})
    await chain.complete("hi", tenant="other", user="u1")
    totals = Cost.totals(chain.runtime)
    assert totals.all.calls == 3
    assert totals.by_model == {"m": totals.all}
    assert totals.by_provider == {"p": totals.all}
    assert {key: total.calls for key, total in totals.by_tenant.items()} == {"acme": 2, "other": 1}
    assert {key: total.calls for key, total in totals.by_project.items()} == {"x": 1, "y": 1, "": 1}
    assert {key: total.nano for key, total in totals.by_user.items()} == {
        ("acme", "u1"): NANO,
        ("acme", "u2"): NANO,
        ("other", "u1"): NANO,
    }
    snapshot = Cost.snapshot(chain.runtime)
    assert snapshot["cost"] == "0.001200000"
    assert snapshot["currency"] == "USD"
    assert snapshot["by_user"]["acme/u1"]["cost"] == "0.000400000"


async def test_a_project_of_any_kind_fails_no_call_that_was_paid_for():
    chain = chain_of("ok", "ok")
    projects: tuple[Any, ...] = (["x"], 5)
    for project in projects:
        await chain.complete("hi", tags={"project": project})
    assert set(Cost.snapshot(chain.runtime)["by_project"]) == {"['x']", "5"}


async def test_a_slash_in_a_name_mixes_up_nobodys_money():
    chain = chain_of("ok", "ok", "ok")
    for tenant, user in (("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c")):
        await chain.complete("hi", tenant=tenant, user=user)
    assert sorted(Cost.snapshot(chain.runtime)["by_user"]) == ["a%252Fb/c", "a%2Fb/c", "a/b%2Fc"]


async def test_lines_beyond_the_limit_share_one_and_no_money_is_lost():
    chain = chain_of(*["ok"] * 20, cost=Cost(prices=PRICES, max_lines=3))
    for number in range(20):
        await chain.complete("hi", user=f"u{number}")
    totals = Cost.totals(chain.runtime)
    assert totals.all.nano == 20 * NANO
    assert len(totals.by_user) == 4
    assert totals.by_user["_other", "_other"].calls == 17


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chain_inside_a_chain_is_charged_once(stream: bool):
    inner = chain_of("ok")
    chain = Chain(inner, COST)
    if stream:
        async with chain.stream("hi") as reply:
            done = await reply.full()
    else:
        done = await chain.complete("hi")
    assert done.charge.total_nano == NANO
    assert books(chain).nano == NANO
    assert books(chain).attempts == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_of_a_chain_inside_a_chain_an_unknown_price_is_told_once(stream: bool):
    inner = Chain(MockProvider(["ok"], name="p", model="nobody-knows"), COST)
    chain = Chain(inner, COST)
    call = chain.new_call(Request(messages="hi", stream=stream))
    await (await chain(call)).full()
    assert [note.kind for note in call.ledger.notes] == ["cost.unknown_price"]
    assert books(chain).unknown == books(chain).attempts == 1


async def test_attempts_of_embeddings_are_charged():
    chain = chain_of("x")
    call = chain.new_call(Request("m", "hi"))
    await chain.embed("hi")
    assert books(chain).attempts == 1
    assert books(chain).nano > 0
    assert call.ledger.attempts == []


async def test_options_of_a_call_change_the_prices_for_it():
    chain = chain_of("ok", "ok")
    free = await chain.complete("hi", options={Cost: {"prices": {"m": {"input": 0, "output": 0}}}})
    assert free.cost == 0
    assert (await chain.complete("hi")).cost == Decimal("0.0004")


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=8),
    st.integers(0, 3000),
    st.integers(0, 3000),
)
def test_the_books_are_the_sum_of_what_the_replies_said(usages, input_price: int, output_price: int):
    async def main():
        cost = Cost(
            prices={"m": {"input": Decimal(input_price) / 1000, "output": Decimal(output_price) / 1000}}
        )
        script = [
            Completion(message=Message("assistant", "ok"), finish_reason="stop", usage=Usage(*usage))
            for usage in usages
        ]
        chain = chain_of(*script, cost=cost)
        said: list[Any] = [(await chain.complete("hi")).charge for _ in usages]
        assert books(chain).nano == sum(charge.total_nano for charge in said)
        for (inp, out), charge in zip(usages, said, strict=True):
            assert 0 <= charge.input_nano - inp * input_price < 1
            assert 0 <= charge.output_nano - out * output_price < 1

    run(main())


def test_wrong_settings_are_refused_at_construction():
    with pytest.raises(ConfigError, match="max_lines"):
        Cost(max_lines=0)
    with pytest.raises(ConfigError, match="'m'"):
        Cost(prices={"m": {"inputs": 1}})


def test_it_is_built_from_a_file():
    assert build("cost", {"prices": {"m": {"input": 2, "output": 10}}}) == COST


# -- in the middle of a stream


TWO = {**PRICES, "dear": {"input": 20, "output": 100}}


async def test_in_mid_stream_an_attempt_that_is_over_is_priced_by_its_own_model_and_usage():
    from llmpipe.middleware.fallback import Fallback

    failing = MockProvider([ServiceUnavailable("500")], name="p", model="dear")
    answering = MockProvider(["one two three"], name="q", model="m", usage=USAGE)
    chain = Chain(failing, Cost(prices=TWO), Fallback(answering))
    estimate = estimate_request(Request("dear", "hi")) * 20_000
    async with chain.stream("hi") as reply:
        await anext(reply)
        under_way = reply.completion.charge
        async for _ in reply:
            pass
    assert under_way is not None
    assert under_way.total_nano - estimate <= NANO
    assert under_way.total_nano > estimate
    assert reply.completion.charge.total_nano == estimate + NANO == books(chain).nano


async def test_in_mid_stream_a_reply_that_was_given_up_keeps_the_usage_it_had():
    @layer(priority=650)
    async def twice(call, call_next):
        first = await call_next(call)
        await first.aclose()
        return await call_next(call.evolve(request=Request("m", "hi", stream=True)))

    script = [["given up", Wait(1), "never"], ["one two three ", Wait(1), "four"]]
    chain = Chain(MockProvider(script, name="p", model="dear"), Cost(prices=TWO), twice)
    stream = chain.stream("hi")
    async with stream as reply:
        first = stream.call.ledger.attempts[0]
        gone = first.usage.input_tokens * 20_000 + first.usage.output_tokens * 100_000
        async for _ in reply:
            here = reply.completion
            at_least = gone + estimate_request(Request("m", "hi")) * 2_000
            assert gone < at_least <= here.charge.total_nano < at_least + 10 * 10_000


@pytest.mark.parametrize("stream", [False, True])
async def test_what_runs_beside_a_reply_is_not_taken_for_it(stream: bool):
    """An attempt of the same call that is open is under way; it is priced when it is over."""

    @layer(priority=650)
    async def beside(call, call_next):
        other = await call_next(call.evolve(request=Request("dear", "hi", stream=True)))
        other.adopt()
        reply = await call_next(call)
        opened.append(other)
        return reply

    opened: list[Reply] = []
    script = [["beside", Wait(9), "it"], "one"]
    chain = Chain(MockProvider(script, name="p", model="m", usage=USAGE), Cost(prices=TWO), beside)
    call = chain.new_call(Request("m", "hi", stream=stream))
    async with await chain(call) as reply:
        async for _ in reply:
            charge = reply.completion.charge
            assert charge is not None
            assert charge.total_nano <= NANO
        assert call.ledger.attempts[0].charge is None
        done = reply.completion
    assert done.charge.total_nano == NANO
    await opened[0].aclose()
