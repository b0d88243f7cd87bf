"""Where a budget is going, against worlds of which that is known."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.budget.forecast import forecast
from llmpipe.middleware.budget.periods import Period, period_at
from llmpipe.pipeline.chain import Chain
from llmpipe.runtime import Runtime
from llmpipe.state import Spend
from llmpipe.types import Completion, Message, Usage
from tests.middleware.budget.bank import NOON, budget, mock, runtime

DAY, USD = 86_400.0, 10**9
# A Monday, and the first of a month.
MONDAY = datetime(2026, 6, 1, tzinfo=UTC).timestamp()


def spend(at: float, nano: int = USD) -> Spend:
    return Spend(id=str(at), at=at, nano=nano)


def office(first: float, days: int) -> list[Spend]:
    """A dollar in each hour from 8 to 18 on working days."""
    return [
        spend(first + day * DAY + hour * 3600 + 1)
        for day in range(days)
        if day % 7 < 5
        for hour in range(8, 18)
    ]


MONTH = period_at(MONDAY, "month", UTC)


def test_without_a_history_it_goes_on_as_it_went():
    found = forecast(spent=10 * USD, limit=100 * USD, period=MONTH, now=MONDAY + 3 * DAY, zone=UTC)
    assert (found.basis, found.projected, found.exhausted_at) == ("run rate", 100 * USD, None)
    assert found.per_hour == round(10 * USD / 72)
    assert found.share == 1.0
    tight = forecast(spent=10 * USD, limit=50 * USD, period=MONTH, now=MONDAY + 3 * DAY, zone=UTC)
    assert tight.exhausted_at == pytest.approx(MONDAY + 15 * DAY)


def test_weekends_count_as_weekends_did():
    """Half of June 2026 is over: eleven working days, and eleven are to come."""
    history = office(MONDAY - 28 * DAY, 28)
    now = MONDAY + 15 * DAY  # Tuesday, 0:00
    found = forecast(spent=110 * USD, limit=1000 * USD, period=MONTH, now=now, zone=UTC, history=history)
    assert found.basis == "profile"
    assert found.projected == pytest.approx(220 * USD, rel=0.03)
    rate = forecast(spent=110 * USD, limit=1000 * USD, period=MONTH, now=now, zone=UTC)
    assert rate.projected == pytest.approx(220 * USD, rel=0.01)
    saturday = forecast(
        spent=50 * USD, limit=1000 * USD, period=MONTH, now=MONDAY + 5 * DAY, zone=UTC, history=history
    )
    assert saturday.projected == pytest.approx(220 * USD, rel=0.05)  # the run rate would say 300


def test_a_month_twice_as_busy_as_those_before_stays_so():
    history = office(MONDAY - 28 * DAY, 28)
    found = forecast(
        spent=220 * USD, limit=400 * USD, period=MONTH, now=MONDAY + 15 * DAY, zone=UTC, history=history
    )
    assert found.projected == pytest.approx(440 * USD, rel=0.06)
    assert found.exhausted_at is not None
    when = datetime.fromtimestamp(found.exhausted_at, UTC)
    assert 26 <= when.day <= 29  # nine working days of twenty dollars from the sixteenth on
    assert 8 <= when.hour <= 18
    assert when.weekday() < 5


def test_the_first_hour_of_a_month_is_no_reason_for_alarm():
    history = office(MONDAY - 28 * DAY, 28)
    found = forecast(
        spent=2 * USD, limit=400 * USD, period=MONTH, now=MONDAY + 3600, zone=UTC, history=history
    )
    assert found.projected is not None
    assert found.projected < 400 * USD
    blind = forecast(spent=2 * USD, limit=400 * USD, period=MONTH, now=MONDAY + 3600, zone=UTC)
    assert blind.projected == 1440 * USD


def test_a_budget_that_is_used_up_is_so_now_and_one_without_end_has_no_end():
    full = forecast(spent=5, limit=5, period=MONTH, now=MONDAY + 9, zone=UTC)
    assert full.exhausted_at == MONDAY + 9
    history = [spend(MONDAY - day * DAY) for day in range(1, 29)]
    total = forecast(
        spent=28 * USD, limit=56 * USD, period=Period(0, None), now=MONDAY, zone=UTC, history=history
    )
    assert (total.projected, total.basis, total.share) == (None, "run rate", None)
    assert total.exhausted_at == pytest.approx(MONDAY + 28 * DAY)


@given(
    st.lists(st.tuples(st.floats(0, 28 * DAY), st.integers(0, USD)), max_size=30),
    st.floats(1, 29.9 * DAY),
    st.integers(0, 100 * USD),
    st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York"]),
)
def test_whatever_the_history_a_forecast_is_never_less_than_what_is_spent(
    history: list[tuple[float, int]], elapsed: float, spent: int, name: str
):
    rows = [spend(MONDAY - before, nano) for before, nano in history]
    now = MONTH.start + elapsed
    found = forecast(spent=spent, limit=50 * USD, period=MONTH, now=now, zone=ZoneInfo(name), history=rows)
    assert found.projected is not None
    assert found.projected >= spent - 1
    if found.exhausted_at is None:
        assert found.projected <= 50 * USD + 1
    else:
        assert now <= found.exhausted_at < (MONTH.end or 0)
        assert found.projected >= 50 * USD - 1


async def test_each_budget_is_forecast_from_its_own_part_of_the_journal():
    config = budget(Rule(usd=1, per="account", period="day"), Rule(usd=1, period="total", name="all"))
    chain = Chain(mock(default="fine"), config, runtime=runtime())
    for tenant in ("a", "a", "b"):
        await chain.complete("hi", max_tokens=20, tenant=tenant)
    found = await config.forecast(chain.runtime, account="a")
    spent = {one.rule: one.spent for one in await config.status(chain.runtime, account="a")}
    assert {name: one.spent for name, one in found.items()} == spent
    assert spent["all"] * 2 == spent["day:account"] * 3
    assert found["day:account"].projected == 2 * spent["day:account"]  # it is noon


@pytest.mark.parametrize("scope", [{"per": "model"}, {"when": {"model": "gpt-x"}}])
async def test_a_budget_by_model_is_forecast_from_the_dated_names_that_the_model_answers_by(scope: Any):
    rule = Rule(usd=1, period="total", name="it", **scope)
    answer = Completion(model="gpt-x-2026-08-06", message=Message("assistant", "fine"), usage=Usage(100, 50))
    prices = {"gpt-x": {"input": 2, "output": 10}}
    config = Budget(rules=rule, prices=prices)
    moments = [NOON]
    at = Runtime(seed=1, wall=lambda: moments[-1])
    chain = Chain(mock(default=answer, model="gpt-x"), config, runtime=at)
    await chain.complete("hi", max_tokens=60)
    moments.append(NOON + 3600)
    found = await config.forecast(chain.runtime, model="gpt-x")
    assert found["it"].spent == 700_000
    assert found["it"].per_hour == 700_000
    assert found["it"].exhausted_at is not None
