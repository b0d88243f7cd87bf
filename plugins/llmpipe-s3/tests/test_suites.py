"""What every backend keeps to."""

from __future__ import annotations

import os

import pytest

from llmpipe.testing.state import suites
from llmpipe_s3 import S3State

pytestmark = pytest.mark.real_time

globals().update(suites(S3State.offers))


@pytest.fixture(autouse=True)
def _short(request: pytest.FixtureRequest) -> None:
    """The store of the tests takes twenty milliseconds for each request, and a life has hundreds."""
    life = request.node.name.startswith("test_a_random_life")
    if life and request.node.callspec.id != "0" and not os.environ.get("LLMPIPE_LONG"):
        pytest.skip("one life is enough, but for LLMPIPE_LONG=1")
