"""What you test a chain, a middleware or a provider with; loaded on first use.

Names live in modules of their own, and pytest loads `llmpipe.testing.pytest_plugin` in every
project where llmpipe is installed, so this package imports none of them by itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmpipe.providers.mock import MockProvider as ScriptedProvider
    from llmpipe.providers.mock import Wait
    from llmpipe.testing.conform import CASES, LAWS, ConformError, Report, Violation, conform
    from llmpipe.testing.leaks import no_leaks
    from llmpipe.testing.loop import Deadlock, VirtualTimeLoop, run
    from llmpipe.testing.surroundings import NetworkUsed, no_network, seeded_runtime
    from llmpipe.testing.trace import Recording, assert_explain, recorded

__all__ = (
    "CASES",
    "ConformError",
    "Deadlock",
    "LAWS",
    "NetworkUsed",
    "Recording",
    "Report",
    "ScriptedProvider",
    "Violation",
    "VirtualTimeLoop",
    "Wait",
    "assert_explain",
    "conform",
    "no_leaks",
    "no_network",
    "recorded",
    "run",
    "seeded_runtime",
)

_HOMES = {
    "llmpipe.testing.conform": ("CASES", "ConformError", "LAWS", "Report", "Violation", "conform"),
    "llmpipe.testing.leaks": ("no_leaks",),
    "llmpipe.testing.loop": ("Deadlock", "VirtualTimeLoop", "run"),
    "llmpipe.testing.surroundings": ("NetworkUsed", "no_network", "seeded_runtime"),
    "llmpipe.testing.trace": ("Recording", "assert_explain", "recorded"),
    "llmpipe.providers.mock": ("Wait",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "ScriptedProvider":
        return import_module("llmpipe.providers.mock").MockProvider
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
