"""Several backends as one keep every contract, and each kind lies where it was put."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.state import KINDS, Backend, Draw, Item, State, open_state
from llmpipe.state.combined import combine
from llmpipe.testing.state import suites


class CombinedHarness:
    async def open(self) -> State:
        apart = open_state("memory://")
        self._state = combine(
            open_state("memory://"), cache=apart, queue=apart, audit=open_state("memory://")
        )
        return self._state

    async def reopen(self) -> State:
        return self._state

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture
def harness() -> CombinedHarness:
    return CombinedHarness()


globals().update(
    suites(frozenset({"cache", "queue", "vault"}))
)  # three of each sort; the others go the same way


class Part(Backend):
    """Keeps a ledger, and counts how it is treated."""

    scheme = "part"
    offers = frozenset({"ledger"})

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.told: list[str] = []
        self.inner = open_state("memory://")

    def ledger(self, name: str) -> Any:
        return self.inner.ledger(name)

    async def check(self) -> None:
        await self.tell("check")

    async def aclose(self) -> None:
        await self.tell("close")

    async def tell(self, what: str) -> None:
        self.told.append(what)
        if self.fails is not None:
            raise self.fails


async def test_each_kind_lies_where_it_was_put_and_all_else_in_the_first():
    first, ledgers, queues = (open_state("memory://") for _ in range(3))
    both = combine(first, ledger=ledgers, queue=queues)
    assert isinstance(both, State)
    await both.ledger("l").settle("h", [Draw("a", 0, 5)])
    await both.queue("q", max_items=1).put(Item(id="i", payload=b"x"))
    await both.limits("l").reset(["k"])
    (spent,) = await ledgers.ledger("l").balances([("a", 0)])
    assert spent.spent == 5
    assert await queues.queue("q").status("i") is not None
    (nothing,) = await first.ledger("l").balances([("a", 0)])
    assert nothing.spent == 0
    assert both.limits("l") is first.limits("l")
    for kind in ("audit", "breakers", "providers", "vault"):
        assert getattr(both, kind)("n") is getattr(first, kind)("n")


def test_it_offers_what_its_parts_offer_and_refuses_the_rest_by_name():
    both = combine(Part(), queue=open_state("memory://"))
    assert both.offers == {"ledger", "queue"}
    assert combine(open_state("memory://"), ledger=Part()).offers == set(KINDS)
    with pytest.raises(ConfigError, match="part:// keeps no vault"):
        both.vault("v")
    assert repr(both) == "<Combined: queue apart>"


def test_a_kind_that_there_is_not_or_that_its_store_does_not_keep_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"no 'caches'; known: .*cache"):
        combine(Part(), caches=open_state("memory://"))
    with pytest.raises(ConfigError, match=r"keeps only ledger; queue can be kept in .*sqlite"):
        combine(open_state("memory://"), queue=Part())


async def test_parts_are_checked_and_closed_once_each_and_all_though_one_fails():
    wrong, well = Part(StoreUnavailable("out of reach")), Part()
    both = combine(wrong, ledger=well)
    with pytest.raises(StoreUnavailable, match="out of reach"):
        await both.check()
    with pytest.raises(StoreUnavailable, match="out of reach"):
        await both.aclose()
    assert wrong.told == well.told == ["check", "close"]
    same = Part()
    await combine(same, ledger=same).check()
    assert same.told == ["check"]
