"""What only the ledger in memory can get wrong: what it forgets."""

from __future__ import annotations

from llmpipe.state import Draw
from llmpipe.state.memory.ledger import MemoryLedger

DAY = 86_400.0


async def test_a_hold_that_expired_after_weeks_can_be_settled_though_its_period_is_long_over():
    now = [0.0]
    ledger = MemoryLedger(lambda: now[0])
    await ledger.reserve("long", [Draw("a", 0, 5, likely=3, ends=3600.0)], 30 * DAY)
    now[0] = 30 * DAY + 1
    assert await ledger.sweep() == 1
    for number in range(1100):  # so many that balances that are over are looked for
        draw = Draw(f"b{number}", int(now[0]), 1, ends=now[0] + 3600)
        await ledger.reserve(f"hold {number}", [draw], 10.0)
    assert await ledger.settle("long", [Draw("a", 0, 4, ends=3600.0)])
    assert [each.spent for each in await ledger.balances([("a", 0)])] == [4]
