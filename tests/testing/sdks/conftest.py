"""A simulator, and the model behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from llmpipe.testing.simulator import Simulator
from tests.testing.sdks.common import Model


@pytest.fixture
def model() -> Model:
    """The model that answers; it keeps what it was asked."""
    return Model()


@pytest.fixture
async def simulator(model: Model) -> AsyncIterator[Simulator]:
    """A provider of every dialect, in small pieces."""
    async with Simulator(answer=model, chunk_chars=6) as running:
        yield running
