"""Processes whose clocks on the wall differ, by minutes or by years, agree about limits (RL5, F72)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.fleet.conftest import Make
from tests.fleet.jobs import CLOCK_LEASE
from tests.fleet.pool import Pool

pytestmark = pytest.mark.real_time

YEAR = 365 * 86_400.0


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
async def test_processes_five_minutes_and_years_apart_agree(
    pools: list[Pool], make_stores: Make, kind: str
) -> None:
    stores = make_stores(kind)

    def told(number: int, skew: float, ahead: float) -> dict[str, Any]:
        """What a process that believes it is `skew` seconds later says, when the store is `ahead`."""
        said = pools[number % 2].run(
            "clock", stores=[stores.main, stores.audit], skew=skew, ahead=ahead, ticket=f"{ahead} {skew}"
        )
        found: dict[str, Any] = json.loads(said[-1])
        return found

    def turn(ahead: float, skews: tuple[float, ...]) -> list[dict[str, Any]]:
        return [told(number, skew, ahead) for number, skew in enumerate(skews)]

    first = await asyncio.to_thread(turn, 0.0, (-300.0, 300.0, YEAR))
    later = await asyncio.to_thread(turn, CLOCK_LEASE + 5.0, (300.0, -300.0, -YEAR))
    for said in (first, later):
        # One holds the slot, and those after it are refused, whatever they believe the time to be.
        assert [one["refused"] for one in said] == [None, 1, 1]
    # Of 100 units a day one was taken at each turn, and none flows back in the blink of an eye.
    assert [one["left"] for one in first] == pytest.approx([99.0] * 3, abs=0.1)
    assert [one["left"] for one in later] == pytest.approx([98.0] * 3, abs=0.2)
