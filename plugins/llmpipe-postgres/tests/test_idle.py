"""Limits leave no rows behind that nobody needs, however they are used (RL7)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from llmpipe.state import Ask
from llmpipe_postgres.limits import PostgresLimits

pytestmark = pytest.mark.real_time


def brief(key: str) -> Ask:
    """Of a bucket that is full again after a microsecond."""
    return Ask(key, 1.0, 1.0, 1e-6, 1.0)


async def rows(harness: Any) -> int:
    tables = [f"SELECT 1 FROM {harness.schema}.{table}" for table in ("buckets", "slots", "tickets")]
    ((count,),) = await harness.sql(f"SELECT count(*) FROM ({' UNION ALL '.join(tables)}) AS w")
    return int(count)


async def test_calls_that_ask_for_many_keys_each_leave_few_rows(harness: Any) -> None:
    limits = (await harness.open()).limits("n")
    most = 0
    for number in range(120):
        asks = [brief(f"{number}.{each}") for each in range(40)]
        assert (await limits.take(f"t{number}", asks, 0.0)).refused is None
        if number % 20 == 0:
            most = max(most, await rows(harness))
    assert most < 256 + 2 * 41  # of 4,900


async def test_processes_that_ask_only_a_few_times_sweep_for_one_another(
    harness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmpipe_postgres.limits.randrange", Random(1).randrange)
    state = await harness.open()
    for number in range(100):
        limits = PostgresLimits(state._link, state._ahead, "n")  # as another process makes it
        for turn in range(2):
            asks = [brief(f"{number}.{turn}.{each}") for each in range(16)]
            assert (await limits.take(f"{number}.{turn}", asks, 0.0)).refused is None
    assert await rows(harness) < 30 * 34  # one in eight sweeps


@pytest.mark.parametrize("how", ["slots", "refused"])
async def test_what_was_given_back_or_refused_is_swept_too(harness: Any, how: str) -> None:
    limits = (await harness.open()).limits("n")
    for number in range(300):
        asked = [Ask(f"s{number}", 1.0, 1.0), Ask("none", 1.0, 0.5)][: 1 if how == "slots" else 2]
        taken = await limits.take(f"t{number}", asked, 600.0)
        assert (taken.refused is None) is (how == "slots")
        await limits.settle(f"t{number}", {})
    assert await rows(harness) < 256 + 4
