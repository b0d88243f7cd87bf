"""Who pays for a request that several calls share: once, and whom the budget is of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmpipe.errors import BudgetExceeded, ConnectFailed, ServiceUnavailable
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.cost import Cost
from llmpipe.pipeline.bands import SPEND
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.types import Usage

PRICES: dict[str, Any] = {"*": {"input": 1, "output": 10}}
PRICE = 20 * 1000 + 30 * 10_000  # nano-USD of an answer
USERS = ("ada", "bob", "cy")


class Bench:
    """A chain that shares requests, with a budget and a book further in, or as told."""

    def __init__(self, *script: Any, limit: float = 1.0, rules: Any = None, **coalesce: Any) -> None:
        rules = rules or Rule(usd=limit, period="day", per="user")
        self.provider = MockProvider(script, default=[Wait(1), "hello"], usage=Usage(20, 30))
        self.budget = Budget(rules=rules, prices=PRICES)
        self.chain: Any = Chain(self.provider, Coalesce(**coalesce), self.budget, Cost(prices=PRICES))

    async def ask(self, user: str, mode: str = "full") -> str:
        if mode == "full":
            return (await self.chain.complete("hi", temperature=0, user=user, max_tokens=50)).text
        async with self.chain.stream("hi", temperature=0, user=user, max_tokens=50) as reply:
            return "".join([text async for text in reply.texts()])

    async def spent(self) -> dict[str, int]:
        found = {}
        for user in USERS:
            [status] = await self.budget.status(self.chain.runtime, user=user)
            assert status.held == 0
            if status.spent:
                found[user] = status.spent
        return found

    @property
    def booked(self) -> int:
        return Cost.totals(self.chain.runtime).all.nano


@pytest.mark.parametrize("mode", ["full", "stream"])
async def test_the_one_who_asks_first_pays_and_those_who_join_do_not(mode: str):
    bench = Bench()
    assert await asyncio.gather(*[bench.ask(user, mode) for user in USERS]) == ["hello"] * 3
    assert len(bench.provider.requests) == 1
    assert await bench.spent() == {"ada": PRICE}
    assert bench.booked == PRICE


@pytest.mark.parametrize("mode", ["full", "stream"])
async def test_the_one_who_asked_first_pays_for_those_who_stay_when_it_leaves(mode: str):
    bench = Bench()
    tasks = [asyncio.create_task(bench.ask(user, mode)) for user in USERS]
    await asyncio.sleep(0.5)
    tasks[0].cancel()
    assert (await asyncio.gather(*tasks, return_exceptions=True))[1:] == ["hello"] * 2
    assert await bench.spent() == {"ada": PRICE}
    assert bench.booked == PRICE


async def test_when_all_leave_the_one_who_asked_first_pays_for_what_came_of_it():
    bench = Bench(["hel", Wait(10), "lo"])
    tasks = [asyncio.create_task(bench.ask(user, "stream")) for user in USERS]
    await asyncio.sleep(0.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    [(user, nano)] = (await bench.spent()).items()
    assert user == "ada"
    assert 0 < nano == bench.booked < PRICE


@pytest.mark.parametrize(("billed", "paid"), [("no", False), ("unknown", True)])
async def test_a_request_that_fails_is_paid_by_the_first_if_it_may_have_been_billed(billed: Any, paid: bool):
    bench = Bench([Wait(1), ServiceUnavailable("no", sent=True, billed=billed)])
    found = await asyncio.gather(*[bench.ask(user) for user in USERS], return_exceptions=True)
    assert [type(one) for one in found] == [ServiceUnavailable] * 3
    spent = await bench.spent()
    assert [*spent] == (["ada"] if paid else [])
    assert sum(spent.values()) == bench.booked


@pytest.mark.parametrize("mode", ["full", "stream"])
async def test_a_budget_that_refuses_the_first_refuses_none_of_another_account(mode: str):
    bench = Bench(rules=[Rule(usd="0.000001", period="day", per="user", when={"user": "ada"})])
    found = await asyncio.gather(*[bench.ask(user, mode) for user in USERS], return_exceptions=True)
    assert [type(one) for one in found] == [BudgetExceeded, str, str]
    assert len(bench.provider.requests) == 1
    assert bench.booked == PRICE


async def test_a_budget_that_refuses_each_tells_each_of_its_own():
    bench = Bench(limit=0.000001)
    users = [f"u{number}" for number in range(7)]
    found: Any = await asyncio.gather(*[bench.ask(user) for user in users], return_exceptions=True)
    for user, error in zip(users, found, strict=True):
        assert isinstance(error, BudgetExceeded)
        assert f"user={user}" in error.metadata["scope"]
    assert bench.provider.requests == []


async def test_those_of_one_account_are_refused_together():
    bench = Bench(limit=0.000001)
    asked: list[str] = []

    @layer(priority=SPEND + 1)
    async def looking(call, call_next):
        asked.append(call.user)
        return await call_next(call)

    bench.chain.use(looking)
    found = await asyncio.gather(*[bench.ask("ada") for _ in range(5)], return_exceptions=True)
    assert [type(one) for one in found] == [BudgetExceeded] * 5
    assert asked == ["ada"]


async def test_a_failure_of_the_provider_before_anything_was_sent_is_shared():
    bench = Bench(ConnectFailed("no route"))
    found = await asyncio.gather(*[bench.ask(user) for user in USERS], return_exceptions=True)
    assert [type(one) for one in found] == [ConnectFailed] * 3
    assert len(bench.provider.requests) == 1


# -- the other way round

INSIDE = {"priority": SPEND + 50}


@pytest.mark.parametrize("mode", ["full", "stream"])
async def test_inside_the_budget_it_is_paid_once_by_the_first_while_that_stays(mode: str):
    bench = Bench(**INSIDE)
    await asyncio.gather(*[bench.ask(user, mode) for user in USERS])
    assert await bench.spent() == {"ada": PRICE}
    assert bench.booked == PRICE


def test_inside_the_budget_it_is_warned_of():
    [found] = [one for one in Bench(**INSIDE).chain.lint() if one.code == "ration-outside-coalesce"]
    assert found.level == "warning"
    assert found.layers == ("budget", "coalesce")
    assert "after the call that sent it has left is paid by nobody" in found.message
    assert "ration-outside-coalesce" not in {one.code for one in Bench().chain.lint()}
