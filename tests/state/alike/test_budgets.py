"""One random life on budgets, lived by all backends at the same time: what one says, the others say."""

from __future__ import annotations

from typing import Any, cast

import pytest

from llmpipe.state import Draw, Spend
from tests.state.alike.sides import NAMES, Asked, Side
from tests.state.alike.world import INF, LEASES, NAN, World

pytestmark = pytest.mark.real_time

_MONEY = (0, 1, 7, 10**9, 2**53 - 1, 2**53)
_NO_MONEY = (-1, -(2**63), 2**63, 2**70, 1.5, NAN, INF)


async def _live_on_budgets(world: World) -> None:
    ids = [f"h{number}" for number in range(6)] + list(NAMES)
    accounts = ["a", "b", *NAMES]
    one_of = world.one_of

    def draws(*, odd: bool = False) -> list[Draw]:
        count = one_of(0, 1, 1, 2, 3)
        made = []
        for account in world.random.sample(accounts, count):
            nano = one_of(0, 1, 5, 10, 40) if not odd else one_of(*_MONEY[:4], *_NO_MONEY)
            limit = one_of(None, 100, 60, 0, -5)
            ends = one_of(None, None, 5.0, 1e18, INF, -INF, NAN if odd else 0.0)
            made.append(Draw(account, one_of(0, 0, 7, -3), nano, limit, one_of(0, 3, nano), ends))
        return made

    for number in range(120):
        odd = number % 8 == 7
        match one_of("reserve", "reserve", "reserve", "settle", "settle", "look", "time", "sweep"):
            case "reserve":
                lease = one_of(*LEASES) if odd or number % 5 == 0 else one_of(250.0, 1050.0)
                await world.ask("ledger", "reserve", one_of(*ids), draws(odd=odd), lease)
            case "settle":
                at = one_of(1.0, 2.5, -7.0, 1e18, -0.0, 1e-300) if not odd else one_of(NAN, INF, 3.0)
                tokens = one_of(0, 3, 2**53) if not odd else one_of(2**63, 0, -1, 2**63 - 1)
                row = Spend(
                    id=one_of(*ids),
                    at=at,
                    nano=one_of(None, 0, 12),
                    user=world.name(),
                    tenant=world.name(12),
                    input_tokens=tokens,
                    asked_tokens=one_of(None, 0),
                    seconds=one_of(0.25, 1e300),
                )
                await world.ask(
                    "ledger", "settle", one_of(*ids), draws(odd=odd), one_of((), (row,), (row, row))
                )
            case "look":
                keys = [(one_of(*accounts), one_of(0, 7, -3)) for _ in range(9)]
                await world.ask_each("ledger", *_balances(keys))
            case "time":
                world.pass_time(one_of(100.0, 300.0, 1000.0))
            case "sweep":
                await world.ask_each("ledger", "sweep()", _swept)
        await world.ask_each("ledger", *_balances([("a", 0), ("b", 0), ("a", 7)]))
        await world.ask("ledger", "holds")
    for tenant in (None, *NAMES[:12]):
        await world.ask("ledger", "spends", tenant=tenant)
    page, after = [], None
    while found := await world.ask("ledger", "spends", limit=3, after=after):
        page += found
        after = found[-1]
    assert page == await world.ask("ledger", "spends")
    assert await world.ask("ledger", "spends", limit=0) == await world.ask("ledger", "spends", limit=-1) == []
    await world.ask("ledger", "spends", since=NAN)
    await world.ask("ledger", "spends", since=-INF, until=2.5)
    await world.ask("ledger", "balances", [("a", 2**70)])
    await world.ask("ledger", "balances", [])
    await world.ask("ledger", "forget", NAN)
    await world.ask("ledger", "forget", 2.0)
    await world.ask("ledger", "spends")


def _balances(keys: list[tuple[str, int]]) -> tuple[str, Asked]:
    """Once all leases that are over have ended: before that, what they hold may count or not."""

    async def asked(side: Side) -> Any:
        await side.ledger.sweep()
        return await side.ledger.balances(keys)

    return f"balances({keys!r:.600})", asked


async def _swept(side: Side) -> None:
    await side.ledger.sweep()  # how many there were depends on who has looked before


@pytest.mark.parametrize("seed", range(3))
async def test_a_life_on_budgets(world: World, seed: int) -> None:
    await _live_on_budgets(world)


async def test_money_is_the_same_to_the_nano_however_much_it_is(world: World) -> None:
    for nano in _MONEY:
        key = (f"{nano}", 0)
        limited = Draw(*key, nano, nano, nano)
        assert await world.ask("ledger", "reserve", f"h{nano}", [limited], 250.0) is None
        await world.ask("ledger", "reserve", f"i{nano}", [Draw(*key, 1, nano)], 250.0)
        assert await world.ask("ledger", "settle", f"h{nano}", [Draw(*key, nano), Draw(*key, 1)])
        await world.ask("ledger", "balances", [key])
    for nano in cast("tuple[int, ...]", _NO_MONEY):
        for draw in (
            Draw("a", 0, nano),
            Draw("a", 0, 1, None, nano),
            Draw("a", 0, 0, nano),
            Draw("a", nano, 0),
        ):
            if nano not in (-1, -(2**63)) or draw.nano == nano:
                assert await world.ask("ledger", "reserve", "odd", [draw], 250.0) is ValueError
    await world.ask("ledger", "reserve", "odd", [Draw("a", 0, 1), Draw("a", 0, 2)], 250.0)
    assert await world.ask("ledger", "holds") == []


async def test_thousands_of_draws_and_of_leases_that_end_at_once(world: World) -> None:
    many = [Draw(f"account {number}", 0, number, 10_000, number // 2) for number in range(1000)]
    assert await world.ask("ledger", "reserve", "h", many, 250.0) is None
    await world.ask("ledger", "balances", [(draw.account, 0) for draw in many])
    await world.ask(
        "ledger", "settle", "h", many, [Spend(id=f"s{n}", at=float(n % 7), nano=n) for n in range(1200)]
    )
    assert len(await world.ask("ledger", "spends", limit=5000)) == 1200
    for number in range(600):
        await world.ask("ledger", "reserve", f"h{number}", [Draw("shared", 0, 1, 600, 0)], 250.0)
    assert await world.ask("ledger", "reserve", "more", [Draw("shared", 0, 1, 600)], 250.0) is not None
    world.pass_time(300.0)
    assert await world.ask("ledger", "reserve", "more", [Draw("shared", 0, 600, 600)], 250.0) is None
    assert await world.ask("ledger", "holds") == ["more"]
