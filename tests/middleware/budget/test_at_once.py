"""The short ways through a budget in memory come to the same as the long ones."""

from __future__ import annotations

import asyncio
from typing import Any

from attrs import fields
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import BudgetExceeded, Overloaded, ServiceUnavailable
from llmpipe.middleware.budget import Rule
from llmpipe.middleware.budget.journal import line_of
from llmpipe.middleware.budget.purse import Purse
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.chain import Chain
from llmpipe.state import Draw, Spend
from llmpipe.state.draws import Accounts, EvenDraws
from llmpipe.state.memory.ledger import MemoryLedger
from llmpipe.state.spends import FIELDS, spend_of, values_of
from llmpipe.testing.state import ManualClock
from llmpipe.types import Request, Usage
from tests.middleware.budget.bank import balance, budget, ledger_of, mock, runtime

ASK = Request(messages="Tell me something.", max_tokens=20)
ALL = [("a", 0), ("b", 0), ("c", 10)]

amounts = st.integers(0, 40)
some = st.lists(st.sampled_from(range(3)), min_size=1, max_size=3, unique=True).map(sorted)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), some, amounts, amounts),
        st.tuples(st.just("grow"), st.integers(0, 9), some, amounts),
        st.tuples(st.just("settle"), st.integers(0, 9), amounts),
        st.tuples(st.just("wait"), st.sampled_from([1, 30, 100])),
    ),
    max_size=25,
)


@given(steps, st.lists(st.one_of(st.none(), st.integers(0, 100)), min_size=3, max_size=3))
def test_what_is_done_at_once_is_what_the_contract_does(life: list[Any], limits: list[int | None]):
    clock = ManualClock()
    short, long = MemoryLedger(clock), MemoryLedger(clock)
    drawn: list[tuple[str, Accounts]] = []

    async def live() -> None:
        for number, (what, *rest) in enumerate(life):
            hold = f"h{number}"
            if what == "reserve":
                which, nano, likely = rest
                accounts = Accounts(
                    [
                        Draw(account=ALL[at][0], period=ALL[at][1], nano=0, limit=limits[at], ends=20.0)
                        for at in which
                    ]
                )
                draws = EvenDraws(accounts, nano, min(nano, likely))
                lacks = await long.reserve(hold, [*draws], 10**6)
                assert short.reserve_at_once(hold, accounts, draws.nano, draws.likely) is (lacks is None)
                if lacks is None:
                    drawn.append((hold, accounts))
            elif what == "grow" and drawn:
                hold, _ = drawn[rest[0] % len(drawn)]
                more = [
                    Draw(account=ALL[at][0], period=ALL[at][1], nano=rest[2], limit=limits[at], ends=20.0)
                    for at in rest[1]
                ]
                assert await short.reserve(hold, more, 10**6) == await long.reserve(hold, more, 10**6)
            elif what == "settle" and drawn:
                hold, accounts = drawn.pop(rest[0] % len(drawn))
                rows = [Spend(id=hold, at=clock.now, nano=rest[1])]
                charges = [*EvenDraws(accounts, rest[1])]
                await long.settle(hold, charges, rows)
                if not short.settle_at_once(hold, accounts, rest[1], [*map(values_of, rows)]):
                    await short.settle(hold, charges, rows)
            elif what == "wait":
                clock.now += rest[0]
            assert await short.balances(ALL) == await long.balances(ALL)
            assert await short.holds() == await long.holds()
            assert await short.spends() == await long.spends()

    asyncio.run(live())


def test_what_is_over_for_a_week_is_forgotten_to_make_room_and_nothing_that_is_used_or_held():
    week, hour = 7 * 86_400.0, 3600.0
    clock = ManualClock()
    ledger = MemoryLedger(clock)

    def call(number: int, *, name: str = "", settled: bool = True) -> None:
        account = name or f"user{number}"
        accounts = Accounts([Draw(account=account, period=0, nano=0, limit=10**6, ends=hour)])
        assert ledger.reserve_at_once(f"hold{number}", accounts, 5, 5)
        if settled:
            assert ledger.settle_at_once(f"hold{number}", accounts, 3, [])

    async def spent(*names: str) -> list[tuple[int, int]]:
        return [(one.spent, one.held) for one in await ledger.balances([(name, 0) for name in names])]

    async def live() -> None:
        call(-1, name="held", settled=False)
        for number in range(1100):  # more than there is room for: the first look finds nothing that is over
            call(number)
        clock.now += week
        for number in range(1100, 3000):  # and the next one nothing either, by an hour
            call(number)
        call(-2, name="user7")
        assert await spent("user0", "user7") == [(3, 0), (6, 0)]
        clock.now += 2 * hour
        for number in range(3000, 6000):
            call(number)
        assert await spent("user0", "user7", "user2999", "held") == [(0, 0), (6, 0), (3, 0), (0, 5)]

    asyncio.run(live())


