"""The view of a text: what a reader sees, the way back, and no difference where it was cut."""

from __future__ import annotations

import json
import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmpipe.middleware.redact.escapes import EncodedJSONView, EncodedView, JSONView, unescape
from llmpipe.middleware.redact.view import _LOOK_ALIKES, View

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


def test_half_a_pair_waits_for_the_other():
    bold_a = json.dumps("\U0001d41a")[1:-1]
    for cut in range(1, len(bold_a)):
        view = JSONView()
        view.feed(bold_a[:cut])
        assert view.text == ""
        view.feed(bold_a[cut:])
        view.finish()
        assert view.text == "a"


def test_the_table_of_characters_has_an_end():
    view = View()
    view.feed("".join(map(chr, range(0x4E00, 0x4E00 + 20_000))))
    from llmpipe.middleware.redact.view import _TABLE

    assert len(_TABLE) <= 8192
    assert re.fullmatch("[\u4e00-\u9fff]{20000}", view.text)
