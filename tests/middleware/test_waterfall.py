"""The waterfall: a call as a picture in text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, RateLimited
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.waterfall import render_waterfall
from llmpipe.pipeline.call import Attempt, Ledger, Note
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.testing import run
from llmpipe.types import Request, Usage


def attempt(number: int, start: float, first: float | None, end: float | None, **more: Any) -> Attempt:
    return Attempt(number, "p", "m", Request("m", "hi"), start, first, end, **{"status": "ok", **more})


def ledger_of(attempts: list[Attempt], notes: list[Note] | None = None) -> Ledger:
    return Ledger(attempts, notes or [])


def test_attempts_and_waits_stand_on_one_axis():
    ledger = ledger_of(
        [
            attempt(1, 0.0, None, 2.0, status="error", error=RateLimited("slow")),
            attempt(2, 4.0, 6.0, 10.0),
        ],
        [
            Note(2.0, "retry.wait", {"seconds": 2.0, "attempt": 2}),
            Note(6.0, "breaker.closed", {"key": ("p", "e", "m"), "reason": None}),
        ],
    )
    assert render_waterfall(ledger, width=60).splitlines() == [
        "                 0             10.00 s",
        "1 p/m            ░░░░✗                 RATE_LIMIT 429 2.00 s",
        "  retry.wait         ┄┄┄┄┄             2.00 s attempt=2",
        "2 p/m                    ░░░░█████████ ok 6.00 s",
        "  breaker.closed             ◆         key=p/e/m",
    ]


def test_it_can_be_drawn_in_ascii():
    ledger = ledger_of([attempt(1, 0.0, 1.0, 2.0)], [Note(0.5, "x", {})])
    text = render_waterfall(ledger, unicode=False)
    assert text.isascii()
    assert "#" in text
    assert "*" in text


def test_a_wait_that_was_noted_at_its_end_stands_before_it():
    ledger = ledger_of([attempt(1, 4.0, 4.0, 8.0)], [Note(4.0, "rate_limit.wait", {"seconds": 4.0})])
    axis, wait, bar = render_waterfall(ledger, width=60).splitlines()
    assert wait.index("┄") == axis.index("0")
    assert bar.index("█") > wait.index("┄")


def test_a_wait_that_was_cut_short_does_not_stretch_the_axis():
    ledger = ledger_of(
        [attempt(1, 0.0, None, 1.0, status="error")], [Note(1.0, "retry.wait", {"seconds": 600.0})]
    )
    assert "1.00 s" in render_waterfall(ledger).splitlines()[0]


def test_what_is_told_behind_the_picture_takes_half_of_the_width_at_most():
    ledger = ledger_of([attempt(1, 0.0, 1.0, 2.0)], [Note(0.5, "x.y", {"why": "w" * 500})])
    axis, bar, note = render_waterfall(ledger, width=100).splitlines()
    assert len(note) == 100
    assert len(axis) == 100 - 50 - 1
    assert note.endswith("w…")
    assert bar.index("░") == axis.index("0")


def test_nothing_is_drawn_of_nothing():
    assert render_waterfall(Ledger()) == "nothing happened"


def test_an_attempt_that_is_still_open_reaches_to_the_last_thing_known():
    ledger = ledger_of([attempt(1, 0.0, 1.0, None, status="open")], [Note(3.0, "x", {})])
    assert "open 3.00 s" in render_waterfall(ledger)


def test_a_call_begins_its_axis_where_it_began_itself():
    async def main():
        chain = Chain(
            MockProvider([[Wait(1), RateLimited("slow")], ["a", Wait(2), "b"]], usage=Usage(3, 4)), Retry()
        )
        stream = chain.stream("hi")
        async with stream as reply:
            async for _ in reply:
                pass
        return stream.call

    lines = render_waterfall(run(main(), seed=1)).splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "retry.wait", "2"]
    assert lines[-1].endswith("ok 2.00 s 3+4 tokens")


def test_a_width_that_holds_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least 40"):
        render_waterfall(Ledger(), width=39)


times = st.floats(0, 1000)


@given(
    st.lists(st.tuples(times, times, times, st.booleans()), max_size=6),
    st.lists(
        st.tuples(times, st.text(min_size=1), st.dictionaries(st.text(), st.text() | times)), max_size=6
    ),
    st.text(),
    st.integers(40, 120),
    st.booleans(),
)
@example([], [(1.0, "retry.wait", {"seconds": 5.0})], "", 40, False)
@example([(0.0, 0.0, 5e-324, False)], [(0.0, "some.wait", {"seconds": 900.0})], "", 40, False)
def test_no_line_is_longer_than_the_width_or_broken_by_what_is_in_it(attempts, notes, name, width, unicode):
    ledger = Ledger()
    for number, (start, wait, read, answered) in enumerate(attempts, 1):
        ledger.attempts.append(
            Attempt(
                number,
                name,
                name,
                Request("m", "hi"),
                start,
                start + wait if answered else None,
                start + wait + read,
                status="ok" if answered else "error",
                error=None if answered else KeyError(name),
            )
        )
    ledger.notes.extend(Note(at, kind, detail) for at, kind, detail in notes)
    lines = render_waterfall(ledger, width=width, unicode=unicode).split("\n")
    assert len(lines) == (1 + len(attempts) + len(notes) if attempts or notes else 1)
    assert all(len(line) <= width and line.isprintable() for line in lines)
