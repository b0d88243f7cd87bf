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

from llmpipe.cli import demo, main
from llmpipe.cli.demo import report
from llmpipe.cli.demo.money import report as money_report
from llmpipe.cli.demo.money.promises import check as check_money
from llmpipe.cli.demo.money.run import run_money
from llmpipe.cli.demo.money.scene import Money, Tampering
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


# -- the scene of money


@pytest.fixture(scope="module")
def money() -> Money:
    """The scene, run once; the tests put back what they change."""
    return asyncio.run(run_money())


def test_the_scene_of_money_keeps_its_promises_in_ten_seconds_of_work(money):
    assert [promise for promise in check_money(money) if not promise.kept] == []
    assert money.crowd.looks > 1


def test_the_command_shows_the_scene_of_money(money, monkeypatch, capsys):
    async def ready() -> Money:
        return money

    monkeypatch.setattr(demo, "run_money", ready)
    assert main(["demo", "--scene", "money"]) == 0
    assert f"all {len(check_money(money))} promises kept" in capsys.readouterr().out


def test_what_it_shows_of_money_is_what_was_seen(money):
    console = Console(file=StringIO(), width=80)
    money_report.show(console, money)
    out: Any = console.file
    told = out.getvalue()
    assert max(map(len, told.splitlines())) <= 120  # what is told of an error or an alert is not wrapped
    rows = dict(re.findall(r"│ +([^│]+?) +│ +(\d*) +│ +[\d.]* +│", told))
    crash, crowd = money.crash, money.crowd
    assert rows["refused, nothing was sent"] == str(crowd.refused) == "990"
    before, after = rows["answered before"], rows["answered by the next one"]
    assert int(before) + int(after) == len(crash.acknowledged)
    ends = int(rows["in the audit trail: ended well"]), int(rows["ended by the next one, as crashed"])
    assert 2 * sum(ends) == len(crash.records)
    assert all(alert.summary in told for alert in money.trouble.alerts)
    assert all(one.found in told for one in crash.tamperings)


MONEY_TAMPERINGS: dict[str, Callable[[Money, pytest.MonkeyPatch], None]] = {
    "of 1,000 calls at one moment": lambda scene, patch: patch.setattr(scene.crowd, "requests", 11),
    "nothing is overspent": lambda scene, patch: patch.setattr(scene.crowd, "highest", scene.crowd.limit + 1),
    "an instance that is killed": lambda scene, patch: patch.setattr(
        scene.crash, "journal", scene.crash.journal[1:]
    ),
    "what it held is free": lambda scene, patch: patch.setattr(scene.crash, "held_in_the_end", 1),
    "every call that began": lambda scene, patch: patch.setattr(
        scene.crash, "records", scene.crash.records[:-1]
    ),
    "its chain of hashes": lambda scene, patch: patch.setattr(
        scene.crash, "tamperings", (scene.crash.tamperings[0], Tampering("in the file", ""))
    ),
    "a quiet tenant": lambda scene, patch: patch.setitem(scene.neighbours.waits, "quiet", [2.0]),
    "who is over a limit": lambda scene, patch: patch.setattr(scene.neighbours.busy[-2], "admitted", True),
    "without its store a limit": lambda scene, patch: patch.setattr(scene.outage, "shares", [10, 11]),
    "without its store a budget": lambda scene, patch: patch.setattr(
        scene.outage, "lent", [scene.outage.slack + 1, 0]
    ),
    "no call hangs": lambda scene, patch: patch.setattr(scene.outage, "longest", 5.0),
    "when it is back": lambda scene, patch: patch.setattr(scene.outage, "spent", scene.outage.spent - 1),
    "trouble is told of once": lambda scene, patch: patch.setattr(
        scene.trouble, "alerts", [*scene.trouble.alerts, scene.trouble.alerts[0]]
    ),
    "nothing is left": lambda scene, patch: patch.setattr(scene, "tasks_left", 1),
}


@pytest.mark.parametrize("promise", MONEY_TAMPERINGS)
def test_a_promise_of_money_is_found_broken_where_it_is(money, promise, monkeypatch):
    MONEY_TAMPERINGS[promise](money, monkeypatch)
    found = {one.text: one.kept for one in check_money(money)}
    assert [text for text, kept in found.items() if text.startswith(promise) and not kept] != []


def test_every_promise_of_money_can_be_broken(money):
    texts = [promise.text for promise in check_money(money)]
    assert len(texts) == len(MONEY_TAMPERINGS)
    assert all(any(text.startswith(promise) for promise in MONEY_TAMPERINGS) for text in texts)


def test_a_crash_that_lost_an_answer_is_told_by_its_figures(money, monkeypatch):
    """Whatever its cost was: one nano-dollar less in the ledger is a loss."""
    rows = list(money.crash.journal)
    rows[0] = evolve(rows[0], nano=rows[0].nano - 1)
    monkeypatch.setattr(money.crash, "journal", rows)
    broken = [one.seen for one in check_money(money) if not one.kept]
    assert "1 not in the ledger" in broken[0]
