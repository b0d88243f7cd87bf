"""Whose answer is whose: cancellations in any moment, and connections cut when the answer was on its way."""

from __future__ import annotations

import asyncio
import random

import pytest
from attrs import evolve

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Draw, Item, SealedKey, Spend
from llmpipe_postgres import open_postgres

pytestmark = pytest.mark.real_time


async def test_after_thousands_of_cancellations_each_still_reads_its_own_answer(harness, proxy):
    direct = (await harness.open()).ledger("l")
    await direct.settle("h", [Draw(f"a{number}", 0, number) for number in range(200)])
    proxy.delay = 0.002
    url = harness.url(pool=8).replace(f":{harness.server.port}/", f":{proxy.own_port}/")
    state = open_postgres(url)
    ledger = state.ledger("l")
    draws = random.Random(11)
    cancelled = answered = 0

    async def ask(number: int) -> None:
        (found,) = await ledger.balances([(f"a{number}", 0)])
        assert found.spent == number, "the answer to another's question"

    while cancelled < 1500:
        tasks = [asyncio.ensure_future(ask(draws.randrange(200))) for _ in range(40)]
        for task in tasks[:32]:  # the others stay, and read what comes
            asyncio.get_running_loop().call_later(draws.random() * 0.06, task.cancel)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, asyncio.CancelledError):
                cancelled += 1
            else:
                assert outcome is None, outcome
                answered += 1
    proxy.delay = 0.0
    await asyncio.gather(*[ask(number) for number in range(200)])
    assert answered > 100
    await state.aclose()
    assert len(await harness.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'llmpipe'")) < 60


async def through(harness, proxy):
    await harness.open()
    url = harness.url(timeout=5).replace(f":{harness.server.port}/", f":{proxy.own_port}/")
    state = open_postgres(url)
    await state.check()
    return state, await harness.reopen()


KEY = SealedKey(
    tenant="t", provider="p", name="n", version=1, master="m", data_key=b"1", secret=b"2", created_at=1.5
)


async def test_a_commit_whose_answer_was_lost_is_done_once_and_known_to_be_done(harness, proxy):
    state, direct = await through(harness, proxy)
    ledger, queue, vault = state.ledger("l"), state.queue("q"), state.vault("v")
    proxy.word = b"Loss"  # in a name of each of these

    async def cut(times: int = 1) -> None:
        proxy.cut = times

    await cut()
    assert await ledger.reserve("Loss", [Draw("a", 0, 7, 10)], 600.0) is None
    await cut()
    assert await ledger.settle("Loss", [Draw("a", 0, 5)], [Spend(id="s", at=1.0, nano=5)]) is True
    await cut()
    await queue.put(Item(id="Loss", payload=b"x"))
    (leased,) = await queue.lease("me")
    await cut()
    assert await queue.done("Loss", leased.token, b"result") is True
    await queue.put(Item(id="Loss-2", payload=b"x"))
    (leased,) = await queue.lease("me")
    await cut()
    assert await queue.fail("Loss-2", leased.token, "reason", delay=99.0) is True
    await cut()
    assert await vault.put(evolve(KEY, hint="Loss"), None) is True
    assert proxy.cuts == 6
    (balance,) = await direct.ledger("l").balances([("a", 0)])
    assert (balance.spent, balance.held) == (5, 0)
    assert len(await direct.ledger("l").spends()) == 1
    counts = await direct.queue("q").counts()
    assert (counts.done, counts.pending, counts.bytes) == (1, 1, 8)
    await state.aclose()


async def test_whoever_loses_the_answer_twice_is_told_so_and_may_say_the_same_later(harness, proxy):
    state, direct = await through(harness, proxy)
    ledger = state.ledger("l")
    proxy.word, proxy.cut = b"Loss", 2
    with pytest.raises(StoreUnavailable):
        await ledger.settle("Loss", [Draw("a", 0, 5)], [Spend(id="s", at=1.0, nano=5)])
    assert proxy.cuts == 2
    later = direct.ledger("l")
    assert await later.settle("Loss", [Draw("a", 0, 5)], [Spend(id="s", at=1.0, nano=5)]) is False
    assert (await later.balances([("a", 0)]))[0].spent == 5
    await state.aclose()


async def test_a_lease_whose_answer_was_lost_is_not_taken_twice(harness, proxy):
    state, direct = await through(harness, proxy)
    await direct.queue("q").put(Item(id="1", payload=b"x"))
    await direct.queue("q").put(Item(id="2", payload=b"x"))
    proxy.word, proxy.cut = b"Loss", 1
    with pytest.raises(StoreUnavailable):
        await state.queue("q").lease("Loss", seconds=60.0)
    assert (await direct.queue("q").counts()).leased == 1
    await harness.pass_time(61.0)
    assert [item.id for item in await direct.queue("q").lease("me", count=5)] == ["1", "2"]
    await state.aclose()
