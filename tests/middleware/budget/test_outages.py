"""The store goes away: what is refused, what is lent, and that every settlement is brought once."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from llmpipe.errors import BudgetExceeded, LLMError, StoreUnavailable
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.budget.desk import Desk
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import Wait
from llmpipe.state import Draw
from llmpipe.types import Request
from tests.middleware.budget.bank import Counting, Shaky, balance, budget, mock, runtime, shaky

ASK = Request(messages="Tell me something.", max_tokens=20)
RULE = Rule(usd=1, period="day")


def made(provider: Any = None, *, after: bool = False, **settings: Any) -> tuple[Chain, Desk, Shaky]:
    config = budget(RULE, store="shaky://", **settings)
    chain = Chain(provider or mock(default="fine"), config, runtime=runtime())
    ledger = shaky(chain.runtime, after=after)
    return chain, config.desk(chain.runtime), ledger


async def test_without_slack_nothing_is_sent_while_the_store_is_away():
    provider = Counting(mock(default="fine"))
    config = budget(RULE, store="shaky://")
    chain = Chain(provider, config, Retry(attempts=3), runtime=runtime())
    ledger = shaky(chain.runtime)
    ledger.away = True
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            await chain.complete(ASK)
    assert provider.count == 0
    ledger.away = False
    await chain.complete(ASK)
    assert provider.count == 1


async def test_with_slack_as_much_is_spent_as_that_and_no_more():
    provider = Counting(mock(default=[Wait(1.0), "fine"]))
    config = budget(RULE, store="shaky://", slack_usd=0.002)
    chain = Chain(provider, config, runtime=runtime())
    ledger = shaky(chain.runtime)
    ledger.away = True
    ends = await asyncio.gather(*[chain.complete(ASK) for _ in range(200)], return_exceptions=True)
    assert {type(end).__name__ for end in ends} == {"Completion", "StoreUnavailable"}
    assert 1 < provider.count < 20
    desk = config.desk(chain.runtime)
    assert 0 < desk.lent <= 2_000_000
    ledger.away = False
    await asyncio.sleep(30.0)
    assert (desk.owed, desk.lent) == (0, 0)
    rows = await ledger.spends()
    assert len(rows) == provider.count
    used, held = await balance(chain, config)
    assert (used, held) == (sum(row.nano or 0 for row in rows), 0)
    assert 0 < used <= 2_000_000


async def test_slack_that_was_not_used_up_can_be_lent_again_in_the_same_outage():
    chain, desk, ledger = made(slack_usd=0.002)
    ledger.away = True
    done = 0
    for _ in range(100):
        try:
            await chain.complete(ASK)
            done += 1
        except StoreUnavailable:
            break
    # Each held some 300 micro-USD at worst and cost a third of it.
    assert done > 2_000_000 // 300_000 + 1
    assert desk.lent <= 2_000_000
    ledger.away = False
    await chain.aclose()


async def test_what_only_tells_does_not_stop_a_call_whose_store_is_away():
    config = budget(Rule(usd="0.001", action="alert"), store="shaky://")
    chain = Chain(mock(default="fine"), config, runtime=runtime())
    ledger = shaky(chain.runtime)
    ledger.away = True
    for _ in range(5):
        await chain.complete(ASK)
    ledger.away = False
    await asyncio.sleep(30.0)
    assert len(await ledger.spends()) == 5


@pytest.mark.parametrize("after", [False, True])
async def test_settlements_that_are_owed_are_brought_exactly_once(
    after: bool, caplog: pytest.LogCaptureFixture
):
    """Whether the store had done it and the answer was lost, or had not."""
    chain, desk, ledger = made(mock(default=[Wait(1.0), "fine"]), after=after)
    calls = [asyncio.create_task(chain.complete(ASK)) for _ in range(10)]
    await asyncio.sleep(0.5)
    ledger.away = True
    with caplog.at_level(logging.ERROR, "llmpipe"):
        await asyncio.gather(*calls)
        await asyncio.sleep(60.0)
    assert desk.owed == 10
    assert len([record for record in caplog.records if "settlements wait" in record.message]) == 1
    ledger.away = False
    await asyncio.sleep(30.0)
    assert desk.owed == 0
    rows = await ledger.spends()
    assert len(rows) == len({row.id for row in rows}) == 10
    assert len(set(ledger.settled)) == len(ledger.settled) == 10
    config = budget(RULE, store="shaky://")
    assert await balance(chain, config) == (sum(row.nano or 0 for row in rows), 0)


async def test_closing_brings_what_is_owed_and_says_what_it_could_not(caplog: pytest.LogCaptureFixture):
    for away in (False, True):
        caplog.clear()
        chain, _, ledger = made(mock(default=[Wait(1.0), "fine"]))
        call = asyncio.create_task(chain.complete(ASK))
        await asyncio.sleep(0.5)
        ledger.away = True
        await call
        ledger.away = away
        with caplog.at_level(logging.ERROR, "llmpipe"):
            await chain.aclose()
        lost = [record.getMessage() for record in caplog.records if "are lost" in record.getMessage()]
        assert len(await ledger.spends()) == (0 if away else 1)
        assert len(lost) == (1 if away else 0)
        assert not away or "1 settlements" in lost[0]


async def test_a_settlement_that_the_store_refuses_holds_up_no_other(caplog: pytest.LogCaptureFixture):
    chain, desk, ledger = made()
    ledger.refuses = ValueError("more than can be counted")
    with caplog.at_level(logging.ERROR, "llmpipe"):
        await chain.complete(ASK)
    assert "refuses a settlement" in caplog.text
    ledger.refuses = None
    assert desk.owed == 0
    await chain.complete(ASK)
    assert len(await ledger.spends()) == 1


async def test_one_that_is_refused_to_two_who_bring_it_at_once_holds_up_no_other():
    class Picky(Shaky):
        async def settle(self, hold: str, charges: Any, rows: Any = ()) -> bool:
            await asyncio.sleep(1.0)
            if hold == "wrong":
                raise ValueError("wrong")
            return await super().settle(hold, charges, rows)

    _, desk, _ = made()
    ledger: Any = Picky()
    desk.ledger = ledger
    ledger.away = True
    await desk.settle("right", [], [])
    ledger.away = False
    await asyncio.sleep(0.1)
    late = asyncio.create_task(desk.settle("wrong", [], []))  # while what is owed is brought
    await asyncio.sleep(0.1)
    desk.owe("third", [], [])
    await asyncio.sleep(10.0)
    await late
    assert (desk.owed, ledger.settled) == (0, ["right", "third"])


async def test_holds_of_long_calls_are_renewed_all_of_them_and_then_no_timer_is_left():
    provider = mock(default=[Wait(1000.0), "late"])
    config = budget(RULE, Rule(usd=1, per="provider"), store="shaky://", lease=60.0)
    chain = Chain(provider, config, runtime=runtime())
    ledger = shaky(chain.runtime)
    calls = [asyncio.create_task(chain.complete(ASK)) for _ in range(3)]
    for _ in range(15):
        await asyncio.sleep(60.0)
        assert len(await ledger.holds()) == 3
        assert (await balance(chain, config))[1] > 0
    await asyncio.gather(*calls)
    assert await ledger.holds() == []
    desk = config.desk(chain.runtime)
    await asyncio.sleep(60.0)
    assert desk._timer is None


async def test_a_call_outlives_an_outage_longer_than_its_lease_and_is_charged_once():
    provider = mock(default=[Wait(500.0), "late"])
    config = budget(RULE, Rule(usd=1, per="provider"), store="shaky://", lease=60.0)
    chain = Chain(provider, config, runtime=runtime())
    ledger = shaky(chain.runtime)
    call = asyncio.create_task(chain.complete(ASK))
    await asyncio.sleep(10.0)
    ledger.away = True
    await asyncio.sleep(200.0)
    ledger.away = False
    used, held = await balance(chain, config)
    assert (used > 0, held) == (True, 0)  # expired: charged what was likely
    await asyncio.sleep(60.0)
    assert (await balance(chain, config))[1] > 0  # and held again
    await call
    rows = await ledger.spends()
    assert await balance(chain, config) == (rows[0].nano, 0)
    for status in await config.status(chain.runtime, provider="p"):
        assert (status.spent, status.held) == (rows[0].nano, 0)


async def test_a_hold_that_grew_for_another_target_is_renewed_with_all_that_it_has():
    _, desk, _ = made(lease=60.0)
    await desk.reserve("one", [Draw("a", 0, 5, 10), Draw("b", 0, 5, 10)], 60.0, 5, 0)
    await desk.reserve("one", [Draw("b", 0, 9, 10), Draw("c", 0, 9, 10)], 60.0, 4, 0)
    held = {draw.account: draw.nano for draw in desk._held["one"].draws}
    assert held == {"a": 5, "b": 9, "c": 9}
    await desk.settle("one", (), ())
    assert desk._held == {}


@pytest.mark.real_time  # SQLite works in threads
async def test_a_file_keeps_budgets_over_a_restart(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'state.db'}"
    config = budget(Rule(usd="0.0007", period="day"), store=url)
    spent = 0
    for _ in range(2):
        async with Chain(mock(default="fine"), config, runtime=runtime()) as chain:
            try:
                for _ in range(10):
                    await chain.complete(ASK)
            except BudgetExceeded:
                pass
            used, held = await balance(chain, config)
            assert held == 0
            assert used >= spent > -1
            spent = used
            rows = await config.desk(chain.runtime).ledger.spends()
            assert sum(row.nano or 0 for row in rows) == used
    assert 0 < spent <= 700_000


@pytest.mark.real_time  # SQLite works in threads
async def test_a_thousand_calls_on_room_for_ten_in_a_file(tmp_path: Path):
    provider = Counting(mock(default=[Wait(0.5), "word"]))
    at = runtime()
    free = budget(RULE, store=f"sqlite:///{tmp_path / 'state.db'}")
    async with Chain(provider, free, runtime=at) as chain:
        with pytest.raises(LLMError):
            await Chain(provider, budget(Rule(usd="0.000001"), store=free.store), runtime=at).complete(ASK)
        one = (await _worst_of(chain, free)) * 10
        tight = budget(Rule(usd=f"{one / 1e9:.9f}", name="tight"), store=free.store)
        racing = Chain(provider, tight, runtime=at)
        before = provider.count
        ends = await asyncio.gather(*[racing.complete(ASK) for _ in range(1000)], return_exceptions=True)
        assert provider.count - before == 10
        assert sum(isinstance(end, BudgetExceeded) for end in ends) == 990
        assert (await balance(racing, tight))[1] == 0


async def _worst_of(chain: Chain, config: Budget) -> int:
    task = asyncio.create_task(chain.complete(ASK))
    held = 0
    while not held:
        await asyncio.sleep(0.005)
        held = (await balance(chain, config))[1]
    await task
    return held


async def test_a_call_with_a_shorter_lease_of_its_own_is_renewed_in_time_beside_one_with_a_longer():
    provider = mock(default=[Wait(200.0), "late"])
    chain, _, ledger = made(provider, lease=600.0)
    long = asyncio.create_task(chain.complete(ASK))
    await asyncio.sleep(1.0)
    short = asyncio.create_task(chain.complete(ASK, options={Budget: {"lease": 30.0}}))
    for _ in range(15):
        await asyncio.sleep(10.0)
        assert len(await ledger.holds()) == 2
    await asyncio.gather(long, short)
    assert await ledger.holds() == []
