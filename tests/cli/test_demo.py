"""The demo: its promises are kept, and each would be told to be broken if it were."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

pytest.importorskip("rich")

from rich.console import Console

from llmpipe.cli import main
from llmpipe.cli.demo import report
from llmpipe.cli.demo.promises import Promise
from llmpipe.cli.demo.routed import report as routed_report
from llmpipe.cli.demo.routed.promises import check
from llmpipe.cli.demo.routed.run import run_routed
from llmpipe.cli.demo.routed.scene import Routed

ROOT = Path(__file__).parents[2]


def test_the_scene_of_faults_keeps_its_promises_and_counts_what_it_shows(capsys):
    assert main(["demo", "--scene", "faults", "--calls", "60"]) == 0
    out = capsys.readouterr().out
    counts = dict(re.findall(r"│ +([a-z:, ]+?) +│ +(\d+) │", out))
    private = re.search(r"private +│ +(\d+)", out)
    assert private
    assert int(private[1]) > 0
    # Repetitions aside, for they have no personal data in them, each of these was masked once.
    assert counts["requests with personal data masked"] == private[1]
    assert "promises kept" in out


def test_every_kind_of_note_that_the_demo_counts_is_one_that_exists():
    """A renamed note would be counted as 0 times, which looks like good news."""
    source = "".join(path.read_text() for path in (ROOT / "llmpipe/cli/demo").rglob("*.py"))
    documented = "".join(
        path.read_text()
        for part in ("middleware", "routing")
        for path in (ROOT / "llmpipe" / part).rglob("*.py")
    )
    concerns = "retry|fallback|breaker|cache|coalesce|redact|rate_limit|router|commit|credential"
    kinds = set(re.findall(rf"\"((?:{concerns})\.[a-z_]+)\"", source))
    assert len(kinds) >= 14
    assert [kind for kind in sorted(kinds) if f"``{kind}``" not in documented] == []


def test_a_broken_promise_is_told_and_ends_the_demo_with_1():
    console = Console(file=StringIO(), width=80)
    kept, broken = Promise("the sun rises", True, "1 sun"), Promise("it never rains", False, "7 drops")
    assert report.verdict(console, {"one": [kept]}) == 0
    assert report.verdict(console, {"one": [kept], "two": [kept, broken]}) == 1
    out: Any = console.file
    assert "all 1 promises kept" in out.getvalue()
    assert "1 of 3 promises broken" in out.getvalue()
    assert re.search(r"BROKEN +it never rains +7 drops", out.getvalue())


# -- the routed scene


@pytest.fixture(scope="module")
def routed() -> Routed:
    """The scene, run once; the tests put back what they change."""
    return asyncio.run(run_routed(11))


def test_the_routed_scene_keeps_its_promises(routed):
    assert [promise for promise in check(routed) if not promise.kept] == []


def test_what_it_shows_of_requests_is_what_stands_in_the_books(routed):
    console = Console(file=StringIO(), width=80)
    routed_report.show(console, routed)
    out: Any = console.file
    rows = re.findall(r"│ ([a-z:\- ]+?) +│ +(\d+) │ +(\d+) │ +(\d+) │ +(\d+) │ +(\d+) │ +0 │", out.getvalue())
    assert [row[0] for row in rows] == [phase.title for phase in routed.phases.values()]
    booked = sum(len(place.entries) for place in routed.places.values())
    steps = sum(len(loop.steps) for loop in routed.loops)
    assert sum(int(count) for row in rows for count in row[2:]) == booked - steps
    assert max(map(len, out.getvalue().splitlines())) <= 80


def _everywhere(scene: Routed, patch: pytest.MonkeyPatch) -> None:
    for attempt in scene.attempts:
        patch.setattr(attempt, "provider", "anthropic")


def _silent_callers(scene: Routed, patch: pytest.MonkeyPatch) -> None:
    for record in scene.records:
        if record.errand.kind == "gemini.generate":
            patch.setattr(record, "errand", evolve(record.errand, kind="?"))


def _double_book(scene: Routed, patch: pytest.MonkeyPatch) -> None:
    book = scene.places["openai"].simulator.book
    free = [evolve(entry, billed_nano=0) for entry in book.entries]
    patch.setattr(book, "entries", [*book.entries, *free])


TAMPERINGS: dict[str, Callable[[Routed, pytest.MonkeyPatch], None]] = {
    "no call fails": lambda scene, patch: patch.setattr(scene.records[0], "outcome", "Timeout"),
    "every answer is whole": lambda scene, patch: patch.setattr(
        scene.records[9], "text", scene.records[9].text[:-1]
    ),
    "callers of every dialect": _silent_callers,
    "calls are spread evenly": lambda scene, patch: patch.setitem(
        scene.phases["well"].requests, "openai", 40
    ),
    "who was dead": lambda scene, patch: patch.setitem(scene.phases["again"].requests, "anthropic", 9),
    "a dead provider": _everywhere,
    "it is let in again": lambda scene, patch: patch.setattr(scene.router, "changes", lambda: ()),
    "on its way back": _everywhere,
    "when a key is revoked": lambda scene, patch: patch.setitem(scene.phases["key"].refused, "gemini", 0),
    "a stream that breaks": lambda scene, patch: patch.setattr(
        scene.places["openai"].entries[0], "end", "broken"
    ),
    "a tool loop goes on": lambda scene, patch: patch.setattr(scene, "loops", scene.loops[1:]),
    "the providers see": _double_book,
    "our ledger equals": lambda scene, patch: patch.setattr(
        scene.places["cohere"].entries[0], "billed_nano", 1
    ),
    "nothing is left": lambda scene, patch: patch.setattr(scene, "tasks_left", 1),
}


@pytest.mark.parametrize("promise", TAMPERINGS)
def test_a_promise_is_found_broken_where_it_is(routed, promise, monkeypatch):
    TAMPERINGS[promise](routed, monkeypatch)
    found = {one.text: one.kept for one in check(routed) if one.text.startswith(promise)}
    assert list(found.values()) == [False]


def test_every_promise_can_be_broken(routed):
    texts = [promise.text for promise in check(routed)]
    assert len(texts) == len(TAMPERINGS)
    assert all(any(text.startswith(promise) for promise in TAMPERINGS) for text in texts)