async def test_a_line_of_the_journal_has_each_value_in_its_place():
    chain = Chain(mock("x"), runtime=runtime())
    call = chain.new_call(ASK, tenant="acme", user="eve", tags={"project": "p", "use_case": "u", "key": "k"})
    await (await chain(call)).full()
    (attempt,) = call.ledger.attempts
    attempt.started_at, attempt.ended_at, attempt.status = 10.0, 12.5, "ok"
    usage = Usage(11, 12, cached_input_tokens=3, cache_write_tokens=4, reasoning_tokens=5)
    line = spend_of(line_of("hold-1", call, attempt, usage, 77, True, digests=True))
    told = {name: getattr(line, name) for name in FIELDS}
    assert len(told.pop("prompt")) == 32
    assert told == {
        "id": "hold-1/1", "at": call.runtime.wall(), "nano": 77, "estimated": True, "call": call.id,
        "tenant": "acme", "user": "eve", "project": "p", "key": "k", "use_case": "u", "provider": "p",
        "model": "m", "status": "ok", "input_tokens": 11, "output_tokens": 12, "cached_input_tokens": 3,
        "cache_write_tokens": 4, "reasoning_tokens": 5, "asked_tokens": 20, "seconds": 2.5, "prefix": "",
        "request_id": "",
    }  # fmt: skip
    assert tuple(one.name for one in fields(Spend)) == FIELDS
    assert spend_of(values_of(line)) == line


async def test_what_an_inner_budget_refuses_costs_the_outer_one_nothing():
    outer = budget(Rule(usd=1), name="outer")
    inner = budget(Rule(usd="0.000001"), name="inner", priority=outer.priority + 1)
    provider = mock(default="fine")
    chain = Chain(provider, outer, inner, runtime=runtime())
    for _ in range(3):
        try:
            await chain.complete(ASK)
        except BudgetExceeded:
            continue
        raise AssertionError("there was no room")
    assert provider.requests == []
    for config in (outer, inner):
        assert await balance(chain, config) == (0, 0)
        assert await ledger_of(chain, config).holds() == []
        assert await ledger_of(chain, config).spends() == []


async def test_attempts_at_several_targets_are_charged_to_the_budget_of_each():
    config = budget(Rule(usd=1, per="provider"))
    other = mock(ServiceUnavailable("no"), default="fine", name="other")
    again = Chain(other, Retry(attempts=3, base=0.1))
    chain = Chain(mock(default=Overloaded("busy")), config, Fallback(again), runtime=runtime())
    await chain.complete(ASK)
    rows = await ledger_of(chain).spends()
    assert [row.provider for row in rows] == ["p", "other", "other"]
    for name in ("p", "other"):
        told = sum(row.nano or 0 for row in rows if row.provider == name)
        assert (told > 0) is (name == "other")
        assert await balance(chain, config, provider=name) == (told, 0)
    assert await ledger_of(chain).holds() == []


async def test_what_is_held_when_the_call_is_settled_already_ends_with_its_lease():
    config = budget(Rule(usd=1), lease=30.0)
    chain = Chain(mock("x"), config, runtime=runtime())
    desk = config.desk(chain.runtime)
    call = chain.new_call(ASK)
    purse = Purse(config, desk, call)
    first = await purse.admit(purse.guarded())
    assert first.holds == (purse._id,)
    await purse.settle()
    late = await purse.admit(purse.guarded())
    (mark,) = set(late.holds) - {purse._id}
    assert await desk.ledger.holds() == [mark]
    spent, held = await balance(chain, config)
    assert (spent, held > 0) == (0, True)
    await asyncio.sleep(100)  # of virtual time, in which what is held for a call would be renewed
    assert await desk.ledger.holds() == []
    spent, held = await balance(chain, config)
    assert (spent > 0, held) == (True, 0)  # as likely
    await purse.settle()
    assert (await balance(chain, config))[0] == spent
