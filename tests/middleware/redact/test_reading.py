"""A text read at once is what the views say of it, and its time grows as its length does."""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from time import process_time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Scanner, characters, tokens
from llmpipe.middleware.redact.characters import UNSEEN, _all_looks, _look, looks
from llmpipe.middleware.redact.escapes import EncodedJSONView, EncodedView, JSONView
from llmpipe.middleware.redact.masking import mask_json
from llmpipe.middleware.redact.reading import Reading
from llmpipe.middleware.redact.tokens import Escapes
from llmpipe.middleware.redact.view import View
from llmpipe.testing.hostile import DISGUISED, repeated
from tests.middleware.redact.test_view import TEXTS, mapped, view_of

KINDS = pytest.mark.parametrize("kind", [View, JSONView, EncodedView, EncodedJSONView])


def read(text: str, kind: type[View]) -> list[tuple[str, int, int]]:
    reading = Reading(text, kind)
    return [(char, reading.start(i), reading.end(i + 1)) for i, char in enumerate(reading.text)]


def plainly(text: str, kind: type[View]) -> list[tuple[str, int, int]]:
    """The same, character by character."""
    meant: list[tuple[str, int, int]] = []
    place = 0
    while place < len(text):
        char, end = escaped(text, place, kind)
        if meant and "\ud800" <= meant[-1][0] <= "\udbff" and "\udc00" <= char <= "\udfff":
            before = meant[-1][1]
            if place - before == end - place == 6:  # both are escaped
                pair = text[before + 2 : place], text[place + 2 : end]
                char = bytes.fromhex("".join(pair)).decode("utf-16-be")
                meant[-1] = (char, before, end)
                place = end
                continue
        meant.append((char, place, end))
        place = end
    seen, run = [], 0
    for char, start, end in meant:
        looks = char if char.isascii() else chr(_look(ord(char)))
        run = run + 1 if looks == UNSEEN else 0
        if run == 17:
            looks = "\x00"
        if looks != UNSEEN:
            seen.append((looks, start, end))
    return seen


def escaped(text: str, place: int, kind: type[View]) -> tuple[str, int]:
    """What stands at a place, and where it ends."""
    rest = text[place:]
    is_json = kind in (JSONView, EncodedJSONView)
    if kind is View or rest[0] not in ("\\" if kind is JSONView else "%&\\"):
        return rest[0], place + 1
    if match := re.match(r"\\u([0-9A-Fa-f]{4})", rest):
        return chr(int(match[1], 16)), place + 6
    if not is_json and (match := re.match(r"\\x([0-9A-Fa-f]{2})", rest)):
        return chr(int(match[1], 16)), place + 4
    if is_json and rest[0] == "\\" and len(rest) > 1:
        return {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}.get(rest[1], rest[1]), place + 2
    if rest[0] == "%":
        for count in (4, 3, 2, 1):
            if match := re.match(f"(?:%[0-9A-Fa-f]{{2}}){{{count}}}", rest):
                octets = bytes.fromhex(match[0].replace("%", ""))
                leads = {4: 0xF0, 3: 0xE0, 2: 0xC0, 1: 0}[count]
                if octets[0] >= leads and all(octet & 0xC0 == 0x80 for octet in octets[1:]):
                    if count > 1 and octets[0] >= {4: 0x100, 3: 0xF0, 2: 0xE0}[count]:
                        continue
                    char = octets.decode("utf-8", "replace")
                    return char if len(char) == 1 else "\ufffd", place + 3 * count
    if rest[0] == "&" and (match := re.match(r"&(?:#(?:[0-9]{1,7}|[xX][0-9A-Fa-f]{1,6})|[a-z]{3,6});", rest)):
        char = html.unescape(match[0])
        if match[0][1] == "#" or match[0][1:-1] in NAMES:
            return char if len(char) == 1 else "\ufffd", place + len(match[0])
    return rest[0], place + 1


NAMES = {
    *("commat", "period", "plus", "lpar", "rpar", "nbsp", "hyphen", "dash", "colon", "comma"),
    *("sol", "lowbar", "num", "equals", "quot", "apos", "amp", "ensp", "emsp"),
}


@KINDS
@example(text="\\ud83d\\ude00 \\ud83d\\ud83d\\ude00\\ude00 \\ud83d x")
@example(text="%F0%9F%98%80%E2%82%C3%A9%%41 \\%41 \\\\x41 &#64;&#xD83D;&#9999999;")
@example(text="\u200b" * 40 + "a" + "\u0301" * 16 + "b" + "\\u200b" * 17 + "c" + "%E2%80%8B" * 20)
@example(text=f"a{UNSEEN}b")
@given(text=TEXTS)
def test_it_is_what_is_read_character_by_character(kind, text):
    assert read(text, kind) == mapped(view_of(text, kind=kind)) == plainly(text, kind)


@KINDS
@given(text=TEXTS)
def test_of_a_long_text_block_after_block_is_read(kind, text):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tokens, "_BLOCK", 12)  # the shortest in which no escape fills all of it
        assert read(text * 3, kind) == plainly(text * 3, kind)


