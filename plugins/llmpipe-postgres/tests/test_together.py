"""Steps that go together in one transaction: each as if it had been alone."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types of its own
import pytest

from llmpipe.errors import StoreUnavailable
from llmpipe.state import Balance, Draw, Shortage, Spend
from llmpipe.state.memory.ledger import MemoryLedger
from llmpipe_postgres import ledger as ledgers
from llmpipe_postgres import open_postgres

pytestmark = pytest.mark.real_time

WAITING = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ledger_steps%'"


def draw(nano: int, limit: int | None = None, account: str = "a", likely: int = 0) -> Draw:
    return Draw(account, 0, nano, limit, likely)


async def together(ledger: Any, *steps: Any) -> list[Any]:
    """The answers of `steps`, which go together: another is under way when they come."""
    before = asyncio.ensure_future(ledger.settle(f"before-{next(NUMBERS)}", []))
    await asyncio.sleep(0)
    answers = await asyncio.gather(*steps, return_exceptions=True)
    assert await before is True
    return answers


NUMBERS = itertools.count()


class Counting:
    """Counts what is said to the database by a ledger."""

    def __init__(self, ledger: Any) -> None:
        self.sizes: list[int] = []
        self._send = ledger._gather._send
        ledger._gather._send = self

    async def __call__(self, turns: Any) -> None:
        self.sizes.append(len(turns))
        await self._send(turns)


async def test_they_are_one_transaction_and_settlements_free_what_the_others_find(harness):
    ledger = (await harness.open()).ledger("l")
    await ledger.reserve("old", [draw(90, 100)], 600.0)
    counting = Counting(ledger)
    answers = await together(
        ledger,
        ledger.reserve("one", [draw(60, 100)], 600.0),
        ledger.reserve("two", [draw(60, 100)], 600.0),
        ledger.settle("old", [draw(10)], [Spend(id="s", at=1.0, nano=10)]),
        ledger.settle("unknown", [draw(1), draw(1), draw(3, account="b")], [Spend(id="t", at=1.0, nano=2)]),
    )
    assert counting.sizes == [1, 4]
    assert answers == [None, Shortage(0, 12, 60), True, True]
    assert await ledger.balances([("a", 0), ("b", 0)]) == [Balance(12, 60), Balance(3, 0)]
    assert [row.id for row in await ledger.spends()] == ["s", "t"]
    assert await ledger.holds() == ["one"]


async def test_a_step_that_cannot_be_kept_takes_nothing_of_its_neighbours_with_it(harness):
    ledger = (await harness.open()).ledger("l")
    await ledger.settle("big", [draw(2**62, account="big")])
    await ledger.settle("over", [])
    name = "".join(chr(0x4E00 + number * 7919 % 20_000) for number in range(5000))
    good = [ledger.settle(f"s{n}", [draw(1)], [Spend(id=f"s{n}", at=1.0, nano=1)]) for n in range(20)]
    good += [ledger.reserve(f"r{n}", [draw(1, 100), draw(2, None, "b")], 600.0) for n in range(20)]
    bad = [
        ledger.settle("overflow", [draw(7), draw(2**62, account="big")], [Spend(id="no", at=1.0, nano=1)]),
        ledger.reserve(name, [draw(7)], 600.0),
        ledger.reserve("over", [draw(7)], 600.0),
        ledger.reserve("nonsense", [draw(-7)], 600.0),
        ledger.reserve("dear", [draw(7, None, "b"), draw(1000, 100)], 600.0),
    ]
    steps = [*good[:25], *bad, *good[25:]]
    answers = await together(ledger, *steps)
    refused = answers[25:30]
    assert answers[:25] + answers[30:] == [True] * 20 + [None] * 20
    for error, said in zip(refused[:4], ["out of range", "index row", "settled", "whole"], strict=True):
        assert isinstance(error, ValueError), error
        assert said in str(error)
    assert refused[4] == Shortage(1, 20, refused[4].held)
    balances = await ledger.balances([("a", 0), ("b", 0), ("big", 0)])
    assert balances == [Balance(20, 20), Balance(0, 40), Balance(2**62, 0)]
    assert len(await ledger.holds()) == 20
    assert len(await ledger.spends()) == 20


@pytest.mark.parametrize("seed", range(6))
async def test_any_steps_together_are_as_one_after_the_other_in_memory(harness, seed):
    """Against the reference: holds in any state, lent again, short, run out, settled; all in one batch."""
    draws = random.Random(seed)
    store = await harness.open()
    ahead = 0.0
    ledgers = (store.ledger("l"), MemoryLedger(lambda: ahead))
    accounts, holds = ["a", "b", "c", "d"], [f"h{number}" for number in range(14)]

    def some(settles: bool) -> list[Draw]:
        chosen = draws.sample(accounts, draws.randrange(5))
        chosen += draws.choices(accounts, k=draws.randrange(3)) if settles else []
        return [
            Draw(name, draws.choice([0, 0, 7]) if settles else 0, draws.randrange(30),
                 draws.choice([None, 60, 120, 10_000]), draws.randrange(10))
            for name in chosen
        ]  # fmt: skip

    for number in range(25):
        settles = [(hold, some(True)) for hold in draws.sample(holds, 3)]
        left = [hold for hold in holds if hold not in [name for name, _ in settles]]
        reserves = [(hold, some(False), draws.choice([5.5, 40.5])) for hold in draws.sample(left, 6)]
        if draws.random() < 0.5:
            holds[draws.randrange(len(holds))] = f"new{number}"

        def rows(hold: str, number: int = number) -> list[Spend]:
            return [Spend(id=f"{hold}-{number % 3}", at=1.0, nano=number), Spend(id=hold, at=2.0, nano=None)]

        async def run(ledger: Any, one_by_one: bool, told: Any = (settles, reserves, rows)) -> list[Any]:
            settling, reserving, lines = told
            steps = [ledger.settle(hold, charges, lines(hold)) for hold, charges in settling]
            steps += [ledger.reserve(*step) for step in reserving]
            if not one_by_one:
                mixed = list(range(len(steps)))
                draws.shuffle(mixed)
                # Those that reserve stay in their order, for which of them finds room depends on it.
                firsts = iter(sorted(place for place in mixed if place >= len(settling)))
                mixed = [place if place < len(settling) else next(firsts) for place in mixed]
                answers = await together(ledger, *[steps[place] for place in mixed])
                return [answers[mixed.index(place)] for place in range(len(steps))]
            return [answer for step in steps for answer in await asyncio.gather(step, return_exceptions=True)]

        got, meant = [await run(ledger, ledger is ledgers[1]) for ledger in ledgers]
        assert [str(answer) for answer in got] == [str(answer) for answer in meant]
        for each in ("holds", "spends"):
            assert await getattr(ledgers[0], each)() == await getattr(ledgers[1], each)()
        keys = [(name, period) for name in accounts for period in (0, 7)]
        await asyncio.gather(*[ledger.sweep() for ledger in ledgers])
        assert await ledgers[0].balances(keys) == await ledgers[1].balances(keys)
        if draws.random() < 0.5:
            await harness.pass_time(7.0)
            ahead += 7.0


async def test_holds_that_have_run_out_are_expired_once_for_all_who_find_them(harness):
    ledger = (await harness.open()).ledger("l")
    await asyncio.gather(*[ledger.reserve(f"old{n}", [draw(10, 100, likely=1)], 5.0) for n in range(10)])
    await harness.pass_time(6.0)
    steps = [ledger.reserve(f"h{n}", [draw(10, 100)], 60.0) for n in range(12)]
    answers = await together(ledger, ledger.settle("old0", [draw(0)]), *steps)
    assert answers[0] is True
    assert answers.count(None) == 9  # nine times what was likely, and nine times ten
    assert await ledger.balances([("a", 0)]) == [Balance(9, 90)]


async def test_a_hold_that_another_is_just_expiring_counts_as_held_and_nobody_waits_for_that(harness):
    ledger = (await harness.open()).ledger("l")
    await ledger.reserve("old", [draw(10, 100, likely=1)], 5.0)
    await harness.pass_time(6.0)
    other = await asyncpg.connect(harness.server.url)
    await other.execute(f"BEGIN; SELECT FROM {harness.schema}.holds FOR UPDATE")
    steps = [ledger.reserve(f"h{number}", [draw(40, 100)], 60.0) for number in range(3)]
    assert await together(ledger, *steps) == [None, None, Shortage(0, 0, 90)]
    await other.execute("ROLLBACK")
    await other.close()
    assert await ledger.sweep() == 1
    assert await ledger.balances([("a", 0)]) == [Balance(1, 80)]


async def test_cancelled_in_any_moment_each_is_done_or_not_and_the_others_have_their_own(harness, proxy):
    direct = (await harness.open()).ledger("l")
    draws = random.Random(5)
    proxy.delay = 0.01
    url = harness.url().replace(f":{harness.server.port}/", f":{proxy.own_port}/")
    state = open_postgres(url)
    ledger = state.ledger("l")
    cancelled: set[int] = set()
    told: dict[int, int | None] = {}

    async def ask(number: int) -> None:
        if number % 3:
            assert await ledger.reserve(f"h{number}", [draw(number, None, "all")], 600.0) is None
            told[number] = None
        else:  # spent already: who has another's answer would see it
            assert await ledger.settle(f"s{number}", [draw(number, None, f"a{number}")]) is True
            short = await ledger.reserve(f"h{number}", [draw(1, number, f"a{number}")], 600.0)
            assert short is not None
            told[number] = short.spent

    for start in range(0, 1500, 50):
        tasks = {number: asyncio.ensure_future(ask(number)) for number in range(start, start + 50)}
        for number, task in tasks.items():
            if draws.random() < 0.5:
                cancelled.add(number)
                asyncio.get_running_loop().call_later(draws.random() * 0.05, task.cancel)
        await asyncio.wait(tasks.values())
        cancelled = {number for number in cancelled if number < start or tasks[number].cancelled()}
    assert 100 < len(cancelled) < 1400
    assert set(told) | cancelled == set(range(1500))
    assert all(told[number] == (None if number % 3 else number) for number in told)
    await state.aclose()
    held = {int(name[1:]) for name in await direct.holds()}
    assert {number for number in told if number % 3} <= held
    assert not held - set(told) - cancelled
    assert (await direct.balances([("all", 0)]))[0].held == sum(held)


async def test_an_answer_to_all_that_was_lost_is_asked_for_again_and_each_learns_the_truth(harness, proxy):
    await harness.open()
    direct = (await harness.reopen()).ledger("l")
    url = harness.url(timeout=5).replace(f":{harness.server.port}/", f":{proxy.own_port}/")
    state = open_postgres(url)
    await state.check()
    ledger = state.ledger("l")
    await direct.settle("known", [draw(1)])
    proxy.word, proxy.cut = b"Loss", 1
    answers = await together(
        ledger,
        ledger.settle("Loss", [draw(5)], [Spend(id="s", at=1.0, nano=5)]),
        ledger.settle("other", [draw(6)], [Spend(id="t", at=1.0, nano=6)]),
        ledger.settle("known", [draw(7)]),
        ledger.reserve("h", [draw(10, 22)], 600.0),
        ledger.reserve("i", [draw(10, 22)], 600.0),
    )
    assert proxy.cuts == 1
    assert answers == [True, True, False, None, Shortage(0, 12, 10)]
    assert await direct.balances([("a", 0)]) == [Balance(12, 10)]
    assert len(await direct.spends()) == 2
    proxy.cut = 2  # and now twice: who asks again later learns that it was done
    answers = await together(ledger, ledger.settle("Loss-2", [draw(1)]), ledger.settle("last", [draw(1)]))
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
    assert await direct.settle("Loss-2", [draw(1)]) is False
    assert await direct.settle("last", [draw(1)]) is False
    await state.aclose()
    assert await direct.balances([("a", 0)]) == [Balance(14, 10)]


async def test_after_the_server_was_killed_in_the_middle_of_batches_the_ledger_is_exact(own_server):
    """Workers say everything again until it is done; whatever was lost, each is charged exactly once."""
    state = await own_server.open(timeout=1)
    ledger, each = state.ledger("l"), 40
    claimed: list[str] = []
    sizes = Counting(ledger).sizes

    async def until_done(step: Any) -> Any:
        while True:
            try:
                return await step()
            except StoreUnavailable:
                await asyncio.sleep(0.05)

    async def work(worker: int) -> None:
        for number in range(each):
            name = f"{worker}-{number}"
            assert await until_done(lambda name=name: ledger.reserve(name, [draw(5, 10**6)], 600.0)) is None
            row = Spend(id=name, at=1.0, nano=3)
            if await until_done(lambda name=name, row=row: ledger.settle(name, [draw(3)], [row])):
                claimed.append(name)

    workers = [asyncio.ensure_future(work(worker)) for worker in range(24)]
    for _ in range(3):
        done = len(claimed)
        while len(claimed) < done + 100:
            await asyncio.sleep(0.003)
        own_server.server.kill()
        await asyncio.sleep(0.1)
        await asyncio.to_thread(own_server.server.start)
    await asyncio.gather(*workers)
    names = {f"{worker}-{number}" for worker in range(24) for number in range(each)}
    assert max(sizes) > 8
    assert len(claimed) == len(set(claimed))
    assert {row.id for row in await ledger.spends(limit=10_000)} == names
    assert await ledger.balances([("a", 0)]) == [Balance(3 * len(names), 0)]
    assert await ledger.holds() == []


@pytest.mark.parametrize(
    ("shared", "middle"),
    [
        ("holds", "lock_hold('l', 'm')"),
        ("balances", "lock_balances('l', '{m}', '{0}', '{}')"),
        ("lines", "settle('l', 'x', 0, 1, '{}', '{}', '{}', '{}', '[LINE]')"),
    ],
)
async def test_two_that_are_halted_in_the_middle_go_on_without_a_circle(harness, shared, middle):
    """In the order in which they are given each would have what the other needs next."""
    states = [await harness.open(), await harness.reopen()]
    before = harness.server.log.count("deadlock detected")
    line = ledgers._journal("l", [Spend(id="m", at=1.0, nano=1)])[1:-1]
    other = await asyncpg.connect(harness.server.url)
    await other.execute(f"SET search_path TO {harness.schema}; BEGIN; SELECT {middle.replace('LINE', line)}")

    def steps(side: int) -> list[Any]:
        ledger, names = states[side].ledger("l"), "zma" if side else "amz"
        if shared == "holds":
            return [ledger.settle(name, []) for name in names]
        if shared == "balances":
            return [ledger.settle(f"{side}{name}", [draw(1, None, name)]) for name in names]
        return [ledger.settle(f"{side}{name}", [], [Spend(id=name, at=1.0, nano=1)]) for name in names]

    tasks = [asyncio.ensure_future(together(states[side].ledger("l"), *steps(side))) for side in (0, 1)]
    while len(await harness.sql(WAITING)) < 2:
        await asyncio.sleep(0.01)
    await other.execute("ROLLBACK")
    await other.close()
    first, second = await asyncio.gather(*tasks)
    assert sorted(first + second) == ([False] * 3 + [True] * 3 if shared == "holds" else [True] * 6)
    assert harness.server.log.count("deadlock detected") == before
