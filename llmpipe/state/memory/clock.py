"""The time of what is kept in this process: monotonic, and virtual where the loop's is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ("Clock", "loop_time")

Clock = Callable[[], float]
"""Seconds since any moment; never goes back."""


def loop_time() -> float:
    """Monotonic seconds of the running event loop, so that virtual time drives leases too."""
    return asyncio.get_running_loop().time()
