"""Many accounts at once: the same as one by one, whatever stands around them, with few of them tried."""

from __future__ import annotations

import string
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Scanner, accounts
from llmpipe.middleware.redact.accounts import iban, ibans
from llmpipe.middleware.redact.checks import Span
from llmpipe.middleware.redact.masking import Masking
from llmpipe.middleware.redact.patterns import BUILT_IN

(IBAN,) = BUILT_IN["iban"]
SCANNER = Scanner(["iban"])
LENGTHS = {code.decode(): length for code, length in accounts._LENGTHS.items()}


def found(text: str) -> list[Span]:
    """One by one: every place is tried."""
    spans: list[Span] = []
    place = 0
    while (match := IBAN.regex.search(text, place)) is not None:
        span = iban(match)
        place = match.start() + 1 if span is None else span[1]
        spans += [] if span is None else [span]
    return spans


def all_at_once(text: str) -> list[int]:
    return list(ibans(text, 0, len(text)))


def account(random: Random, signs: str) -> str:
    """By the book: the check digits are 98 less what the rest is modulo 97."""
    country = random.choice(sorted(LENGTHS))
    own = "".join([random.choice(signs) for _ in range(LENGTHS[country] - 4)])
    number = int("".join([str(int(sign, 36)) for sign in f"{own}{country}00"]))
    return f"{country}{98 - number % 97:02}{own}"


def run(random: Random, *written: str) -> str:
    """Accounts, right and wrong, heads of them, and what they are made of, with much or little between."""
    signs = random.choice(
        written or [string.digits, string.ascii_uppercase + string.digits, "0", "09Z", "NO1"]
    )
    between = random.choice(["", " ", "-", " -", ". ", "  -", "\n é9"])
    pieces: list[str] = []
    for _ in range(random.choice([1, 5, 20, 60])):
        match random.randrange(6):
            case 0:
                whole = account(random, signs)
                whole = whole.lower() if random.random() < 0.2 else whole
                pieces += [whole[:4], *whole[4:]] if random.random() < 0.2 else [whole]
            case 1:
                at = random.randrange(4, 15)
                whole = account(random, signs)
                pieces.append(whole[:at] + random.choice(signs) + whole[at + 1 :])
            case 2:
                pieces.append(
                    random.choice(string.ascii_uppercase) + random.choice(string.ascii_letters) + "12"
                )
            case 3 | 4:
                pieces.append(f"{random.choice(sorted(LENGTHS))}{random.randrange(100):02}")
            case _:
                pieces.append("".join([random.choice(signs) for _ in range(random.randrange(20))]))
        pieces.append(random.choice(between or "\x00").replace("\x00", ""))
    return "".join([*pieces, ". 123456"])  # an account has six digits, says its detector: not all letters


@given(st.integers(0, 2**32))
def test_all_at_once_are_found_where_one_by_one_they_are(seed):
    text = run(Random(seed))
    matches = [match for place in range(len(text)) if (match := IBAN.regex.match(text, place))]
    assert all_at_once(text) == [match.start() for match in matches if iban(match) is not None]
    assert [span[:2] for span in SCANNER.spans(text)] == found(text)


@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(0, 200))
def test_asked_for_some_places_it_gives_those_of_all(seed, start, length):
    text = run(Random(seed))
    wanted = [place for place in all_at_once(text) if start <= place < start + length]
    assert list(ibans(text, start, min(start + length, len(text)))) == wanted


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_accounts_that_come_in_pieces_are_masked_as_the_whole(seed, size):
    text = run(Random(seed), string.digits, "0")
    masking = Masking(SCANNER)
    out = "".join([masking.feed(text[at : at + size]) for at in range(0, len(text), size)]) + masking.flush()
    assert out == SCANNER.mask(text)


@pytest.mark.parametrize("country", sorted(LENGTHS))
def test_an_account_of_every_country_is_found_and_none_with_other_check_digits(country):
    random = Random(country)
    for signs in (string.digits, string.ascii_uppercase, "0"):
        own = "".join([random.choice(signs) for _ in range(LENGTHS[country] - 4)])
        right = [digits for digits in range(100) if all_at_once(f". {country}{digits:02}{own}.") == [2]]
        number = int("".join([str(int(sign, 36)) for sign in f"{own}{country}00"]))
        assert right == [digits for digits in range(100) if (number + digits) % 97 == 1]


def test_two_letters_that_are_no_country_have_no_length():
    pairs = {first + second for first in string.ascii_uppercase for second in string.ascii_uppercase}
    for pair in sorted(pairs - set(LENGTHS)):
        # Of all check digits and lengths some would be right.
        texts = [
            f"{pair}{digits:02}{'0' * more}." for digits in range(97) for more in (11, 12, 14, 18, 23, 29)
        ]
        assert all_at_once(" ".join(texts)) == [], pair


def test_an_account_at_any_place_of_a_long_run_is_found(monkeypatch):
    monkeypatch.setattr("llmpipe.middleware.redact.accounts.BLOCK", 100)
    for at in (0, 1, 7, 14, 15, 16, 17, 18, 19, 20, 21, 39, 40, 60):
        text = "NO12 " * at + "NO93 8601 1117 947 " + "NO12 " * 60
        assert 5 * at in all_at_once(text)
        assert all_at_once(text) == [span[0] for span in found(text)]


@pytest.mark.parametrize(
    "unit",
    [
        "NO12 ",
        "MT84 ",
        "NO12.",
        "ES4142079-",
        "AA00 ",
        "NOA",
        "NO12-NO12",
        "RU12 RU12 RU12 RU12 RU1.",
        "RU12RU12",
        "NO12BE12DK12MK12AT12CH12BG12AE12 RU12",
    ],
)
def test_of_accounts_that_are_wrong_none_is_tried(unit):
    text = unit * (20_000 // len(unit))
    assert all_at_once(text) == []
    assert found(text) == []
