"""The memory backend keeps the contracts: the suite that every backend passes, under virtual time."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.state import State, open_state
from llmpipe.state.memory import MemoryState
from llmpipe.testing.state import suites


class MemoryHarness:
    """Memory has nothing to reopen: another that asks in the same process has the same State."""

    async def open(self) -> State:
        self._state = open_state("memory://")
        return self._state

    async def reopen(self) -> State:
        return self._state

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture
def harness() -> MemoryHarness:
    return MemoryHarness()


globals().update(suites(MemoryState.offers))
