"""The two roads through aiohttp, on which a provider must behave the same."""

from __future__ import annotations

import pytest

from llmpipe.providers.pool import Pool


@pytest.fixture(params=["short road", "long road"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Takes the test over both: by the inner parts of aiohttp, and by `ClientSession.request`."""
    if request.param == "long road":
        monkeypatch.setattr(Pool, "_is_genuine", lambda self: False)
    return str(request.param)
