"""Where a task suspends: counting the places, and naming them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from llmpipe.testing.places import awaited_by, file_of

__all__ = ("place_of", "stepwise")

T = TypeVar("T")


async def stepwise(work: Coroutine[Any, Any, T], step: Callable[[Coroutine[Any, Any, T], Any], None]) -> T:
    """What `work` gives; `step` is called each time it suspends, with the work and what it waits for."""
    result: T = await _Steps(work, step)
    return result


class _Steps:
    """Runs a coroutine and calls `step` each time it suspends."""

    def __init__(
        self, work: Coroutine[Any, Any, T], step: Callable[[Coroutine[Any, Any, T], Any], None]
    ) -> None:
        self.work, self.step = work, step

    def __await__(self) -> Generator[Any, None, Any]:
        thrown: BaseException | None = None
        while True:
            try:
                waiting = self.work.send(None) if thrown is None else self.work.throw(thrown)
            except StopIteration as end:
                return end.value
            thrown = None
            self.step(self.work, waiting)
            try:
                yield waiting
            except BaseException as error:  # noqa: BLE001  handed to the coroutine
                thrown = error


def place_of(work: Any) -> str:
    """Where `work` waits: the innermost line that is neither ours nor asyncio's."""
    place = ""
    while work is not None:
        frame = getattr(work, "cr_frame", None) or getattr(work, "ag_frame", None)
        if frame is not None and not frame.f_globals.get("__name__", "").startswith(
            ("asyncio", "llmpipe.testing.")
        ):
            place = f"{file_of(frame)}:{frame.f_lineno} ({frame.f_code.co_qualname})"
        work = awaited_by(work)
    return place
