"""How much is found, and how much wrongly, of a set of which it is known what is in it."""

from __future__ import annotations

import pytest

from benchmarks.redact import evaded, quality
from llmpipe.middleware.redact import KINDS, Scanner
from llmpipe.testing.evasions import EVASIONS
from llmpipe.testing.labelled import INVALID, SENTENCES, UNREACHABLE, VALID, Labelled, labelled, score

SCANNER = Scanner()


def find(text: str) -> list[tuple[str, int, int]]:
    return [(found.kind, found.start, found.end) for found in SCANNER.scan(text)]


@pytest.mark.parametrize("seed", [1, 20, 300])
def test_of_every_kind_nearly_all_is_found_and_next_to_nothing_wrongly(seed):
    scores = score(find, quality(seed, 150))
    assert set(scores) >= set(KINDS) == set(VALID) == set(INVALID)
    for kind in KINDS:
        assert scores[kind].recall >= 0.98, kind
        assert scores[kind].precision >= 0.95, kind
        assert scores[kind].valid == scores[kind].invalid == 150


def test_names_and_places_have_no_form_and_are_not_found():
    """Said here so that nobody relies on it: they need a model."""
    scores = score(find, labelled(5, 100, UNREACHABLE))
    assert [scores[kind].recall for kind in UNREACHABLE] == [0, 0]


def test_of_what_is_found_nine_in_ten_are_found_in_any_disguise():
    recall = evaded(SCANNER, labelled(9, 18))
    assert len(recall) == len(EVASIONS) >= 30
    for way, share in recall.items():
        assert share >= 0.9, way
    assert sum(share == 1 for share in recall.values()) >= 39


def test_the_set_is_the_same_for_the_same_seed_and_says_where_things_are():
    assert labelled(1, 20) == labelled(1, 20) != labelled(2, 20)
    cases = labelled(1, len(SENTENCES))
    assert len({case.text.replace(case.thing, "") for case in cases}) == len(SENTENCES)
    assert all(0 <= case.start < case.end <= len(case.text) for case in cases)


def test_the_score_counts_what_it_says():
    cases = [
        Labelled("ab", "x", 0, 2, True),
        Labelled("ab", "x", 0, 2, True),
        Labelled("cd", "x", 0, 2, False),
        Labelled("ef", "y", 0, 2, True),
    ]
    found = {"ab": [("x", 0, 1), ("z", 1, 2)], "cd": [("x", 0, 2)], "ef": [("x", 0, 2)]}
    scores = score(lambda text: found[text], cases)
    assert (scores["x"].recall, scores["x"].precision, scores["x"].strays) == (1, 2 / 3, 1)
    assert (scores["x"].valid, scores["x"].invalid) == (2, 1)
    assert (scores["y"].recall, scores["y"].precision) == (1, 1)
    assert scores["z"].strays == 2
    assert score(lambda text: [("x", 0, 1)], cases[:1])["x"].recall == 0
