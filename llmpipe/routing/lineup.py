"""Who stands for choice at a moment: who is ready, who comes after them, and who is out."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from llmpipe.errors import CircuitOpen
from llmpipe.middleware.breaker.board import Board
from llmpipe.routing.lane import Lane, tell

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call

__all__ = ("Lineup", "Out", "line_up", "refusal")


class Out(NamedTuple):
    """A target that is not to be asked for `wait` seconds."""

    wait: float
    lane: Lane
    reason: str


class Lineup(NamedTuple):
    """Targets by how they stand.

    The strategy chooses among `ready`. Those that are `held` back come after them, the best first, then
    those that are `resting`, and never those that are `out`.
    """

    ready: list[Lane]
    held: list[Lane]
    resting: list[Lane]
    out: list[Out]

    @property
    def later(self) -> list[Lane]:
        """Those that come after the ready ones, in order."""
        return self.held + self.resting

    def choice(self, now: float) -> list[Lane]:
        """Those to choose among: the ready ones, or the best of the others. Empty where all are out.

        Targets that came back together carry what comes together, lest all of it fall on one.
        """
        if self.ready or not self.held:
            return self.ready or self.resting[:1]
        best = self.held[0].health
        if best.state != "returning":
            return self.held[:1]
        back = [(lane.health.share(now), lane) for lane in self.held if lane.health.state == "returning"]
        most = max(share for share, _ in back)
        return [lane for share, lane in back if share == most]

    def passed(self) -> tuple[tuple[str, str], ...]:
        """Who does not stand for choice, and why."""
        late = tuple((lane.name, lane.health.rests_because or lane.health.state) for lane in self.later)
        return late + tuple((out.lane.name, out.reason) for out in self.out)


def line_up(call: Call, lanes: Sequence[Lane], board: Board, now: float) -> Lineup:
    """How `lanes` stand for `call`.

    A degraded target, and one on its way back, are ready for a share of the calls, drawn, and come
    later for the others, those with the best score first. Those that rest come last, those that rest
    shortest first. Those that are down, or whose circuit is open, are out.
    """
    ready: list[Lane] = []
    held: list[Lane] = []
    resting: list[Lane] = []
    out: list[Out] = []
    for lane in lanes:
        health = lane.health
        wait = 0.0
        if board.troubled or health.by_circuit:
            wait, change = lane.circuit(call, board, now)
            tell(call, change)
        tell(call, health.look(now))
        if wait or health.state == "down":
            reason = health.reason if health.state == "down" else "its circuit is open"
            out.append(Out(max(wait, health.wait(now)), lane, reason))
        elif health.rests_until > now:
            resting.append(lane)
        elif health.state == "healthy" or call.runtime.random.random() < health.share(now):
            ready.append(lane)
        else:
            held.append(lane)
    held.sort(key=lambda lane: -lane.health.score(now))
    resting.sort(key=lambda lane: lane.health.rests_until)
    return Lineup(ready, held, resting, out)


def refusal(router: str, out: Sequence[Out]) -> CircuitOpen:
    """The error for a call that nobody is left for."""
    wait = min(one.wait for one in out)
    told = "; ".join(f"{one.lane.name}: {one.reason}" for one in out)
    when = "" if wait == inf else f"; the first is tried again in {wait:.3g} s"
    what = "the only target is down" if len(out) == 1 else f"all {len(out)} targets are down"
    return CircuitOpen(
        f"{what}{when} ({told})",
        provider=router,
        retry_after=None if wait == inf else wait,
        phase="admit",
        metadata={
            "router": [
                {"target": one.lane.name, "type": "NOT_ASKED", "status": None, "message": one.reason}
                for one in out
            ]
        },
    )
