"""A text read at once is what the views say of it, and its time grows as its length does."""

from __future__ import annotations

import sys
import unicodedata
from time import process_time

import pytest
from hypothesis import example, given

from llmpipe.middleware.redact import Scanner
from llmpipe.middleware.redact.escapes import EncodedJSONView, EncodedView, JSONView
from llmpipe.middleware.redact.masking import mask_json
from llmpipe.middleware.redact.reading import Reading
from llmpipe.middleware.redact.view import UNSEEN, View
from llmpipe.testing.hostile import DISGUISED, repeated
from tests.middleware.redact.test_view import TEXTS, mapped, view_of

KINDS = pytest.mark.parametrize("kind", [View, JSONView, EncodedView, EncodedJSONView])


def read(text: str, kind: type[View]) -> list[tuple[str, int, int]]:
    reading = Reading(text, kind)
    return [(char, reading.start(i), reading.end(i + 1)) for i, char in enumerate(reading.text)]


@KINDS
@example(text="\\ud83d\\ude00 \\ud83d\\ud83d\\ude00\\ude00 \\ud83d x")
@example(text="%F0%9F%98%80%E2%82%C3%A9%%41 \\%41 \\\\x41 &#64;&#xD83D;&#9999999;")
@example(text="\u200b" * 40 + "a" + "\u0301" * 16 + "b" + "\\u200b" * 17 + "c" + "%E2%80%8B" * 20)
@example(text=f"a{UNSEEN}b")
@given(text=TEXTS)
def test_it_is_what_a_view_of_the_whole_says(kind, text):
    assert read(text, kind) == mapped(view_of(text, kind=kind))


@given(text=TEXTS)
def test_a_text_that_is_seen_as_it_stands_is_the_same_object(text):
    if text.isascii():
        assert Reading(text, View).text is text


def test_every_character_is_seen_as_its_decomposition_says():
    """Also those of which that is not asked, for they have none."""
    for code in [*range(0x3400, 0xA000, 7), *range(0xAC00, 0xD7A4, 11), *range(0x20000, 0x2F800, 97)]:
        plain = [c for c in unicodedata.normalize("NFKD", chr(code)) if not unicodedata.combining(c)]
        assert unicodedata.category(chr(code)) in ("Lo", "Cn", "So")
        assert len(plain) > 1 or not plain[0].isascii()
        assert read(chr(code), View) == [(chr(code), 0, 1)]


class Calls:
    """Counts the calls of functions that are written in Python."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame, event, arg) -> None:
        self.count += event == "call"


def calls_of(text: str, kind: type[View]) -> int:
    """To read a text, and to look up one place in it."""
    calls = Calls()
    sys.setprofile(calls)
    try:
        reading = Reading(text, kind)
        reading.start(len(reading.text) // 2)
    finally:
        sys.setprofile(None)
    return calls.count


@pytest.mark.parametrize(("name", "kind", "unit"), DISGUISED)
def test_a_text_of_any_length_is_read_in_a_fixed_number_of_steps(name, kind, unit):
    """What is done for each character is done in C, whose time the benchmark measures."""
    calls_of(repeated(unit, 60), kind)  # what each escape means is known now
    assert calls_of(repeated(unit, 60_000), kind) == calls_of(repeated(unit, 6_000), kind) < 20


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "unit"), DISGUISED)
def test_the_time_to_read_a_megabyte_is_some_ten_times_that_for_a_tenth(name, kind, unit):
    """CPU seconds, the least of three; coarse, as in `test_linear`."""

    def seconds(text: str) -> float:
        best = 1e9
        for _ in range(3):
            began = process_time()
            reading = Reading(text, kind)
            reading.start(len(reading.text) // 2)
            best = min(best, process_time() - began)
        return best

    tenth, whole = seconds(repeated(unit, 100_000)), seconds(repeated(unit, 1_000_000))
    assert whole <= 25 * tenth + 0.05


@pytest.mark.parametrize(
    "text", ['{"a": "call\\n415-555-2671"}', '{"a": "jo\\u0040example.com"}', '{"a": 1}']
)
@pytest.mark.parametrize("times", [0, 3_000])
def test_in_json_short_and_long_the_same_is_found_and_masked(text, times):
    """A long one is asked first whether there is anything in it."""
    scanner = Scanner()
    text = "[" + '"\\n",' * times + text + "]"
    found = scanner.scan(text, json=True)
    assert scanner.sees_json(text) == bool(found) == ('"call' in text or '"jo' in text)
    masked = mask_json(scanner, text)
    assert (masked is text) == (not found)
    assert ("[PHONE]" in masked or "[EMAIL]" in masked) == bool(found)
