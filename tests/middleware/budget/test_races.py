"""Calls that run at the same time never spend more than there is, however they are made and left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from llmpipe.errors import BudgetExceeded, LLMError, Overloaded, ServiceUnavailable, StreamBroken
from llmpipe.middleware.batch import Batch
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.continue_ import Continue
from llmpipe.middleware.cost import Cost
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.hedge import Hedge
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.provider import Capabilities
from llmpipe.pricing import PriceTable, worst_case
from llmpipe.providers.mock import Wait
from llmpipe.routing.ensemble import Ensemble
from llmpipe.routing.router import Router
from llmpipe.types import Request
from tests.middleware.budget.bank import (
    PRICES,
    Counting,
    balance,
    budget,
    ledger_of,
    mock,
    runtime,
    shaky,
    spent,
)

ASK = Request(messages="Tell me something.", max_tokens=20)
TABLE = PriceTable(PRICES)


def worst(request: Request = ASK, model: str = "m") -> int:
    cost = worst_case(request, TABLE.find("p", model))
    assert cost is not None
    return cost.total_nano


def room_for(calls: int, **settings: Any) -> Budget:
    return budget(Rule(usd=f"{calls * worst() / 1e9:.9f}", period="day"), **settings)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("store", ["memory://", "shaky://"])
async def test_of_a_thousand_calls_on_room_for_ten_exactly_ten_reach_the_provider(stream: bool, store: str):
    provider = Counting(mock(default=[Wait(1.0), "word " * 4]))
    config = room_for(10, store=store)
    chain = Chain(provider, config, Cost(prices=PRICES), runtime=runtime())
    if store == "shaky://":
        shaky(chain.runtime, pause=0.01)
    most = 0

    async def one() -> str:
        nonlocal most
        try:
            if stream:
                async with chain.stream(ASK) as reply:
                    await reply.full()
            else:
                await chain.complete(ASK)
        except BudgetExceeded as error:
            return str(error.code)
        finally:
            used, held = await balance(chain, config)
            most = max(most, used + held)
        return "ok"

    ends = await asyncio.gather(*[one() for _ in range(1000)])
    assert provider.count == ends.count("ok") == 10
    assert set(ends) == {"ok", "held"}
    assert most <= config.rules[0].nano
    used, held = await balance(chain, config)
    assert (used, held) == (await spent(chain), 0) if store == "memory://" else held == 0
    assert used == 10 * (used // 10) > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_retry_fits_into_what_its_failed_attempt_was_not_billed_for(stream: bool):
    provider = mock(Overloaded("busy"), Overloaded("busy"), "fine")
    config = room_for(1)
    chain = Chain(provider, config, Retry(attempts=3, base=0.01), runtime=runtime())
    if stream:
        async with chain.stream(ASK) as reply:
            await reply.full()
    else:
        await chain.complete(ASK)
    assert len(provider.requests) == 3
    assert (await balance(chain, config))[1] == 0


async def test_a_retry_of_what_may_be_billed_needs_room_beside_it():
    """The first may cost its input, the second the worst: together they fit into two, and not into one."""
    for calls, ends in ((1, "refused"), (2, "ok")):
        provider = mock(ServiceUnavailable("HTTP 500"), "fine")
        chain = Chain(provider, room_for(calls), Retry(attempts=2, base=0.01), runtime=runtime())
        try:
            await chain.complete(ASK)
            assert ends == "ok"
        except BudgetExceeded:
            assert ends == "refused"


async def test_an_attempt_that_failed_for_nothing_frees_only_the_budgets_that_it_was_held_of():
    """Two providers with a budget each: what the first did not spend is no room in the second's."""
    busy, spare = mock(default=Overloaded("busy"), name="a"), Counting(mock(default=[Wait(1), "x"], name="b"))
    rule = Rule(usd=f"{1.5 * worst() / 1e9:.9f}", period="day", per="provider")
    config = budget(rule)
    chain = Chain(busy, config, Fallback(spare), runtime=runtime())

    async def one() -> bool:
        try:
            await chain.complete(ASK)
        except BudgetExceeded:
            return False
        return True

    ends = await asyncio.gather(*[one() for _ in range(20)])
    assert spare.count == sum(ends) == 1


async def test_a_hedge_that_does_not_fit_is_not_sent():
    provider = Counting(mock(default=[Wait(5.0), "slow"]))
    chain = Chain(provider, room_for(1), Hedge(delay=0.5, max_share=1.0), runtime=runtime())
    await chain.complete(ASK)
    assert provider.count == 1
    wide = Chain(provider, room_for(3), Hedge(delay=0.5, max_share=1.0), runtime=runtime())
    await wide.complete(ASK)
    assert provider.count == 3


