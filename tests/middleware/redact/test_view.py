"""The view of a text: what a reader sees, the way back, and no difference where it was cut."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmpipe.middleware.redact.characters import _LOOK_ALIKES
from llmpipe.middleware.redact.escapes import EncodedJSONView, EncodedView, JSONView, unescape
from llmpipe.middleware.redact.view import View
from llmpipe.testing.hostile import DISGUISED, repeated

TEXTS = st.lists(
    st.one_of(
        st.characters(),
        st.sampled_from('aА１é\u200b\u0301 .\\u"nd83%&#;x'),
        st.sampled_from(
            ["%41", "%EF%BC%94", "%E2%80", "&#64;", "&#x40;", "&commat;", "\\u0040", "\\x40", "\u200b" * 15]
        ),
    )
).map("".join)


def view_of(*pieces: str, kind: type[View] = View) -> View:
    view = kind()
    for piece in pieces:
        view.feed(piece)
    view.finish()
    return view


def mapped(view: View) -> list[tuple[str, int, int]]:
    return [(char, view.start(i), view.end(i + 1)) for i, char in enumerate(view.text)]


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_ascii_is_seen_as_it_is_in_the_same_object(text):
    view = view_of(text)
    assert view.text is view.raw
    assert view.raw == text
    assert mapped(view) == [(char, i, i + 1) for i, char in enumerate(text)]


@given(TEXTS)
def test_each_character_seen_comes_from_one_place_in_order(text):
    places = mapped(view_of(text))
    assert all(start < end <= len(text) for _, start, end in places)
    assert all(one[2] <= other[1] for one, other in pairwise(places))


@pytest.mark.parametrize("kind", [View, JSONView, EncodedView, EncodedJSONView])
@given(text=TEXTS, cuts=st.lists(st.integers(0, 30), max_size=6))
def test_a_text_cut_anywhere_has_the_same_view(kind, text, cuts):
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert mapped(view_of(*pieces, kind=kind)) == mapped(view_of(text, kind=kind))


@pytest.mark.parametrize("kind", [View, JSONView, EncodedView, EncodedJSONView])
@given(text=TEXTS, more=TEXTS, share=st.floats(0, 1))
def test_forgetting_a_beginning_changes_nothing_after_it(kind, text, more, share):
    whole, cut = view_of(text, more, kind=kind), kind()
    cut.feed(text)
    place = int(share * len(cut.text))
    lost = cut.start(place)
    cut.drop(place)
    assert cut.raw == text[lost:]
    cut.feed(more)
    cut.finish()
    assert [(c, start + lost, end + lost) for c, start, end in mapped(cut)] == mapped(whole)[place:]


def test_look_alikes_decompose_to_nothing_else():
    for char, seen in _LOOK_ALIKES.items():
        assert len(char) == len(seen) == 1
        assert seen.isascii()
        assert not char.isascii()
        assert view_of(char).text == seen


@given(st.characters(categories=["Nd"]))
def test_every_digit_is_seen_as_its_value(char):
    assert view_of(char).text == str(unicodedata.decimal(char))


@given(st.characters(categories=["Lo"]).filter(lambda c: unicodedata.normalize("NFKD", c) == c))
def test_letters_of_other_scripts_stay(char):
    assert view_of(char).text in (char, "")


def test_invisible_characters_go_and_seventeen_of_them_separate():
    assert view_of("a" + "\u200b" * 16 + "b").text == "ab"
    assert view_of("a" + "\u200b" * 17 + "b").text == "a\x00b"
    assert view_of("a" + "\u200b" * 9, "\u200b" * 200 + "b").text == "a\x00b"


@given(st.text())
def test_json_is_seen_as_what_it_says(text):
    for ascii_only in (True, False):
        raw = json.dumps(text, ensure_ascii=ascii_only)
        assert view_of(raw, kind=JSONView).text == '"' + view_of(text).text + '"'
        assert unescape(raw[1:-1]) == text


@given(st.text(alphabet='\\u0dD8cC1"an', max_size=30))
def test_what_is_no_json_is_still_covered_from_end_to_end(text):
    escaped = [chr(int(code, 16)) for code in re.findall(r"\\u([0-9a-fA-F]{4})", text)]
    assume(
        not any(unicodedata.category(char) in ("Mn", "Me", "Cf") for char in escaped)
    )  # these are not seen
    view = view_of(text, kind=JSONView)
    covered = "".join(view.raw[start:end] for _, start, end in mapped(view))
    assert covered == text
    unescape(text)


def test_half_an_escape_waits_for_the_rest():
    view = JSONView()
    view.feed(r"a\u00")
    assert view.text == "a"
    view.feed("40b\\")
    assert view.text == "a@b"
    view.finish()
    assert view.text == "a@b\\"


@pytest.mark.parametrize("kind", [JSONView, EncodedView, EncodedJSONView])
def test_a_row_of_backslashes_of_any_length_is_read_from_its_beginning(kind):
    for count in range(1, 30):
        for begun, rest in (("u00", "41"), ("", "n"), ("u", "0041"), ("%4", "1")):
            text = "\\" * count + begun
            assert mapped(view_of(text, rest, kind=kind)) == mapped(view_of(text + rest, kind=kind)), text


def test_half_a_pair_waits_for_the_other():
    bold_a = json.dumps("\U0001d41a")[1:-1]
    for cut in range(1, len(bold_a)):
        view = JSONView()
        view.feed(bold_a[:cut])
        assert view.text == ""
        view.feed(bold_a[cut:])
        view.finish()
        assert view.text == "a"


def test_a_piece_is_read_by_itself_and_what_all_is_seen_as_it_stands_is_not_kept_apart():
    """So that the effort for a piece does not depend on what came before it."""
    view = JSONView()
    for _ in range(50):
        view.feed("plain")
    assert view._readings == []
    view.feed("a\\n")
    for _ in range(50):
        view.feed("plain")
    assert [reading and reading.text for reading in view._readings] == [None, "a\n", None]
    view.drop(len(view.text) - 3)
    assert view._readings == []
    assert view.text is view.raw


def steps_of(work: Callable[[], object]) -> int:
    """How many instructions of Python are run."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def streamed(kind: type[View], text: str, size: int) -> None:
    """As `Masking` does it: how far the end is asked for, and all but so much is dropped."""
    view = kind()
    for place in range(0, len(text), size):
        view.feed(text[place : place + size])
        view.start(max(0, len(view.text) - 1))
        if len(view.text) > 64:
            view.drop(len(view.text) - 32)
    view.finish()


@pytest.mark.parametrize(("name", "kind", "unit"), DISGUISED)
def test_a_hostile_stream_takes_steps_by_the_piece_not_by_the_character(name, kind, unit):
    """How long a piece is makes no difference, nor how many came before it."""
    streamed(kind, repeated(unit, 100), 4)  # what each escape means is known now

    def each(pieces: int, size: int) -> float:
        text = repeated(unit, pieces * size)
        return steps_of(lambda: streamed(kind, text, size)) / pieces

    assert each(20, 5_000) <= 1.5 * each(20, 200) + 50
    assert each(400, 4) <= 1.1 * each(100, 4) + 10
    assert each(100, 4) <= 750


def test_of_a_long_hostile_stream_only_the_end_is_kept():
    view = EncodedView()
    for _ in range(2_000):
        view.feed("%41%")
        if len(view.text) > 64:
            view.drop(len(view.text) - 32)
        assert len(view._readings) <= 64
        assert len(view._ends) == len(view._raw_ends) == len(view._readings) + 1
