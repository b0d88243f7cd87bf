"""What the demo promises, checked against both sides' books."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from attrs import frozen

from llmpipe.cli.demo.scene import CALLS_PER_SECOND, OUTAGE, Record, Scene
from llmpipe.errors import StreamBroken
from llmpipe.pipeline.call import Attempt, Note
from llmpipe.types import Completion

__all__ = ("Promise", "charged_nano", "check", "notes")


@frozen
class Promise:
    """One thing that must hold, whether it did, and what was seen."""

    text: str
    kept: bool
    seen: str


def notes(scene: Scene, kind: str) -> list[tuple[Record, Note]]:
    """Every note of that kind, with its call."""
    return [(r, note) for r in scene.records for note in r.call.ledger.notes if note.kind == kind]


def attempts(scene: Scene) -> list[Attempt]:
    """Every attempt of every call."""
    return [attempt for record in scene.records for attempt in record.call.ledger.attempts]


def charged_nano(scene: Scene, *providers: str) -> int:
    """Our own ledger for these providers, in nano-USD."""
    mine = [a for a in attempts(scene) if a.provider in providers and a.charge is not None]
    return sum(a.charge.total_nano for a in mine if a.charge is not None)


def check(scene: Scene) -> list[Promise]:
    """All promises."""
    return [found for rule in _RULES for found in rule(scene)]


def _every_call_ends(scene: Scene) -> Iterator[Promise]:
    ok = sum(r.outcome == "ok" for r in scene.records)
    ended = sum(r.outcome != "open" for r in scene.records)
    yield Promise(
        "every call ends in one answer or one typed error",
        ended == len(scene.records),
        f"{ok} answers, {ended - ok} errors",
    )


def _no_full_call_fails(scene: Scene) -> Iterator[Promise]:
    full = [r for r in scene.records if not r.errand.request.stream]
    lost = [r for r in full if r.error is not None]
    yield Promise(
        "no full call fails: what breaks is tried again or elsewhere",
        not lost,
        f"{len(full)} full calls, {len(lost)} lost"
        + "".join(f", {r.errand.kind}: {r.outcome}" for r in lost[:3]),
    )


def _broken_streams(scene: Scene) -> Iterator[Promise]:
    streams = [r for r in scene.records if r.errand.request.stream]
    failed = [r for r in streams if r.error is not None]
    typed = [
        r for r in failed if isinstance(r.error, StreamBroken) and isinstance(r.error.partial, Completion)
    ]
    yield Promise(
        "a stream that breaks after its first word ends in StreamBroken with what had come",
        len(typed) == len(failed),
        f"{len(failed)} of {len(streams)} streams",
    )
    cut = [r for r in streams if r.outcome == "ok" and r.finish not in ("stop", "tool_calls")]
    yield Promise("no cut stream passes for a whole one", not cut, f"{len(cut)} did")


def _bills_agree(scene: Scene) -> Iterator[Promise]:
    for name, book, providers in (
        ("alpha", scene.alpha.book, ("alpha",)),
        ("beta", scene.beta.book, ("beta", "beta-old-key")),
    ):
        ours = charged_nano(scene, *providers)
        yield Promise(
            f"our ledger equals the bill of {name}, to the nano-dollar",
            ours == book.billed_nano,
            f"${ours / 1e9:.9f} and ${book.billed_nano / 1e9:.9f}",
        )


def _privacy(scene: Scene) -> Iterator[Promise]:
    private = {value for r in scene.records for value in r.errand.private}
    leaked = sum(any(value in text for text in scene.seen) for value in private)
    yield Promise(
        "no personal data reaches a provider", not leaked, f"{len(private)} values, {leaked} leaked"
    )
    whole = [r for r in scene.records if r.errand.kind == "private" and r.outcome == "ok"]
    restored = sum(all(value in r.text for value in r.errand.private) for r in whole)
    yield Promise(
        "what was masked is back in the answer", restored == len(whole), f"{restored} of {len(whole)} answers"
    )


def _outage(scene: Scene) -> Iterator[Promise]:
    opened = notes(scene, "breaker.opened")
    closed = notes(scene, "breaker.closed")
    if scene.seconds < OUTAGE[1] + 3:
        return  # too short a run to see it through
    yield Promise(
        "the breaker opens in the outage, and closes after it",
        bool(opened and closed),
        f"opened {len(opened)}, closed {len(closed)} times",
    )
    refused = scene.alpha.book.statuses[503]
    # On a busy machine a few dozen calls may be under way when it begins to fail.
    calls = CALLS_PER_SECOND * (OUTAGE[1] - OUTAGE[0])
    yield Promise(
        "the failing provider is left in peace",
        refused <= calls / 3,
        f"{refused} requests met a 503, of some {calls:.0f} calls",
    )


def _shared(scene: Scene) -> Iterator[Promise]:
    repeated = [r for r in scene.records if r.errand.kind == "repeated" and r.outcome == "ok"]
    asked = {r.errand.request.messages[-1].text for r in repeated}
    sent = [r for r in repeated if r.call.ledger.attempts]
    yield Promise(
        "repeated questions are answered from the cache, or share a reply under way",
        len(sent) <= len(asked) + 3,
        f"{len(repeated)} calls, {len(asked)} questions, {len(sent)} sent",
    )


def _nothing_left(scene: Scene) -> Iterator[Promise]:
    open_attempts = sum(a.status == "open" for a in attempts(scene))
    left = scene.tasks_left + scene.connections_left + open_attempts
    yield Promise(
        "nothing is left behind",
        left == 0,
        f"{scene.tasks_left} tasks, {scene.connections_left} connections, {open_attempts} open attempts",
    )


_RULES: tuple[Callable[[Scene], Iterator[Promise]], ...] = (
    _every_call_ends,
    _no_full_call_fails,
    _broken_streams,
    _outage,
    _shared,
    _privacy,
    _bills_agree,
    _nothing_left,
)
