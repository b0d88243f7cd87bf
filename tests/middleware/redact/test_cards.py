"""Many windows of digits at once: the same cards as one by one, with few of them tried."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Scanner
from llmpipe.middleware.redact.cards import credit_card, next_card
from llmpipe.middleware.redact.masking import Masking
from llmpipe.middleware.redact.patterns import BUILT_IN
from tests.middleware.redact import samples

(CARD,) = BUILT_IN["credit_card"]
SCANNER = Scanner(["credit_card"])


def found(text: str) -> list[tuple[int, int]]:
    """One by one: every place is tried."""
    spans, place = [], 0
    while (match := CARD.regex.search(text, place)) is not None:
        span = credit_card(match)
        place = match.start() + 1 if span is None else span[1]
        spans += [] if span is None else [span]
    return spans


def skipping(text: str) -> tuple[list[tuple[int, int]], int]:
    """What is found by `next_card` alone, and how many matches were tried."""
    spans, place, tried = [], 0, 0
    while (match := CARD.regex.search(text, place)) is not None:
        tried += 1
        span = credit_card(match)
        place = next_card(text, match.start()) if span is None else span[1]
        assert place > match.start()
        spans += [] if span is None else [span]
    return spans, tried


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
def test_what_is_skipped_holds_no_card(seed):
    text = run(Random(seed))
    wanted = found(text)
    assert skipping(text)[0] == wanted
    assert [(start, end) for start, end, _ in SCANNER.spans(text)] == wanted


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_run_of_digits_that_comes_in_pieces_is_masked_as_the_whole(seed, size):
    text = run(Random(seed))
    masking = Masking(SCANNER)
    out = "".join([masking.feed(text[at : at + size]) for at in range(0, len(text), size)]) + masking.flush()
    assert out == SCANNER.mask(text)


@pytest.mark.parametrize("unit", ["4 ", "2 8 ", "44 ", "4444 ", "4 4 4 4 1 2 2 ", "5-", "6 0  ", "4. 4 "])
def test_of_one_run_of_digits_few_matches_are_tried(unit):
    """One for each hundred digits or so, where one by one it is one for each group."""
    text = unit * (20_000 // len(unit))
    spans, tried = skipping(text)
    digits = len(re.sub("[^0-9]", "", text))
    assert tried <= digits / 50 + 5 + 2 * len(spans)


def test_a_card_at_any_place_of_a_long_run_is_the_next():
    for at in (1, 30, 107, 108, 109, 110, 127, 128, 129, 300):
        text = "9 " * at + "4111 1111 1111 1111 " + "9 " * 200
        assert skipping("4 9 " + text)[0] == found("4 9 " + text) != []
