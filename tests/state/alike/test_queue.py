"""One random life in a queue, lived by all backends at the same time."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe.state import Item
from tests.state.alike.sides import HUGE, NAMES, Asked, Side
from tests.state.alike.world import INF, LEASES, NAN, World

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize("seed", range(3))
async def test_a_life_in_a_queue(world: World, seed: int) -> None:
    one_of = world.one_of
    ids = [f"i{number}" for number in range(8)] + list(NAMES)

    def with_token(method: str, *args: Any, **options: Any) -> tuple[str, Asked]:
        name = one_of(*ids)
        number = world.random.randrange(12)
        latest = one_of(True, True, False)

        def asked(side: Side) -> Any:
            token = side.token(max(0, len(side.tokens) - 1 - number) if latest else number)
            return getattr(side.queue, method)(
                leased.get(side.name, {}).get(number, name), token, *args, **options
            )

        return f"{method}{args!r:.200} {options}", asked

    leased: dict[str, dict[int, str]] = {}
    for number in range(160):
        odd = number % 8 == 7
        match one_of(
            "put", "put", "put", "lease", "lease", "renew", "done", "fail", "revive", "forget", "time", "dead"
        ):
            case "put":
                item = Item(
                    id=one_of(*ids),
                    payload=one_of(b"", b"p", b"\0" * 40),
                    order=one_of("", "", "o", world.name()),
                    priority=one_of(0, 0, 3, -(2**53), 2**53) if not odd else one_of(2**63, 1.5, -(2**60)),
                    expires_in=one_of(None, 150.0, 0.0, -150.0, 1e9 + 50, INF)
                    if not odd
                    else one_of(NAN, -INF),
                    delay=one_of(0.0, 0.0, 50.0, 1e9 + 50, INF, -5.0) if not odd else one_of(NAN, -INF),
                    attempts=one_of(5, 1, 2, 2**53) if not odd else one_of(0, -1, 2**63, 1),
                )
                await world.ask("queue", "put", item)
            case "lease":
                seconds = one_of(*LEASES) if odd else one_of(50.0, 250.0)
                await world.ask(
                    "queue", "lease", world.name(), count=one_of(1, 2, 5, 0, -3, 2**70), seconds=seconds
                )
            case "renew":
                await world.ask_each("queue", *with_token("renew", one_of(*LEASES) if odd else 250.0))
            case "done":
                await world.ask_each("queue", *with_token("done", one_of(b"", b"r", b"\xff\0")))
            case "fail":
                delay = one_of(0.0, 150.0) if not odd else one_of(NAN, -5.0, INF)
                await world.ask_each(
                    "queue", *with_token("fail", world.name(), delay=delay, final=one_of(True, False))
                )
            case "revive":
                await world.ask("queue", "revive", one_of(*ids))
            case "forget":
                await world.ask(
                    "queue", "forget", one_of(25.0, 1025.0, -5.0) if not odd else one_of(NAN, INF)
                )
            case "time":
                world.pass_time(one_of(100.0, 300.0))
            case "dead":
                await world.ask("queue", "dead", limit=one_of(100, 2, 0, -1, 2**70))
        await world.ask("queue", "counts")
        await world.ask("queue", "status", one_of(*ids))
    for name in ids:
        await world.ask("queue", "status", name)
    await world.ask("queue", "renew", "i1", 2**70, 50.0)


async def test_hundreds_of_leases_and_expiries_that_end_at_once_and_huge_items(world: World) -> None:
    for number in range(380):
        late = 150.0 if number % 3 == 0 else None
        await world.ask(
            "queue", "put", Item(id=f"i{number}", payload=b"p", expires_in=late, attempts=1 + number % 2)
        )
    assert len(await world.ask("queue", "lease", "w", count=370, seconds=50.0)) == 370
    world.pass_time(100.0)
    await world.ask("queue", "counts")
    world.pass_time(100.0)
    await world.ask("queue", "counts")
    await world.ask("queue", "dead", limit=1000)
    assert await world.ask("queue", "forget", 125.0) > 150
    await world.ask("queue", "counts")
    huge = bytes(range(256)) * (HUGE // 256)
    assert await world.ask("queue", "put", Item(id="huge", payload=huge, priority=9))
    assert (await world.ask("queue", "lease", "w"))[0].payload == huge
    last = len(world.sides.model.tokens) - 1
    assert await world.ask_each("queue", "done", lambda side: side.queue.done("huge", side.token(last), huge))
    assert (await world.ask("queue", "status", "huge")).result == huge
    assert await world.ask("queue", "put", Item(id="huge", payload=huge)) is False
