# ruff: noqa: D102  a test's name is its sentence
"""What every backend keeps to, whichever kinds it offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmpipe.errors import ConfigError
from llmpipe.state import KINDS, State
from llmpipe.testing.state.harness import Harness

__all__ = ("OpenedSuite",)

_ASK: dict[str, Callable[[State], Any]] = {
    "audit": lambda state: state.audit("n"),
    "breakers": lambda state: state.breakers("n"),
    "cache": lambda state: state.cache("n", max_entries=10, max_bytes=10_000),
    "ledger": lambda state: state.ledger("n"),
    "limits": lambda state: state.limits("n"),
    "providers": lambda state: state.providers("n"),
    "queue": lambda state: state.queue("n"),
    "vault": lambda state: state.vault("n"),
}
_TRY: dict[str, Callable[[Any], Any]] = {
    "audit": lambda thing: thing.writers(),
    "breakers": lambda thing: thing.read(),
    "cache": lambda thing: thing.get(b"k"),
    "ledger": lambda thing: thing.balances([("a", 0)]),
    "limits": lambda thing: thing.levels([]),
    "providers": lambda thing: thing.rows(),
    "queue": lambda thing: thing.counts(),
    "vault": lambda thing: thing.keys(),
}


class OpenedSuite:
    """The backend itself: what it offers, what it refuses, and closing."""

    pytestmark = pytest.mark.asyncio

    async def test_it_is_a_state_that_says_what_it_offers(self, harness: Harness) -> None:
        state = await harness.open()
        assert isinstance(state, State)
        assert state.offers
        assert state.offers <= set(KINDS)

    async def test_what_it_offers_it_gives_and_what_it_does_not_it_refuses_by_name(
        self, harness: Harness
    ) -> None:
        state = await harness.open()
        for kind, ask in _ASK.items():
            if kind in state.offers:
                await _TRY[kind](ask(state))
            else:
                with pytest.raises(ConfigError, match=kind):
                    ask(state)

    async def test_it_can_be_checked_before_and_after_it_is_used(self, harness: Harness) -> None:
        state = await harness.open()
        await state.check()
        for kind in sorted(state.offers):
            await _TRY[kind](_ASK[kind](state))
        await state.check()

    async def test_closing_twice_is_closing_once_and_whoever_asks_again_is_answered(
        self, harness: Harness
    ) -> None:
        state = await harness.open()
        things = {kind: _ASK[kind](state) for kind in sorted(state.offers)}
        for kind, thing in things.items():
            await _TRY[kind](thing)
        for _ in range(2):
            await state.aclose()
        for kind, thing in things.items():
            await _TRY[kind](thing)
        await state.aclose()

    async def test_closing_what_was_never_used_does_nothing(self, harness: Harness) -> None:
        await (await harness.open()).aclose()
