"""How much there is to do, and which priorities are refused for it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmpipe.runtime import Runtime

__all__ = ("Load", "oldest_wait")

_EVERY = 0.1  # seconds between two looks at what takes longer to find out


class Load:
    """The load of one runtime.

    Attributes:
        level: the load as of the latest look; 1 is where ordinary calls are refused.
        in_flight: calls let in that are not over.
        shedding: the priorities named in `levels` that are refused.
        lowest: the load from which somebody is refused.
    """

    __slots__ = (
        "_asked_at", "_broken", "_others", "_priorities", "in_flight", "level", "levels", "lowest",
        "shedding",
    )  # fmt: skip

    def __init__(self) -> None:
        self.level = 0.0
        self.in_flight = 0
        self.shedding: set[int] = set()
        self.levels: tuple[tuple[int, float], ...] = ()
        self.lowest = inf
        self._priorities: list[int] = []
        self._others: dict[str, float] = {}
        self._asked_at = -inf
        self._broken: set[str] = set()

    def adopt(self, levels: tuple[tuple[int, float], ...]) -> None:
        """Go by `levels`; what is refused is found out anew."""
        self.levels = levels
        self.lowest = levels[0][1]
        self.shedding.clear()
        self._priorities = [priority for priority, _ in levels]
        self._asked_at = -inf

    def refuses(self, priority: int, calm: float) -> bool:
        """Whether calls of `priority` are refused at this level."""
        self.settle(calm)
        place = max(0, bisect_right(self._priorities, priority) - 1)
        return self._priorities[place] in self.shedding

    def settle(self, calm: float) -> None:
        """Refuse what this level is too high for, and no more what it is well below the threshold of."""
        for priority, threshold in self.levels:
            if self.level >= threshold:
                self.shedding.add(priority)
            elif self.level < threshold * calm:
                self.shedding.discard(priority)

    def others(
        self,
        runtime: Runtime,
        queue_age: float | None,
        signals: Mapping[str, Callable[[Runtime], float]],
    ) -> dict[str, float]:
        """The loads of what is not looked at for every call."""
        now = runtime.now()
        if not 0.0 <= now - self._asked_at < _EVERY:  # below 0: the runtime is on another loop
            self._asked_at = now
            self._others = {name: self._ask(name, signal, runtime) for name, signal in signals.items()}
            if queue_age is not None:
                self._others["queue_age"] = oldest_wait(runtime) / queue_age
        return self._others

    def _ask(self, name: str, signal: Callable[[Runtime], float], runtime: Runtime) -> float:
        try:
            load = float(signal(runtime))
        except Exception as error:  # noqa: BLE001  a probe that is broken must not take the service with it
            if name not in self._broken:  # told once, not ten times a second
                self._broken.add(name)
                runtime.report(f"the load signal {name!r} failed, and counts as 0", error)
            return 0.0
        self._broken.discard(name)
        return load


def oldest_wait(runtime: Runtime) -> float:
    """Seconds the call has waited that has waited longest in any queue of `runtime`; 0 if none waits."""
    since = [
        gate.queue.oldest_since
        for gates in runtime.states("rate_limit").values()
        for gate in gates.values()
        if gate.queue
    ]
    return runtime.now() - min(since) if since else 0.0
