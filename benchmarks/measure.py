"""How a figure is taken: CPU time, interleaved with its floor, medians of many short rounds."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable

from attrs import frozen

__all__ = ("Figure", "compare", "cost")

Work = Callable[[int], Awaitable[None]]
"""Does the thing so many times."""


@frozen
class Figure:
    """One row of the report.

    `value` is in `unit`: ``"x"`` a ratio of CPU time to the floor, ``"us"`` CPU microseconds a call,
    both the median over rounds with its quartiles; `target` is what DESIGN promises (None: reported
    only), met when `value` is at most that.
    """

    name: str
    value: float
    unit: str
    target: float | None
    low: float
    high: float
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.value <= self.target


async def _cpu(work: Work, times: int) -> float:
    """CPU seconds of this process for one go."""
    gc.collect()
    start = time.process_time()
    await work(times)
    return (time.process_time() - start) / times


async def compare(
    name: str, subject: Work, floor: Work, *, times: int, rounds: int, target: float | None
) -> Figure:
    """The ratio of CPU time, subject to floor, round by round and turn about."""
    await subject(times // 4 + 1)
    await floor(times // 4 + 1)
    ratios, ours, theirs = [], [], []
    for turn in range(rounds):
        first, second = (subject, floor) if turn % 2 else (floor, subject)
        one, two = await _cpu(first, times), await _cpu(second, times)
        mine, bare = (one, two) if turn % 2 else (two, one)
        ours.append(mine)
        theirs.append(bare)
        ratios.append(mine / bare)
    low, middle, high = statistics.quantiles(ratios, n=4)
    detail = f"{statistics.median(ours) * 1e6:.1f} us against {statistics.median(theirs) * 1e6:.1f} us"
    return Figure(name, middle, "x", target, low, high, detail)


async def cost(name: str, work: Work, *, times: int, rounds: int, target: float | None) -> Figure:
    """CPU microseconds of one go."""
    await work(times // 4 + 1)
    seconds = [await _cpu(work, times) * 1e6 for _ in range(rounds)]
    low, middle, high = statistics.quantiles(seconds, n=4)
    return Figure(name, middle, "us", target, low, high)
