"""What happened, in tables, and whether the promises held."""

from __future__ import annotations

import statistics
from asyncio import CancelledError
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from llmpipe.cli.demo.promises import Promise, attempts, charged_nano, notes
from llmpipe.cli.demo.scene import Record, Scene
from llmpipe.middleware.waterfall import render_waterfall
from llmpipe.pipeline.call import Attempt

__all__ = ("added_seconds", "show", "table", "verdict")


def show(console: Console, scene: Scene) -> None:
    """Print the report."""
    took = f"{len(scene.records)} calls in {scene.seconds:.0f} s"
    console.print(f"\n[bold]{took}[/bold] through one chain over two providers that misbehave\n")
    console.print(_outcomes(scene))
    console.print(_on_the_way(scene))
    console.print(_money(scene))
    _added(console, scene)
    _waterfall(console, scene)


def verdict(console: Console, promises: Mapping[str, Sequence[Promise]]) -> int:
    """Print the promises of each scene, and whether they were kept; 1 if one was broken."""
    for scene, found in promises.items():
        made = Table(title=f"promises of {scene}", title_justify="left", show_header=False, box=None)
        for promise in found:
            mark = "[green]kept[/green]" if promise.kept else "[bold red]BROKEN[/bold red]"
            made.add_row(mark, promise.text, f"[dim]{promise.seen}[/dim]")
        console.print(made)
    count = sum(map(len, promises.values()))
    broken = sum(not promise.kept for found in promises.values() for promise in found)
    if broken:
        console.print(f"[bold red]{broken} of {count} promises broken[/bold red]")
    else:
        console.print(f"[bold green]all {count} promises kept[/bold green]")
    return int(broken > 0)


def table(title: str, *columns: str) -> Table:
    """An empty table whose first column is text, and the others figures."""
    made = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        made.add_column(column, justify="left" if position == 0 else "right")
    return made


def _outcomes(scene: Scene) -> Table:
    made = table(
        "how the calls ended",
        "kind",
        "calls",
        "streamed",
        "answered",
        "broken after the first word",
        "other errors",
    )
    for kind in sorted({r.errand.kind for r in scene.records}):
        mine = [r for r in scene.records if r.errand.kind == kind]
        ends = Counter(r.outcome for r in mine)
        streamed = sum(r.errand.request.stream for r in mine)
        broken = ends["StreamBroken"]
        made.add_row(
            kind,
            str(len(mine)),
            str(streamed),
            str(ends["ok"]),
            str(broken),
            str(len(mine) - ends["ok"] - broken),
        )
    return made


def _on_the_way(scene: Scene) -> Table:
    made = table("what happened on the way", "event", "times", "")
    errors = Counter(f"{a.provider}: {_ended(a)}" for a in attempts(scene) if a.error is not None)
    made.add_row("attempts", str(len(attempts(scene))), f"for {len(scene.records)} calls")
    for text, times in errors.most_common():
        made.add_row(f"  failed, {text}", str(times), "")
    waits = [float(note.detail["seconds"]) for _, note in notes(scene, "retry.wait")]
    made.add_row("waits before a retry", str(len(waits)), f"{sum(waits):.1f} s together")
    for kind, text in (
        ("fallback.switched", "fallbacks to another target"),
        ("fallback.skipped", "targets skipped: circuit open, or resting"),
        ("breaker.opened", "breaker opened"),
        ("breaker.half_open", "breaker let a probe through"),
        ("breaker.closed", "breaker closed"),
        ("cache.hit", "answered from the cache"),
        ("coalesce.joined", "shared a reply under way"),
        ("redact.request", "requests with personal data masked"),
    ):
        made.add_row(text, str(len(notes(scene, kind))), "")
    return made


def _ended(attempt: Attempt) -> str:
    """How a failed attempt ended. No caller of the demo hangs up: the timeouts of the chain cancel."""
    if isinstance(attempt.error, CancelledError):
        return "given up at a timeout"
    return type(attempt.error).__name__


def _money(scene: Scene) -> Table:
    made = table("money", "provider", "requests", "our ledger", "its own bill")
    for name, book, providers in (
        ("alpha", scene.alpha.book, ("alpha",)),
        ("beta", scene.beta.book, ("beta", "beta-old-key")),
    ):
        ours = charged_nano(scene, *providers)
        made.add_row(name, str(len(book.entries)), f"${ours / 1e9:.9f}", f"${book.billed_nano / 1e9:.9f}")
    saved = sum(note.detail.get("saved") or 0 for _, note in notes(scene, "cache.hit"))
    made.add_row("saved by the cache", "", f"${saved / 1e9:.9f}", "")
    return made


def added_seconds(record: Record) -> float:
    """Time of a call that no attempt was under way and nobody waited on purpose: what the chain adds."""
    spans = [(a.started_at, a.ended_at or record.ended_at) for a in record.call.ledger.attempts]
    for note in record.call.ledger.notes:
        if note.kind in ("retry.wait", "rate_limit.wait"):
            seconds = float(note.detail["seconds"])
            spans += [(note.at - seconds, note.at), (note.at, note.at + seconds)]
        elif note.kind == "coalesce.joined":
            return 0.0
    return record.ended_at - record.started_at - _covered(spans, record.started_at, record.ended_at)


def _covered(spans: Iterable[tuple[float, float]], start: float, end: float) -> float:
    covered, at = 0.0, start
    for low, high in sorted(spans):
        low, high = max(low, at), min(high, end)
        if high > low:
            covered += high - low
            at = high
    return covered


def _added(console: Console, scene: Scene) -> None:
    added = [added_seconds(r) * 1e3 for r in scene.records if r.call.ledger.attempts]
    if len(added) < 2:
        return
    cuts = statistics.quantiles(added, n=100)
    console.print(
        f"latency the chain added, without attempts and deliberate waits: "
        f"p50 {cuts[49]:.2f} ms, p95 {cuts[94]:.2f} ms, p99 {cuts[98]:.2f} ms\n"
    )


def _waterfall(console: Console, scene: Scene) -> None:
    """The call with most to tell: several attempts over several targets, and answered."""
    answered = [r for r in scene.records if r.outcome == "ok"]
    if not answered:
        return
    best = max(
        answered,
        key=lambda r: (len({a.provider for a in r.call.ledger.attempts}), len(r.call.ledger.attempts)),
    )
    console.print(f"[bold]one call with a story[/bold] (number {best.errand.number}, {best.errand.kind})")
    width = min(100, console.width)
    console.print(render_waterfall(best.call, width=width), markup=False, soft_wrap=True)
    console.print()
