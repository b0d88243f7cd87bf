"""What every backend keeps to."""

from __future__ import annotations

import pytest

from llmpipe.testing.state import suites
from llmpipe_s3 import S3State

pytestmark = pytest.mark.real_time

globals().update(suites(S3State.offers))
