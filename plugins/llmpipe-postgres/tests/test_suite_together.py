"""What every ledger keeps to, where each step is done by the function that does many."""

from __future__ import annotations

import pytest

import llmpipe_postgres.ledger
from llmpipe.testing.state import suites

pytestmark = [pytest.mark.real_time, pytest.mark.usefixtures("_always_together")]


@pytest.fixture
def _always_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llmpipe_postgres.ledger, "_FEW", -1)


globals().update(suites(frozenset({"ledger"})))
