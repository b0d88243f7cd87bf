"""What happened in the routed scene, in tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from llmpipe.cli.demo.report import table
from llmpipe.cli.demo.routed.promises import answered_by, charged_nano, notes, ramp
from llmpipe.cli.demo.routed.scene import CALLERS, Routed
from llmpipe.middleware.waterfall import render_waterfall
from llmpipe.pipeline.call import Call

__all__ = ("show",)

_WHAT_HAPPENS = """\
Callers speak five dialects. Half of the replies are streams, which are held
until they are whole. The port of anthropic is closed for a while, one of
gemini's two keys is revoked, and in the end every sixth stream of the three
others breaks half-way.
"""


def show(console: Console, scene: Routed) -> None:
    """Print the report."""
    took = f"{len(scene.records)} calls and {len(scene.loops)} tool loops in {scene.seconds:.0f} s"
    console.print(f"\n[bold]{took}[/bold] through one router over four providers\n")
    console.print(_WHAT_HAPPENS, soft_wrap=True)
    console.print(_phases(scene))
    _way_back(console, scene)
    console.print(_callers(scene))
    console.print(_on_the_way(scene))
    console.print(_money(scene))
    _tool_loops(console, scene)
    _waterfall(console, scene)


def _phases(scene: Routed) -> Table:
    made = table("requests in the providers' own books", "while", "calls", *scene.places, "lost")
    for phase in scene.phases.values():
        lost = sum(r.outcome != "ok" for r in phase.records)
        counts = [str(phase.requests[name]) for name in scene.places]
        made.add_row(phase.title, str(len(phase.records)), *counts, str(lost))
    return made


def _way_back(console: Console, scene: Routed) -> None:
    for change in scene.router.changes():
        console.print(
            f"  {change.at - scene.begun:4.1f} s  {change.target} {change.kind}: {change.reason}",
            markup=False,
            soft_wrap=True,
        )
    shares = [f"{mine / max(1, every):.0%}" for mine, every in ramp(scene)]
    if shares:
        console.print(f"  its share of all requests, in each quarter of that time: {', '.join(shares)}")
    console.print()


def _callers(scene: Routed) -> Table:
    made = table("whose calls were answered by whom", "callers speak", *scene.places)
    for dialect in CALLERS:
        made.add_row(dialect, *(str(answered_by(scene, dialect, name)) for name in scene.places))
    return made


def _on_the_way(scene: Routed) -> Table:
    made = table("what happened on the way", "event", "times")
    made.add_row("calls, each step of a tool loop one", str(len(scene.calls)))
    made.add_row("attempts", str(len(scene.attempts)))
    for kind, text in (
        ("router.failed_over", "asked another provider after a failure"),
        ("commit.broken", "streams that broke before they were handed on"),
        ("credential.refused", "keys refused"),
        ("router.down", "a provider put down"),
        ("router.readmitted", "a provider readmitted"),
        ("router.gave_up", "nobody left to ask"),
    ):
        made.add_row(text, str(len(notes(scene, kind))))
    return made


def _money(scene: Routed) -> Table:
    made = table("money", "provider", "requests", "our ledger", "its own bill")
    for name, place in scene.places.items():
        billed = place.simulator.book.billed_nano
        ours = charged_nano(scene, name)
        made.add_row(name, str(len(place.entries)), f"${ours / 1e9:.9f}", f"${billed / 1e9:.9f}")
    return made


def _tool_loops(console: Console, scene: Routed) -> None:
    console.print("[bold]tool loops[/bold]: who answered each step, and the end of it")
    for loop in scene.loops:
        way = " → ".join(step.completion.provider for step in loop.steps)
        console.print(f"  {way}: {loop.text}", markup=False, soft_wrap=True)
    for error in scene.loop_errors:
        console.print(f"  {type(error).__name__}: {error}", markup=False, soft_wrap=True)
    console.print()


def _waterfall(console: Console, scene: Routed) -> None:
    """A call whose stream broke, and which was answered all the same."""
    told = [r for r in scene.phases["streams"].records if r.outcome == "ok" and _broke(r.call)]
    if not told:
        return
    best = max(told, key=lambda r: len(r.call.ledger.attempts))
    console.print(
        f"[bold]a stream that broke half-way[/bold] (call {best.errand.number}; its reader saw none of it)"
    )
    width = min(100, console.width)
    console.print(render_waterfall(best.call, width=width), markup=False, soft_wrap=True)
    console.print()


def _broke(call: Call) -> bool:
    return any(note.kind == "commit.broken" for note in call.ledger.notes)
