"""What is asked before detectors look: a no is a proof, and a glance finds all that a search does."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Scanner, hints
from llmpipe.middleware.redact.linear import narrowed
from llmpipe.middleware.redact.patterns import BUILT_IN
from llmpipe.middleware.redact.suspicion import by_beginning
from tests.middleware.redact.samples import EXAMPLES, LOOK_ALIKES

SCANNER = Scanner()
DETECTORS = [detector for detectors in BUILT_IN.values() for detector in detectors]
POOL = [text for examples in (EXAMPLES, LOOK_ALIKES) for texts in examples.values() for text in texts]
GLUE = ["", " ", ", ", ".", "-", "(", "1", "7", "A", "ab", "é", "\n", ": ", "a long way off, "]
TEXTS = st.lists(
    st.one_of(st.sampled_from(POOL), st.sampled_from(GLUE), st.text(string.printable, max_size=4)), max_size=7
).map("".join)
DULL_WORDS = [
    *(
        "the ",
        "Bearer ",
        "token ",
        "Password",
        "key",
        "api key ",
        "IL, ",
        "P. O. Box ",
        "Hauptstr",
        "Calle de la ",
    ),
    *(
        "Haupt Stra",
        "Stra",
        "bearer",
        "e",
        "eyJ",
        "secret\t ",
        "monkey",
        "s",
        "sk",
        ".",
        ",",
        "'",
        '"',
        "\n",
        "\t",
        "? ",
    ),
    *("a" * 70, "Am Alten Platz ", "abcdef ", "Authorization", "credentials  ", "SG", "AI", "Ak", "x.y.z"),
]
DULL = st.lists(st.sampled_from(DULL_WORDS), max_size=9).map("".join)


@given(TEXTS)
def test_those_not_suspected_find_nothing(text):
    assert SCANNER.spans(text) == SCANNER._spans(SCANNER.detectors, text)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_is_suspected_behind_and_before_a_long_text(kind):
    for text in EXAMPLES[kind]:
        for around in (
            "{}",
            "a b " * 300 + "{}",
            "{}" + " a b" * 300,
            "9 " + "a b " * 300 + "{}" + " a b" * 300 + " 9",
        ):
            assert kind in {detector.kind for detector in SCANNER.suspects(around.format(text))}, (
                text,
                around,
            )


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: f"{d.kind} {d.pattern[:24]}")
def test_what_letters_alone_cannot_write_is_proved_of_the_pattern(detector):
    assert detector.lettered or detector.digits > 0 or narrowed(detector.pattern, hints.DULL) == ()


@given(DULL, st.integers(0, 40))
def test_in_a_dull_text_the_same_is_unsure_by_less_work(text, start):
    assert SCANNER.dull is not None
    start = min(start, len(text))
    found = SCANNER.dull.search(text, start)
    assert (len(text) if found is None else found.start()) == SCANNER.unsure(text, start)


@given(DULL)
def test_in_a_dull_text_in_which_nothing_is_spelled_nothing_is_found(text):
    assert hints.spelled(text) or SCANNER._spans(SCANNER.detectors, text) == []


def test_of_patterns_of_ones_own_nothing_is_known_beforehand():
    own = Scanner([], [("word", "abc")])
    assert own.dull is None
    assert own.suspects("") == list(own.detectors)


def test_a_clean_text_is_judged_without_a_detector(monkeypatch):
    """Few steps: how many is a matter of the machine, that no detector looks is not."""
    scanner = Scanner()
    looked: list[str] = []
    monkeypatch.setattr(Scanner, "_spans", lambda *args: looked.append(args[2]))
    for text in (
        "Summarise the minutes of the meeting in three sentences, and name who does what until when.",
        "12. Summarise the minutes of the meeting.",
        "At most 3 points (v2), from 2024-05-01 12:30, well-known ones.",
    ):
        assert scanner.scan(text) == ()
    assert looked == []


def test_patterns_are_tried_where_what_they_begin_with_stands():
    pattern = by_beginning(["[a-c](?<![A-Za-z0-9].)x", "[ab]y", "[a-c](?<![A-Za-z0-9].)x"])
    assert [match.start() for match in re.finditer(pattern, "ax bay cx dx axx zax")] == [0, 4, 7, 13]
    assert re.search(by_beginning([]), "abc") is None
