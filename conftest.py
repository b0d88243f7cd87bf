"""Plugins of the suite, and what is done once for all of it.

The first plugin is found by its entry point where llmpipe is installed, and named here for where it is not.
"""

from __future__ import annotations

import gc

pytest_plugins = ("llmpipe.testing.pytest_plugin", "pytester")


def pytest_collection_finish() -> None:
    """Leave the tests themselves out of every collection of garbage: there are more than twenty thousand.

    Tests of what is dropped collect hundreds of times, which took half a second each.
    """
    gc.collect()
    gc.freeze()
