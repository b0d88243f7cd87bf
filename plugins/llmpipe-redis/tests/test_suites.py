"""What every backend keeps to, kept by Redis."""

from __future__ import annotations

import pytest

from llmpipe.testing.state import suites
from llmpipe_redis import RedisState

pytestmark = pytest.mark.real_time

globals().update(suites(RedisState.offers))
