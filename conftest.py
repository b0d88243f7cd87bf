"""Plugins of the suite, and what is done once for all of it.

The first plugin is found by its entry point where llmpipe is installed, and named here for where it is not.
"""

from __future__ import annotations

import gc
from itertools import count

pytest_plugins = ("llmpipe.testing.pytest_plugin", "pytester")


_tests = count(1)
_MANY = 200


def pytest_collection_finish() -> None:
    """Leave the tests themselves out of every collection of garbage: there are more than twenty thousand.

    Tests of what is dropped collect hundreds of times, which took half a second each.
    """
    _freeze()


def pytest_runtest_logfinish() -> None:
    """Leave out what has come since, too: reports, SDKs, schemas. In the end they took more than a second."""
    if next(_tests) % _MANY == 0:
        _freeze()


def _freeze() -> None:
    gc.collect()
    gc.freeze()
