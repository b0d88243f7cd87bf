"""Periods of a calendar, against a reading of the clock hour by hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmpipe.errors import BudgetExceeded
from llmpipe.middleware.budget import Rule
from llmpipe.middleware.budget.periods import PERIODS, period_at
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import Wait
from llmpipe.runtime import Runtime
from tests.middleware.budget.bank import budget, ledger_of, mock

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",  # half an hour
    "Asia/Kathmandu",  # three quarters
    "Australia/Lord_Howe",  # clocks change by half an hour
    "America/Sao_Paulo",  # had days without a midnight, until 2018
    "America/Havana",  # has midnights that come twice
    "Pacific/Apia",  # left out 30 December 2011
    "Africa/Casablanca",
    "Antarctica/Troll",  # two hours
)
MOMENTS = st.integers(1_104_537_600, 1_924_992_000)  # 2005 to 2030


def naive(at: float, period: str, zone: ZoneInfo) -> tuple:
    """What names the period on the clock: two moments are of one period if and only if these are equal."""
    local = datetime.fromtimestamp(at, zone)
    if period == "day":
        return (local.year, local.month, local.day)
    if period == "week":
        return tuple(local.isocalendar())[:2]
    if period == "month":
        return (local.year, local.month)
    return ()


@given(MOMENTS, st.sampled_from(ZONES), st.sampled_from(["day", "week", "month"]))
@example(1_541_300_400, "America/Sao_Paulo", "day")  # the moment that the clock goes from 0:00 to 1:00
@example(1_541_300_399, "America/Sao_Paulo", "day")
@example(1_325_239_200, "Pacific/Apia", "day")
@example(1_325_239_199, "Pacific/Apia", "day")
@example(1_709_208_000, "UTC", "month")  # 29 February
@example(1_792_890_000, "Europe/Berlin", "day")
@example(1_604_206_800, "America/Havana", "day")
@settings(max_examples=600)
def test_a_period_is_what_the_clock_shows(at: int, name: str, period):
    zone = ZoneInfo(name)
    found = period_at(at, period, zone)
    assert found.end is not None
    assert found.start <= at < found.end
    right = naive(at, period, zone)
    assert naive(found.start, period, zone) == right
    assert naive(found.start - 1, period, zone) != right
    assert naive(found.end - 1, period, zone) == right
    assert naive(found.end, period, zone) != right
    assert period_at(found.start, period, zone) == period_at(found.end - 1, period, zone) == found
    assert period_at(found.end, period, zone).start == found.end


@given(MOMENTS, st.sampled_from(ZONES))
@settings(max_examples=300)
def test_an_hour_is_one_of_real_time_and_begins_when_the_clock_shows_a_full_one(at: int, name: str):
    found = period_at(at, "hour", ZoneInfo(name))
    assert found.end == found.start + 3600
    assert found.start <= at < found.end
    offset = datetime.fromtimestamp(at, ZoneInfo(name)).utcoffset() or timedelta()
    assert (found.start + offset.total_seconds()) % 3600 == 0


@given(MOMENTS, MOMENTS, st.sampled_from(ZONES), st.sampled_from(PERIODS))
def test_who_comes_later_is_never_of_an_earlier_period(one: int, other: int, name: str, period):
    if period == "hour" and name == "Australia/Lord_Howe":
        return  # its hours overlap once a year, where the clock goes back by half of one
    first, second = sorted((one, other))
    assert period_at(first, period, ZoneInfo(name)).start <= period_at(second, period, ZoneInfo(name)).start


def test_a_day_on_which_clocks_change_has_23_or_25_hours():
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-01", 24)):
        noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()
        found = period_at(noon, "day", ZoneInfo("Europe/Berlin"))
        assert found.end is not None
        assert found.end - found.start == hours * 3600


@pytest.mark.parametrize(
    ("period", "boundary"),
    [
        ("day", "2026-10-02T00:00:00"),
        ("month", "2026-11-01T00:00:00"),
        ("month", "2028-03-01T00:00:00"),  # after 29 February
        ("week", "2026-10-05T00:00:00"),
        ("hour", "2026-10-01T13:00:00"),
    ],
)
async def test_a_call_under_way_is_charged_to_the_period_in_which_it_was_held(period, boundary: str):
    edge = datetime.fromisoformat(boundary).replace(tzinfo=UTC).timestamp()
    now = edge - 1.0
    config = budget(Rule(usd=1, period=period))
    chain = Chain(mock(default=[Wait(5.0), "fine"]), config, runtime=Runtime(seed=1, wall=lambda: now))
    stream = chain.stream("hi", max_tokens=5)
    async with stream as reply:
        before = config.rules[0].period_at(now)
        now = edge + 1.0
        await reply.full()
    ledger = ledger_of(chain)
    after = config.rules[0].period_at(now)
    assert before.end == after.start == edge
    account = config.rules[0].account({})
    old, new = await ledger.balances([(account, before.start), (account, after.start)])
    assert old.spent > 0
    assert (old.held, new.spent, new.held) == (0, 0, 0)


async def test_a_clock_that_jumps_refunds_nothing_and_frees_nothing():
    now = 1_790_856_000.0
    chain = Chain(
        mock(default="fine"),
        config := budget(Rule(usd="0.0003", period="day")),
        runtime=Runtime(seed=1, wall=lambda: now),
    )
    start = now
    ends = []
    for jump in (0.0, -3600.0, 3600.0, 365 * 86_400.0, 0.0, -365 * 86_400.0, 0.0, 0.0):
        now = start + jump
        try:
            await chain.complete("hi", max_tokens=20)
            ends.append("ok")
        except BudgetExceeded:
            ends.append("refused")
    # One call fits into a day, and each day is its own; coming back to one finds what it had spent.
    assert ends == ["ok", "refused", "refused", "ok", "refused", "ok", "refused", "refused"]
    now = start
    assert (await config.status(chain.runtime))[0].spent > 0
