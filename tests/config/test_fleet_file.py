"""The chain file for a fleet: it stands on shared stores, and its thresholds fire where they say."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from llmpipe.config import load
from llmpipe.config.load import read_file
from llmpipe.errors import LLMError, Overloaded
from llmpipe.middleware.alerts import Alert, Alerts
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.metrics.resources import Sample
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import Line, MockProvider, Wait
from llmpipe.runtime import Runtime

pytest.importorskip("psutil")

FILE = Path(__file__).parents[2] / "examples/chains/fleet.toml"
ENVIRON = {"OPENAI_API_KEY": "sk-test"}

chain_from: Any = load.chain_from


@pytest.fixture
def told() -> list[Alert]:
    return []


def alerts_of(told: list[Alert], **settings: Any) -> Alerts:
    """The rules of the file, with another sink."""
    (found,) = [one for one in chain_from(read_file(FILE, ENVIRON)).middleware if one.name == "alerts"]
    assert isinstance(found, Alerts)
    return evolve(found, sinks=(told.append,), **settings)


def seen(told: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.rule, alert.state) for alert in told]


async def ask(chain: Chain, calls: int) -> None:
    for _ in range(calls):
        try:
            await chain.complete("Say hello")
        except LLMError:
            continue


def test_every_store_of_the_file_is_one_that_instances_share():
    stores = {one["use"]: one["store"] for one in read_file(FILE, ENVIRON)["middleware"] if "store" in one}
    assert stores.keys() >= {"audit", "budget", "cache", "breaker"}
    assert all(url.startswith(("redis://", "postgresql://")) for url in stores.values())
    money = {"STATE_MONEY": "postgresql://db.example/other", **ENVIRON}
    changed = {one["use"]: one.get("store") for one in read_file(FILE, money)["middleware"]}
    assert changed["audit"] == changed["budget"] == "postgresql://db.example/other"


@pytest.mark.parametrize(("failing", "fires"), [(5, False), (6, True)])
async def test_more_than_five_errors_in_a_hundred_are_told_of(told: list[Alert], failing: int, fires: bool):
    numbers = count()

    def answer(_: Any) -> Line:
        # The good ones first: it is the share of all that is judged, and not how it was on the way there.
        return Overloaded("no capacity") if next(numbers) >= 100 - failing else "Hello!"

    async with Chain(MockProvider(default=answer), alerts_of(told)) as chain:
        await ask(chain, 100)
    assert (("error_rate", "firing") in seen(told)) == fires


@pytest.mark.parametrize(("seconds", "fires"), [(4.9, False), (5.1, True)])
async def test_answers_that_take_over_five_seconds_are_told_of(
    told: list[Alert], seconds: float, fires: bool
):
    async with Chain(MockProvider(default=[Wait(seconds), "Hello!"]), alerts_of(told)) as chain:
        await ask(chain, 30)
    assert (("latency", "firing") in seen(told)) == fires


def samples(first: Sample, then: Sample, sleeps: int) -> Iterator[Sample]:
    for _ in range(sleeps):
        yield first
    while True:
        yield then


@pytest.mark.parametrize(("rule", "high"), [("cpu", Sample(cpu=0.81)), ("memory", Sample(memory=0.86))])
async def test_a_machine_that_runs_full_is_told_of_and_that_it_is_well_again(
    told: list[Alert], rule: str, high: Sample
):
    machine = samples(high, Sample(cpu=0.79, memory=0.84), 60)
    alerts = alerts_of(told, sampler=lambda: next(machine))
    async with Chain(MockProvider(default="Hello!"), alerts) as chain:
        for _ in range(120):
            await ask(chain, 1)
            await asyncio.sleep(15.0)
    (first, *again, last) = seen(told)
    assert (first, last) == ((rule, "firing"), (rule, "resolved"))
    assert len(again) <= 3  # it is told again every 300 s while it lasts
    assert set(again) <= {first}


async def test_each_budget_is_told_of_for_itself(told: list[Alert]):
    """By the words that the note of `Budget` has: one alert for each account, and each share."""
    prices = {"mock/mock-1": {"input": 1.0, "output": 1000.0}}
    budget = Budget(rules=Rule(usd=1, per="account", period="day", alert_at=(0.1, 0.2)), prices=prices)
    runtime = Runtime()
    async with Chain(MockProvider(default="x " * 120), budget, alerts_of(told), runtime=runtime) as chain:
        for account in ("acme", "globex"):
            for _ in range(4):  # of 0.05 USD each
                await chain.complete("Say hello", tenant=account, max_tokens=200)
    budgets = [alert for alert in told if alert.rule == "budget"]
    assert len({alert.key for alert in budgets}) == len(budgets) == 4
    assert {alert.severity for alert in budgets} == {"warning"}
