"""SQLite against the suite that every backend of state must pass."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from llmpipe.state import State
from llmpipe.state.sqlite import SqliteState, open_sqlite
from llmpipe.testing.state import OpenedStates, suites

pytestmark = pytest.mark.real_time

globals().update(suites(SqliteState.offers))


class SqliteHarness(OpenedStates[SqliteState]):
    """A file for each `open`; another connection to it, as from another process, for each `reopen`."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._files = (directory / f"{number}.db" for number in itertools.count())
        self._url = ""

    async def open(self) -> State:
        self._url = f"sqlite:///{next(self._files)}"
        return await self.reopen()

    async def reopen(self) -> State:
        state = open_sqlite(self._url)
        assert isinstance(state, SqliteState)
        return self.keep(state)


@pytest.fixture
async def harness(tmp_path):
    made = SqliteHarness(tmp_path)
    yield made
    await made.aclose()
