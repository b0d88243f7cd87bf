"""Plugins of the suite.

Ours is found by its entry point where llmpipe is installed, and named here for where it is not.
"""

pytest_plugins = ("llmpipe.testing.pytest_plugin", "pytester")
