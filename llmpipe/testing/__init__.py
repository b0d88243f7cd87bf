"""What you test a chain, a middleware or a provider with; loaded on first use.

Names live in modules of their own, and pytest loads `llmpipe.testing.pytest_plugin` in every
project where llmpipe is installed, so this package imports none of them by itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmpipe.testing.loop import Deadlock, VirtualTimeLoop, run

__all__ = ("Deadlock", "VirtualTimeLoop", "run")

_HOME = {
    "Deadlock": "llmpipe.testing.loop",
    "VirtualTimeLoop": "llmpipe.testing.loop",
    "run": "llmpipe.testing.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
