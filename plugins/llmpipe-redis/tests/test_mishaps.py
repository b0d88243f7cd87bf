"""What operators do to a Redis that is in use (F93): it is emptied, cannot save, has somebody else's keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.state import Ask, Balance, Draw, Item, QueueCounts, Spend, Trip
from llmpipe.testing.servers.redis import RedisServer
from llmpipe_redis import RedisState

pytestmark = pytest.mark.real_time

RATE, SLOT = Ask("rate", 1.0, 10.0, 1e6, 10.0), Ask("slot", 1.0, 2.0)


async def test_one_that_is_emptied_begins_anew_and_nothing_goes_below_zero(
    own_server: RedisServer, opened: Any
) -> None:
    state = opened(f"{own_server.url}?timeout=5")
    ledger, limits, queue = state.ledger("n"), state.limits("n"), state.queue("n")
    assert await ledger.settle("paid", [Draw("a", 0, 50)], [Spend(id="paid", at=1.0, nano=50)])
    assert await ledger.reserve("before", [Draw("a", 0, 30, 100)], 600.0) is None
    assert (await limits.take("before", [RATE, SLOT], 600.0)).refused is None
    await state.breakers("n").trip("k", Trip(600.0))
    await queue.put(Item(id="before", payload=b"p"))
    (leased,) = await queue.lease("w")

    own_server.ask("FLUSHALL")

    # All that there is of it is there again: no more than once what was there before.
    assert await ledger.balances([("a", 0)]) == [Balance()]
    assert await state.breakers("n").read() == {}
    assert await ledger.reserve("after", [Draw("a", 0, 100, 100)], 600.0) is None
    short = await ledger.reserve("more", [Draw("a", 0, 1, 100)], 600.0)
    assert short is not None
    assert short.held == 100
    for number in range(2):
        assert (await limits.take(f"after{number}", [RATE, SLOT], 600.0)).refused is None
    assert (await limits.take("after3", [RATE, SLOT], 600.0)).refused == 1
    # Whoever was in the middle: money that was spent is charged, once; and frees nothing of another's.
    assert await ledger.settle("before", [Draw("a", 0, 7)], [Spend(id="before", at=2.0, nano=7)])
    assert not await ledger.settle("before", [Draw("a", 0, 7)], [Spend(id="before", at=2.0, nano=7)])
    assert await ledger.balances([("a", 0)]) == [Balance(7, 100)]
    assert await ledger.settle("after", [Draw("a", 0, 60)])
    assert await ledger.balances([("a", 0)]) == [Balance(67, 0)]
    assert not await limits.settle("before", {"rate": 0.0})
    assert (await limits.levels([RATE, SLOT]))[1].remaining == 0.0
    assert not await queue.done(leased.id, leased.token)
    assert await queue.counts() == QueueCounts()
    await state.check()


async def test_one_that_cannot_save_refuses_all_that_changes_something_until_it_can(
    own_server: RedisServer, opened: Any, tmp_path: Path
) -> None:
    state = opened(f"{own_server.url}?timeout=5")
    assert await state.ledger("n").reserve("h", [Draw("a", 0, 5)], 600.0) is None
    gone = tmp_path / "gone"
    gone.mkdir()
    own_server.ask("CONFIG", "SET", "save", "3600 1")
    own_server.ask("CONFIG", "SET", "dir", str(gone))
    gone.rmdir()
    own_server.ask("BGSAVE")
    while b"rdb_last_bgsave_status:err" not in own_server.ask("INFO", "persistence"):
        assert own_server.log is not None
    for _ in range(2):  # it answers, so it is not left alone
        with pytest.raises(StoreUnavailable, match="cannot save") as caught:
            await state.limits("n").take("t", [RATE, SLOT], 600.0)
        assert caught.value.code == "MISCONF"
    with pytest.raises(StoreUnavailable, match="cannot save"):
        await state.ledger("n").settle("h", [Draw("a", 0, 3)])
    assert await state.ledger("n").balances([("a", 0)]) == [Balance(0, 5)]
    own_server.ask("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
    assert (await state.limits("n").levels([RATE, SLOT]))[0].remaining == 10.0
    assert await state.ledger("n").settle("h", [Draw("a", 0, 3)])
    assert await state.ledger("n").balances([("a", 0)]) == [Balance(3, 0)]


STRANGE: dict[str, tuple[str, Callable[[RedisState], Awaitable[Any]]]] = {
    "bucket": ("limits:n}rate:rate", lambda state: state.limits("n").take("t", [SLOT, RATE], 60.0)),
    "slots": ("limits:n}slots", lambda state: state.limits("n").take("t", [RATE, SLOT], 60.0)),
    "leases": ("limits:n}leases", lambda state: state.limits("n").levels([RATE])),
    "ticket": ("limits:n}ticket:t", lambda state: state.limits("n").settle("t", {"rate": 0.0})),
    "hold": ("ledger:n}hold:h", lambda state: state.ledger("n").reserve("h", [Draw("a", 0, 1)], 60.0)),
    "journal": ("ledger:n}lines", lambda state: state.ledger("n").settle("h", [Draw("a", 0, 1)])),
    "circuits": ("breakers:n}open", lambda state: state.breakers("n").trip("k", Trip(60.0))),
    "item": ("queue:n}item:i", lambda state: state.queue("n").put(Item(id="i", payload=b"p"))),
}


@pytest.mark.parametrize("name", sorted(STRANGE))
async def test_a_key_of_ours_that_is_something_else_is_told_and_nothing_is_changed(
    server: RedisServer, opened: Any, name: str
) -> None:
    key, operation = STRANGE[name]
    state = opened(f"{server.url}?prefix=strange-{name}&timeout=5")
    key = f"{{strange-{name}:{key}"
    server.ask("RPUSH", key, "somebody's")
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="another type") as caught:
            await operation(state)
        assert caught.value.code == "WRONGTYPE"
    keys = await state.link().ask((b"KEYS", b"\\{strange-" + name.encode() + b":*"))
    assert keys == [key.encode()]