async def test_all_members_of_an_ensemble_are_paid_from_one_budget():
    members = [Counting(mock(default="same", name=name)) for name in "abc"]
    config = room_for(3)
    chain = Chain(Ensemble(*members, combine="vote"), config, runtime=runtime())
    await chain.complete(ASK)
    rows = await ledger_of(chain).spends()
    assert sorted(row.provider for row in rows) == ["a", "b", "c"]
    assert (await balance(chain, config)) == (sum(row.nano for row in rows), 0)
    assert [member.count for member in members] == [1, 1, 1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kept", ["memory://", "sqlite:///{}/state.db"])
async def test_a_budget_met_again_further_in_has_paid_already(tmp_path: Path, kept: str, stream: bool):
    """A preset may be round a router and round each of its targets, too."""
    config = room_for(3, store=kept.format(tmp_path))
    other = budget(Rule(usd=1, period="day"), name="other", store=config.store)
    members = [Chain(mock(default="same", name=name), config, other) for name in "ab"]
    async with Chain(Ensemble(*members, combine="vote"), config, runtime=runtime()) as chain:
        if stream:
            async with chain.stream(ASK) as reply:
                await reply.full()
        else:
            await chain.complete(ASK)
        rows = await ledger_of(chain, config).spends()
        assert sorted(row.provider for row in rows) == ["a", "b"]
        assert await balance(chain, config) == (sum(row.nano for row in rows), 0)
        rows = await ledger_of(chain, other).spends()
        assert sorted(row.provider for row in rows) == ["a", "b"]


async def test_members_with_budgets_of_their_own_pay_for_themselves_alone():
    rule = Rule(usd=1, period="day")
    members = [
        Chain(
            mock(default=[Wait(wait), "same"], name=name), budget(rule, name=f"of {name}"), runtime=runtime()
        )
        for name, wait in (("a", 1.0), ("b", 2.0))
    ]
    chain = Chain(Ensemble(*members, combine="vote"), runtime=runtime())
    await chain.complete(ASK)
    for name in "ab":
        rows = await budget(rule, name=f"of {name}").desk(chain.runtime).ledger.spends()
        assert [row.provider for row in rows] == [name]


async def test_a_router_asks_the_budget_for_each_target_it_tries():
    first, second = mock(default=Overloaded("busy"), name="a"), mock(default="fine", name="b")
    config = room_for(1)
    chain = Chain(Router(first, second, strategy="priority", layers=()), config, runtime=runtime())
    await chain.complete(ASK)
    rows = await ledger_of(chain).spends()
    assert [(row.provider, row.status) for row in rows] == [("a", "error"), ("b", "ok")]
    assert rows[0].nano == 0


async def test_a_cached_hit_is_free_and_a_shared_flight_is_paid_once():
    provider = Counting(mock(default=[Wait(1.0), "fine"]))
    config = room_for(1)
    chain = Chain(provider, Cache(), Coalesce(), config, runtime=runtime())
    same = Request(messages="Tell me something.", max_tokens=20, temperature=0)
    await asyncio.gather(*[chain.complete(same) for _ in range(50)])
    once = await spent(chain)
    assert provider.count == 1
    await chain.complete(same)
    assert await spent(chain) == once


async def test_a_stream_that_is_continued_is_held_and_charged_for_both_parts():
    provider = mock(["A ", StreamBroken("cut")], ["A fine ", "end"])
    provider.capabilities = Capabilities(prefill=True)
    config = room_for(10)
    chain = Chain(provider, config, Continue(), runtime=runtime())
    async with chain.stream(ASK) as reply:
        await reply.full()
    rows = await ledger_of(chain).spends()
    assert [row.status for row in rows] == ["error", "ok"]
    assert await balance(chain, config) == (sum(row.nano for row in rows), 0)


async def test_embeddings_and_rankings_are_paid_from_the_same_budget():
    config = room_for(10)
    chain = Chain(mock(default="x"), config, runtime=runtime())
    for ask in (chain.embed(["one", "two"]), chain.rerank("what?", ["one", "two"])):
        before = await balance(chain, config)
        await ask
        used, held = await balance(chain, config)
        assert used > before[0]
        assert held == 0


async def test_embeddings_sent_as_one_are_charged_to_each_account_as_its_part():
    provider = Counting(mock(default="x"))
    config = budget(Rule(usd=1, period="day", per="account"))
    chain = Chain(provider, config, Batch(window=0.5), runtime=runtime())
    await asyncio.gather(*[chain.embed([f"text {n}"] * 3, tenant="one") for n in range(4)])
    assert provider.count == 1
    rows = await ledger_of(chain).spends()
    assert len(rows) == 4
    assert await balance(chain, config, account="one") == (sum(row.nano for row in rows), 0)
    assert await ledger_of(chain).holds() == []


LAYERS: dict[str, Any] = {
    "plain": lambda: (),
    "retries": lambda: (Retry(attempts=3, base=0.01),),
    "fallback": lambda: (Fallback(mock(default=[Wait(0.3), "spare ", "answer"], name="spare")),),
    "hedge": lambda: (Hedge(delay=0.2, max_share=1.0), Retry(attempts=2, base=0.01)),
    "coalesced": lambda: (Coalesce(when="always"), Retry(attempts=2, base=0.01)),
    "continued": lambda: (Continue(), Retry(attempts=2, base=0.01)),
    "with cost": lambda: (Cost(prices=PRICES), Retry(attempts=2, base=0.01)),
}
PLANS: tuple[Any, ...] = (
    [Wait(0.1), "a ", Wait(0.5), "b ", "c"],
    ["a ", Wait(0.2), StreamBroken("cut")],
    Overloaded("busy"),
    ServiceUnavailable("HTTP 500"),
    [Wait(3.0), "late"],
)


@pytest.mark.parametrize("store", ["memory://", "shaky://"])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("seed", [1, 2])
async def test_whoever_leaves_and_whatever_fails_no_hold_stays_open(layers: str, seed: int, store: str):
    """Callers who read, break off, close, and are cancelled at any moment; the sum is what was journaled."""
    random = Random(seed)
    provider = mock(default=lambda request: random.choice(PLANS))
    config = room_for(60, store=store)
    chain = Chain(provider, config, *LAYERS[layers](), runtime=runtime())
    ledger: Any = shaky(chain.runtime, pause=0.005) if store == "shaky://" else ledger_of(chain)
    broken: list[BaseException] = []

    async def one(number: int) -> None:
        way = random.choice(("whole", "full", "one", "none", "close"))
        try:
            if way == "full":
                await chain.complete(ASK, user=f"user {number % 5}")
                return
            async with chain.stream(ASK) as reply:
                if way == "whole":
                    await reply.full()
                elif way == "close":
                    await reply.aclose()
                elif way == "one":
                    async for _ in reply:
                        break
        except LLMError:
            pass
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            broken.append(error)
            raise

    tasks = [asyncio.create_task(one(number)) for number in range(150)]
    for task in tasks:
        if random.random() < 0.5:
            asyncio.get_running_loop().call_later(random.random() * 1.5, task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(5.0)
    assert broken == []
    assert await ledger.holds() == []
    used, held = await balance(chain, config)
    assert held == 0
    rows = await ledger.spends(limit=10_000)
    assert used == sum(row.nano for row in rows) > 0
    assert not [row for row in rows if row.status == "open"]
    assert used <= config.rules[0].nano
    assert config.desk(chain.runtime)._held == {}


async def test_a_call_cancelled_at_every_single_step_leaves_nothing():
    steps = 0
    while True:
        provider = mock(default=[Wait(1.0), "a ", Wait(1.0), "b"])
        config = room_for(2, store="shaky://")
        chain = Chain(provider, config, Retry(attempts=2, base=0.01), runtime=runtime())
        ledger = shaky(chain.runtime, pause=0.5)
        task = asyncio.create_task(chain.complete(ASK))
        for _ in range(steps):
            await asyncio.sleep(0.1)
        done = task.done()
        task.cancel()
        await asyncio.wait((task,))
        await asyncio.sleep(3.0)
        assert await ledger.holds() == []
        assert (await balance(chain, config))[1] == 0
        if done:
            break
        steps += 1
    assert steps > 20


@pytest.mark.parametrize("store", ["memory://", "shaky://"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_others_refuse_behind_the_budget_is_no_room_lost_for_the_next_target(
    stream: bool, store: str
):
    """The call holds the worst case of one attempt, for one is made."""
    full = Limits(limits=Limit(per="provider", requests_per_day=1, burst=1))
    first = Chain(mock(default="first", name="a"), full, runtime=runtime())
    await first.complete(ASK)
    spare = Counting(mock(default="fine", name="b"))
    config = budget(Rule(usd=f"{1.5 * worst() / 1e9:.9f}", period="day"), store=store)
    chain = Chain(Router(first, spare, strategy="priority", layers=()), config, runtime=first.runtime)
    shaky(chain.runtime, pause=0.01)
    if stream:
        async with chain.stream(ASK) as reply:
            await reply.full()
    else:
        await chain.complete(ASK)
    assert spare.count == 1
    rows = await config.desk(chain.runtime).ledger.spends()
    assert [row.provider for row in rows] == ["b"]
    assert await balance(chain, config) == (rows[0].nano, 0)


async def test_an_attempt_that_others_are_still_asked_about_keeps_its_room():
    """Beside it a hedge asks: that one was refused nothing, and may be made."""

    class Slow:
        name, priority = "slow", 999

        async def __call__(self, call: Call, call_next: Any) -> Any:
            return await call_next(call.evolve(guards=(*call.guards, self.guard)))

        async def guard(self, call: Call) -> Call:
            await asyncio.sleep(1.0)
            return call

    members = [Counting(mock(default=[Wait(5.0), "same"], name=name)) for name in "ab"]
    config = budget(Rule(usd=f"{1.5 * worst() / 1e9:.9f}", period="day"))
    slow: Any = Slow()
    ensemble = Ensemble(*[Chain(one, slow) for one in members], combine="vote", quorum=1)
    chain = Chain(ensemble, config, runtime=runtime())
    await chain.complete(ASK)
    assert sum(one.count for one in members) == 1
