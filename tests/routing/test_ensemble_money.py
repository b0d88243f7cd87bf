"""What an ensemble costs at every moment of a stream, by a `Cost` further out: each attempt once."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe.errors import StreamBroken
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.cost import Cost
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.outcome import Outcome
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.routing.ensemble import Ensemble
from llmpipe.types import Usage

PRICES = {name: {"input": price, "output": 0} for name, price in (("a-1", 1), ("b-1", 10), ("j-1", 100))}
MEMBERS = 10 * 1_000 + 10 * 10_000  # nano-USD: ten tokens each


def member(name: str, script: Any, *, priced: bool) -> Any:
    provider = MockProvider([script], name=name, model=f"{name}-1", usage=Usage(10, 1))
    return Chain(provider, Cost(prices=PRICES)) if priced else provider


class Watch:
    """Keeps what a middleware further out is told at the end."""

    name, priority = "watch", 100

    def __init__(self) -> None:
        self.seen: list[Outcome] = []

    async def __call__(self, call: Any, call_next: Any) -> Any:
        outcome = yield await call_next(call)
        self.seen.append(outcome)


def ensemble(script: Any, *, priced: bool, nested: bool = False) -> tuple[Any, Watch]:
    judge = member("j", script, priced=priced)
    if nested:
        inner = [member(name, "z", priced=priced) for name in "ab"]
        judge = Ensemble(*inner, judge=judge, name="inner")
    core = Ensemble(*[member(name, "x", priced=priced) for name in "ab"], judge=judge)
    watch = Watch()
    return Chain(core, Cost(prices=PRICES), watch), watch


def live(attempts: Any, told: bool) -> int:
    """Nano-USD of the judge: its own tokens, told, or else those of what it was sent."""
    [judge] = [attempt for attempt in attempts if attempt.provider == "j"]
    tokens = (
        10 if told else Chain(MockProvider()).new_call(judge.request).ledger.estimated_tokens(judge.request)
    )
    return tokens * 100_000


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("priced", [False, True])
async def test_a_synthesis_under_way_costs_what_its_attempts_cost(priced: bool, nested: bool):
    it, watch = ensemble(["one ", "two ", "three"], priced=priced, nested=nested)
    members = MEMBERS * (2 if nested else 1)
    stream = it.stream("hi")
    async with stream as reply:
        attempts = stream.call.ledger.attempts
        seen = set()
        async for event in reply:
            kind = type(event).__name__
            seen.add(kind)
            charge = reply.completion.charge
            assert charge.total_nano == members + live(attempts, kind == "UsageUpdate"), kind
            assert charge.estimated is (kind != "UsageUpdate")
    assert seen >= {"Start", "TextDelta", "UsageUpdate"}
    whole = members + 10 * 100_000
    assert reply.completion.charge.total_nano == watch.seen[0].completion.charge.total_nano == whole
    assert Cost.totals(it.runtime).all.nano == whole
    assert Cost.totals(it.runtime).all.attempts == (5 if nested else 3)


@pytest.mark.parametrize("priced", [False, True])
async def test_what_is_left_of_a_synthesis_that_broke_costs_the_same_as_its_attempts(priced: bool):
    it, watch = ensemble(["one ", Wait(1), StreamBroken("cut")], priced=priced)
    stream = it.stream("hi")
    with pytest.raises(StreamBroken) as caught:
        async with stream as reply:
            async for _ in reply:
                pass
    partial: Any = caught.value.partial
    nano = MEMBERS + live(stream.call.ledger.attempts, told=False)
    assert partial.charge.total_nano == watch.seen[0].completion.charge.total_nano == nano
    assert Cost.totals(it.runtime).all.nano == nano


@pytest.mark.parametrize("stream", [False, True])
async def test_a_budget_round_it_pays_for_all_once(stream: bool):
    budget = Budget(rules=Rule(usd=1, period="day"), prices=PRICES)
    members = [member(name, "x", priced=False) for name in "ab"]
    it: Any = Chain(Ensemble(*members, judge=member("j", "z", priced=False)), budget, Cost(prices=PRICES))
    if stream:
        async with it.stream("hi", max_tokens=5) as reply:
            await reply.full()
    else:
        await it.complete("hi", max_tokens=5)
    [status] = await budget.status(it.runtime)
    assert (status.spent, status.held) == (MEMBERS + 10 * 100_000, 0)
    assert Cost.totals(it.runtime).all.nano == status.spent