@KINDS
def test_a_backslash_that_is_meant_says_nothing_of_what_comes_behind_it(kind):
    for text in (
        *("\\\\n", "\\\\\\n", "\\\\u0041", "\\u005cn", "\\u005Cu0041", "%5Cn", "&#92;u0041", "\\x5cx41"),
        *(
            "\\%41",
            "\\\\%41",
            "\\&#64;",
            "\\\\&#64;",
            "%\\41",
            "%4\\1",
            "\\u00\\u0041",
            "a\\",
            "a\\\\\\",
            "\\a\\/",
        ),
        *(f"{UNSEEN}\\\\", "\\ufdd0\\\\", "%EF%B7%90", "&#xFDD0;", "\\\udc00", "\\ud83d\\\udc00"),
    ):
        assert read(text, kind) == plainly(text, kind) == mapped(view_of(*text, kind=kind)), text


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


def test_what_all_characters_look_like_is_known_where_many_are_in_use():
    everything = _all_looks()
    assert len(everything) == sys.maxunicode + 1
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        plain = unicodedata.category(char) in ("Lo", "Cn", "Co", "Cs") and not unicodedata.decomposition(char)
        if not plain or char == UNSEEN or everything[code] != code:
            assert everything[code] == _look(code), hex(code)


def test_a_text_of_very_many_characters_is_read_in_a_fixed_number_of_steps(monkeypatch):
    """They are not kept one by one, and none is asked about again and again."""
    monkeypatch.setattr(characters, "_MOST", 2_000)
    monkeypatch.setattr(characters, "_LOOKS", characters._Looks())
    texts = ["".join(map(chr, range(start, start + 25_000))) for start in (0x80, 0x10000, 0xE0000)]
    for text in texts:
        assert Reading(text, View).text
    assert len(characters._LOOKS) == 2_000
    for text in texts:
        assert calls_of(text, View) < 30
        assert read(text[::50], View) == plainly(text[::50], View)


@pytest.mark.parametrize("kind", [JSONView, EncodedView, EncodedJSONView])
def test_after_a_text_of_very_many_escapes_the_usual_ones_are_known_again(kind):
    Reading("".join([f"\\u{code:04x}" for code in range(0x3000, 0x3000 + 20_000)]), kind)
    usual = "".join([f"\\u{code:04x}" for code in range(0x20, 0x7F)]) * 20
    Reading(usual, kind)
    assert calls_of(usual, kind) < 30


@pytest.mark.parametrize("kind", [JSONView, EncodedJSONView])
@pytest.mark.parametrize("unit", ["\\n", "\\a", "\\\\", '\\"', "\\n\\t", "x\\b", "\\\\n"])
def test_escapes_of_two_characters_are_not_looked_at_one_by_one(kind, unit, monkeypatch):
    parts: list[int] = []
    exchanged = Escapes._exchanged

    def counting(self, text, token):
        parts.append(len(token.split(text)))
        return exchanged(self, text, token)

    monkeypatch.setattr(Escapes, "_exchanged", counting)
    for text in (repeated(unit, 3_000), repeated(f"{unit}%41", 3_000)):
        Reading(text, kind)
        assert parts.pop() <= 2 * text.count("%") + 1


def test_half_an_escape_of_a_url_leaves_a_text_nothing_to_look_up():
    """U+FFFD stands for it, which looks like itself."""

    class Table(dict[int, int]):
        def __getitem__(self, code):
            raise AssertionError(f"{code} was looked up")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(characters, "_LOOKS", Table())
        assert Reading("%E2%82" * 10, EncodedView).text == "\ufffd" * 20
        with pytest.raises(AssertionError, match="looked up"):
            Reading("%E2%82é", EncodedView)


class Lookups(characters._Looks):
    """Counts what is looked up in it."""

    count = 0

    def __getitem__(self, code):
        self.count += 1
        return super().__getitem__(code)


@pytest.mark.parametrize("unit", ["４１１１", "𝟒𝐚", "ае", "4\u200b", "\u200b" * 20 + "a", "a\u0301\ufffd中"])
def test_a_few_characters_are_looked_up_once_however_many_of_them_there_are(unit, monkeypatch):
    table = Lookups()
    monkeypatch.setattr(characters, "_LOOKS", table)
    for length in (1_000, 100_000):
        table.count = 0
        assert looks(repeated(unit, length))[: len(unit)] == "".join([chr(_look(ord(char))) for char in unit])
        assert table.count <= len({char for char in unit if not char.isascii()})


@example(alphabet="\u200b" + UNSEEN, order=[0, 1])
@example(alphabet=UNSEEN + "\u200b\ufffd", order=[2, 1, 0])
@given(
    alphabet=st.text(
        st.one_of(st.sampled_from(f"aА１é\u200b\u0301中\ufffd{UNSEEN}"), st.characters()), min_size=1
    ),
    order=st.lists(st.integers(0, 9), min_size=1, max_size=30),
)
def test_characters_exchanged_all_at_once_look_as_each_by_itself_does(alphabet, order):
    text = "".join([alphabet[number % len(alphabet)] for number in order])
    text *= 200 // len(text) + 1
    assert looks(text) == "".join([chr(_look(ord(char))) for char in text])


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


def blocks_of(length: int) -> int:
    """Into how many blocks so many characters are cut, with a part of an escape left over of each."""
    return -(-length // (tokens._BLOCK - 11))


@pytest.mark.parametrize(("name", "kind", "unit"), DISGUISED)
def test_a_text_of_any_length_is_read_in_a_few_steps_for_each_block_of_it(name, kind, unit):
    """What is done for each character is done in C, whose time the benchmark measures."""
    calls_of(repeated(unit, 60), kind)  # what each escape means is known now
    once = calls_of(repeated(unit, 6_000), kind)
    assert once <= 20
    assert calls_of(repeated(unit, 60_000), kind) <= once + 4 * blocks_of(60_000)


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
