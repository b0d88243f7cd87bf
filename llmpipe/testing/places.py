"""From a coroutine to the line at which it waits, as a reader wants to see it."""

from __future__ import annotations

import gc
import os
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any

__all__ = ("awaited_by", "file_of")

# What stands between two frames, and names the inner one to nobody but the garbage collector.
_NAMELESS = ("anext_awaitable", "async_generator_asend", "async_generator_athrow", "coroutine_wrapper")


def awaited_by(work: Any) -> Any:
    """What `work`, a coroutine or an async generator, waits for; None where that is not known."""
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        if (inner := getattr(work, name, None)) is not None:
            return inner
    if type(work).__name__ not in _NAMELESS:
        return None
    kinds = (AsyncGeneratorType, CoroutineType)
    return next((one for one in gc.get_referents(work) if isinstance(one, kinds)), None)


def file_of(frame: FrameType) -> str:
    """Its file as seen from where the program runs; of a package that lies elsewhere, the module's name."""
    name = frame.f_code.co_filename
    try:
        relative = os.path.relpath(name)
    except ValueError:  # another drive
        relative = os.pardir
    if relative.startswith(os.pardir) and (module := frame.f_globals.get("__name__")):
        return str(module)
    return relative
