"""Many windows of digits at once: the same cards as one by one, with few of them tried."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Scanner
from llmpipe.middleware.redact.cards import cards, credit_card
from llmpipe.middleware.redact.checks import Span
from llmpipe.middleware.redact.masking import Masking
from llmpipe.middleware.redact.patterns import BUILT_IN
from tests.middleware.redact import samples

(CARD,) = BUILT_IN["credit_card"]
SCANNER = Scanner(["credit_card"])


def found(text: str) -> list[Span]:
    """One by one: every place is tried."""
    spans: list[Span] = []
    place = 0
    while (match := CARD.regex.search(text, place)) is not None:
        span = credit_card(match)
        place = match.start() + 1 if span is None else span[1]
        spans += [] if span is None else [span]
    return spans


def all_at_once(text: str) -> list[int]:
    return list(cards(text, 0, len(text)))


def run(random: Random) -> str:
    """Digits and what may stand between, with cards among them."""
    between = random.choice(["", " ", " -.", " \x00", "\x00\x00-", ".", "\x00\x00\x00\x00 ,x"])
    digits = random.choice(["0123456789", "45", "2", "60", "34"])
    pieces = []
    for _ in range(random.choice([1, 20, 60, 160])):
        pieces.append(samples.card(random) if random.random() < 0.02 else random.choice(digits))
        pieces.append(random.choice(between or "\x00").replace("\x00", "") * random.randint(1, 2))
    return "".join(pieces)


@given(st.integers(0, 2**32))
def test_all_at_once_are_found_where_one_by_one_they_are(seed):
    text = run(Random(seed))
    matches = [match for place in range(len(text)) if (match := CARD.regex.match(text, place))]
    assert all_at_once(text) == [match.start() for match in matches if credit_card(match) is not None]
    assert [span[:2] for span in SCANNER.spans(text)] == found(text)


@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(0, 200))
def test_asked_for_some_places_it_gives_those_of_all(seed, start, length):
    text = run(Random(seed))
    wanted = [place for place in all_at_once(text) if start <= place < start + length]
    assert list(cards(text, start, min(start + length, len(text)))) == wanted


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_run_of_digits_that_comes_in_pieces_is_masked_as_the_whole(seed, size):
    text = run(Random(seed))
    masking = Masking(SCANNER)
    out = "".join([masking.feed(text[at : at + size]) for at in range(0, len(text), size)]) + masking.flush()
    assert out == SCANNER.mask(text)


@pytest.mark.parametrize("unit", ["4 ", "44 ", "5-", "4. 4 ", "6011111118111117:", "2800000000000003 ", "4:"])
def test_of_digits_that_are_no_card_none_is_tried(unit):
    text = unit * (20_000 // len(unit))
    assert all_at_once(text) == []
    assert found(text) == []


def test_a_card_at_any_place_of_a_long_run_is_found(monkeypatch):
    monkeypatch.setattr("llmpipe.middleware.redact.cards.BLOCK", 100)
    for at in (1, 30, 44, 45, 46, 47, 48, 49, 50, 51, 99, 107, 110, 300):
        text = "9 " * at + "4111 1111 1111 1111 " + "9 " * 200
        assert 2 * at in all_at_once(text)
        assert all_at_once(text) == [span[0] for span in found(text)]
