"""A file of lines against the suite that every backend of state must pass."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from llmpipe.state import State, open_state
from llmpipe.state.files import FileState
from llmpipe.testing.state import OpenedStates, suites

pytestmark = pytest.mark.real_time

globals().update(suites(FileState.offers))


class FileHarness(OpenedStates[FileState]):
    """A file for each `open`; another State of the same process for each `reopen`."""

    settings = ""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._files = (directory / f"{number}.jsonl" for number in itertools.count())
        self._url = ""

    async def open(self) -> State:
        self._url = f"file://{next(self._files)}{self.settings}"
        return await self.reopen()

    async def reopen(self) -> State:
        state = open_state(self._url)
        assert isinstance(state, FileState)
        return self.keep(state)


class ReopeningHarness(FileHarness):
    """As a process that ends and starts again: the index is made anew of the file each time."""

    async def reopen(self) -> State:
        alive = self.opened[-1].engine.alive if self.opened else {}
        for state in self.opened:
            await state.aclose()
        made = await super().reopen()
        assert isinstance(made, FileState)
        made.engine.alive.update(
            {key: until for key, until in alive.items() if made.engine.alive is not alive}
        )
        return made


class RotatingHarness(ReopeningHarness):
    """A trail in many small files, read anew each time."""

    settings = "?rotate_mb=0.001&rotate=day"


@pytest.fixture(params=[FileHarness, ReopeningHarness, RotatingHarness])
async def harness(tmp_path, request):
    made = request.param(tmp_path)
    yield made
    await made.aclose()
