"""One random life under limits, lived by all backends at the same time; and times before anybody was born."""

from __future__ import annotations

import pytest

from llmpipe.state import Ask, Draw, Item
from tests.state.alike.sides import NAMES
from tests.state.alike.world import INF, LEASES, NAN, World

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize("seed", range(2))
async def test_a_life_under_limits(world: World, seed: int) -> None:
    one_of = world.one_of
    keys = ["minute", "day", "slots", *NAMES]
    tickets = [f"t{number}" for number in range(5)] + list(NAMES)

    def ask(key: str, *, odd: bool) -> Ask:
        amount = (
            one_of(0, 1, 2, 5.5) if not odd else one_of(0.0, -1.0, NAN, INF, 2.0**53, 1e-300, 2.0**60, -0.0)
        )
        if odd and one_of(True, False):
            limit, period = (
                one_of(0, 1e-300, -1, 5, NAN, INF, 2.0**53),
                one_of(-1.0, NAN, INF, 1e-300, 2.0**53),
            )
            return Ask(key, amount, limit, period, one_of(0.0, -1.0, NAN, INF, 3.0))
        if key == "slots" or len(key) % 2:
            return Ask(key, amount, one_of(3, 6), 0.0)
        return Ask(key, amount, 10, 1e6, 8.0)

    for number in range(120):
        odd = number % 6 == 5
        chosen = world.random.sample(keys, one_of(0, 1, 1, 2, 3))
        asks = [ask(key, odd=odd) for key in chosen]
        match one_of("take", "take", "take", "settle", "settle", "levels", "reset", "time"):
            case "take":
                await world.ask("limits", "take", one_of(*tickets), asks, one_of(*LEASES) if odd else 250.0)
            case "settle":
                units = one_of(0, 1, 3.5, 9) if not odd else one_of(NAN, INF, -1.0, 2.0**53, 2.0**60)
                await world.ask("limits", "settle", one_of(*tickets), dict.fromkeys(chosen, units))
            case "levels":
                await world.ask("limits", "levels", asks)
            case "reset":
                await world.ask("limits", "reset", chosen)
            case "time":
                world.pass_time(one_of(100.0, 300.0, 37_000.0))
        await world.ask("limits", "levels", [ask(key, odd=False) for key in ("minute", "slots", "day")])


async def test_thousands_of_asks_and_of_slots_whose_lease_ends_at_once(world: World) -> None:
    many = [Ask(f"key {number}", 1, 5, 0.0 if number % 2 else 1e6, 5.0) for number in range(2000)]
    await world.ask("limits", "take", "t", many, 250.0)
    await world.ask("limits", "levels", many)
    for number in range(600):
        await world.ask("limits", "take", f"t{number}", [Ask("slots", 1, 600)], 250.0)
    world.pass_time(300.0)
    assert (await world.ask("limits", "take", "all", [Ask("slots", 600, 600)], 250.0)).refused is None
    await world.ask("limits", "settle", "all", {})
    await world.ask("limits", "levels", many)


async def test_time_before_anybody_was_born_is_time_too(world: World) -> None:
    for state in world.states:
        state.ahead = -1.7e9  # type: ignore[attr-defined]  # a server whose battery is empty
    await world.ask("limits", "take", "t", [Ask("slots", 2, 2), Ask("rate", 5, 5, 1e6, 5.0)], 250.0)
    await world.ask("limits", "settle", "t", {"rate": 1})
    await world.ask("limits", "levels", [Ask("slots", 1, 2), Ask("rate", 1, 5, 1e6, 5.0)])
    await world.ask("ledger", "reserve", "h", [Draw("a", 0, 5, 5)], 250.0)
    await world.ask("ledger", "holds")
    await world.ask("queue", "put", Item(id="i", payload=b"p", order="o", expires_in=150.0))
    await world.ask("queue", "lease", "w", seconds=50.0)
    await world.ask("queue", "counts")
    world.pass_time(100.0)
    await world.ask("queue", "status", "i")
    world.pass_time(200.0)
    await world.ask("queue", "status", "i")
    await world.ask("ledger", "holds")


async def test_a_clock_that_is_set_back_ends_nothing_early(world: World) -> None:
    await world.ask("ledger", "reserve", "h", [Draw("a", 0, 5, 5, 1)], 250.0)
    await world.ask("limits", "take", "t", [Ask("slots", 2, 2)], 250.0)
    await world.ask("queue", "put", Item(id="i", payload=b"p"))
    await world.ask("queue", "lease", "w", seconds=250.0)
    for state in world.states:
        state.ahead -= 3600.0  # type: ignore[attr-defined]  # all of these have it
    assert await world.ask("ledger", "holds") == ["h"]
    assert await world.ask("ledger", "sweep") == 0
    assert (await world.ask("limits", "take", "u", [Ask("slots", 1, 2)], 250.0)).refused == 0
    assert (await world.ask("queue", "status", "i")).state == "leased"
    assert await world.ask("ledger", "settle", "h", [Draw("a", 0, 4)])
    assert await world.ask("limits", "settle", "t", {})
    assert await world.ask_each("queue", "done", lambda side: side.queue.done("i", side.token(0), b"r"))
