"""A limiter's keys have an expiry, always: also where somebody took it from them (F94)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmpipe.state import Ask
from llmpipe_redis import RedisState

pytestmark = pytest.mark.real_time

ASKS = [Ask("rate", 1.0, 10.0, 600.0, 10.0), Ask("slot", 1.0, 10.0)]


async def lives(state: RedisState) -> dict[str, int]:
    """Of each key of the limits, without what all begin with: milliseconds until it goes, or -1."""
    base = state.settings.base("limits", "n").encode()
    keys = await state.link().ask((b"KEYS", b"\\" + base + b"*"))
    return {key.removeprefix(base).decode(): await state.link().ask((b"PTTL", key)) for key in keys}


async def persist(state: RedisState) -> None:
    """Take the expiry from all of them, as a script of somebody's or a wrong restore does."""
    base = state.settings.base("limits", "n").encode()
    for key in await lives(state):
        assert await state.link().ask((b"PERSIST", base + key.encode())) == 1


async def test_keys_whose_expiry_somebody_took_have_one_again_when_they_are_used(harness: Any) -> None:
    state = await harness.open()
    limits = state.limits("n")
    assert (await limits.take("t", ASKS, 600.0)).refused is None
    await limits.reset(["rate"])
    assert (await limits.take("u", ASKS, 600.0)).refused is None
    await persist(state)
    assert set((await lives(state)).values()) == {-1}
    for ticket in ("t", "u", "new"):
        assert (await limits.take(ticket, ASKS, 600.0)).refused is None
    await limits.reset(["rate"])
    assert (await limits.take("v", ASKS, 600.0)).refused is None
    found = await lives(state)
    assert {"rate:rate", "slots", "leases", "reset:rate", "ticket:t", "ticket:u"} <= found.keys()
    assert min(found.values()) > 0


async def test_a_bucket_without_expiry_whose_time_is_over_is_full_and_goes_when_it_is_used(
    harness: Any,
) -> None:
    state = await harness.open()
    limits = state.limits("n")
    rate = ASKS[:1]
    assert (await limits.take("t", rate, 1.0)).refused is None
    await persist(state)
    await harness.pass_time(601.0)
    assert (await limits.levels(rate))[0].remaining == 10.0
    assert (await limits.take("u", rate, 1.0)).refused is None
    assert 0 < (await lives(state))["rate:rate"] <= 60_001
    await limits.settle("u", {"rate": 0.0})
    assert "rate:rate" not in await lives(state)


async def test_a_bucket_that_is_full_again_is_gone_without_anybodys_doing(harness: Any) -> None:
    """The others count on expiries that they read; this one waits for them, a twentieth of a second."""
    state = await harness.open()
    for number in range(20):
        brief = Ask(f"k{number}", 5.0, 10.0, 0.1, 10.0)
        assert (await state.limits("n").take(f"t{number}", [brief], 1.0)).refused is None
    assert any(key.startswith("rate:") for key in await lives(state))
    async with asyncio.timeout(20):
        while any(key.startswith("rate:") for key in await lives(state)):
            await asyncio.sleep(0.01)


async def test_a_reset_is_remembered_for_two_days_whoever_else_is_reset(harness: Any) -> None:
    """So that what was taken before is not given back; each for itself, or none would ever be forgotten."""
    state = await harness.open()
    limits = state.limits("n")
    for number in range(20):
        await limits.reset([f"k{number}"])
    found = await lives(state)
    assert found.keys() == {f"reset:k{number}" for number in range(20)}
    assert 86_400_000 < min(found.values()) <= max(found.values()) <= 2 * 86_400_000
