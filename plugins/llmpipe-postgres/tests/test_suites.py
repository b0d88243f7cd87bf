"""What every backend keeps to."""

from __future__ import annotations

import pytest

from llmpipe.testing.state import suites
from llmpipe_postgres import PostgresState

pytestmark = pytest.mark.real_time

globals().update(suites(PostgresState.offers))
