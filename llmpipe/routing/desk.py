"""What a router keeps on a runtime: the health of its targets, which outlives it, and its own lanes."""

from __future__ import annotations

from asyncio import Task, get_running_loop, wait
from collections.abc import Sequence
from contextvars import Context
from functools import partial
from typing import Any

from llmpipe.middleware.breaker.board import Board
from llmpipe.routing.checks import Checks
from llmpipe.routing.failover import Budget
from llmpipe.routing.fit import Fit
from llmpipe.routing.health import Health, Troubled
from llmpipe.routing.lane import Lane
from llmpipe.routing.rules import HealthRules
from llmpipe.runtime import Runtime

__all__ = ("Desk", "Ward")


class Ward:
    """The health of targets by name, and what failovers have cost.

    A router's is ``runtime.state("router", router.name, Ward)``; routers of one name share it, so one
    that is built anew with other settings knows what its predecessor knew.
    """

    __slots__ = ("budget", "healths", "troubled")

    def __init__(self) -> None:
        self.healths: dict[str, Health] = {}
        self.troubled = Troubled()
        self.budget = Budget(0.0, 0)

    def health(self, name: str, rules: HealthRules, runtime: Runtime) -> Health:
        """That of the target called `name`, healthy if it is new."""
        health = self.healths.get(name)
        if health is None:
            health = self.healths[name] = Health(name, rules, runtime.random, self.troubled)
        elif health.rules is not rules:
            health.adopt(rules)
        return health


class Desk:
    """A router at work on one runtime."""

    __slots__ = (
        "_checks", "_names", "board", "budget", "checker", "fit", "lanes", "runtime", "troubled"
    )  # fmt: skip

    def __init__(
        self, lanes: Sequence[Lane], *, fit: Fit, ward: Ward, board: Board, checks: Checks, runtime: Runtime
    ) -> None:
        self.lanes = tuple(lanes)
        self.fit = fit
        self.budget = ward.budget
        self.troubled = ward.troubled
        self.board = board
        self.runtime = runtime
        self._checks = checks
        self.checker: Task[Any] | None = None
        self._names = frozenset(lane.name for lane in lanes)

    @property
    def disturbed(self) -> bool:
        """Whether one of its own targets is troubled, and not one of another router of the same name."""
        return not self._names.isdisjoint(self.troubled.names)

    @property
    def checks(self) -> bool:
        """Whether any target is to be checked."""
        return any(map(self._checks.applies, self.lanes))

    def begin_checks(self) -> None:
        """Check targets in the background, in a task of the runtime's; not where all has been found out."""
        ended = self.checker
        if ended is not None and not ended.cancelled() and ended.exception() is None:
            self.checker = None
            return
        # Not in the context of the call that happens to be the first: it outlives that.
        work = self._checks.run(self.lanes, self.runtime)
        self.checker = Context().run(partial(self.runtime.spawn, work, "checks of targets"))

    async def aclose(self) -> None:
        """End the checks; the next call begins them again."""
        checker = self.checker
        if checker is None or checker.done():
            return
        if checker.get_loop() is not get_running_loop():
            checker.get_loop().call_soon_threadsafe(checker.cancel)
            return
        checker.cancel()
        await wait((checker,))
