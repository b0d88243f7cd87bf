"""Masking in pieces: R1, whatever the chunks the result is that of the whole; R2, nothing leaks at a cut."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Scanner
from llmpipe.middleware.redact.escapes import EncodedJSONView, JSONView
from llmpipe.middleware.redact.masking import Masking, mask_json
from llmpipe.testing.hostile import DISGUISED, repeated
from tests.middleware.redact.samples import EXAMPLES, LOOK_ALIKES
from tests.middleware.redact.test_view import steps_of

OWN = (("badge", r"EMP-\d{3,6}"), ("pair", r"ab(?:cd){0,3}"), ("angle", r"<.{1,5}>"), ("fixed", r"\d{9}"))
SCANNER = Scanner(patterns=OWN)
FRAGMENTS = st.sampled_from(
    [text for examples in (EXAMPLES, LOOK_ALIKES) for texts in examples.values() for text in texts]
    + [
        " ",
        ". ",
        ", ",
        "\n",
        "-",
        "1",
        "é",
        "\u200b",
        "\u200b" * 20,
        "Ａ",
        "а",
        "０",
        "@",
        ":",
        "\\",
        '"',
        "{",
        "}",
    ]
    + [
        "EMP-12345",
        "abcdcd",
        "<abc>",
        "password: ",
        "api_key=",
        "Bearer ",
        "phone: ",
        "SSN ",
        "word",
        "\\u0040",
    ]
    + [
        "%",
        "&",
        "%4",
        "%40",
        "%34",
        "%EF%BC%94",
        "%E2%80%8B",
        "&#64;",
        "&#x2E;",
        "&period;",
        "&#",
        "\\x40",
        "\\u",
    ]
    + ["john%40example%2Ecom", "4111&#49;11111111111", "50%4111111111111111", "%2B14155552671 and %41"]
    + ["am9obi5kb2VAZXhhbXBsZS5jb20=", "Y2FyZCA0MTExIDExMTEgMTExMSAxMTEx", "am9obi5kb2VAZXhhb", "bXBsZS5jb20"]
)
TEXTS = st.lists(st.one_of(FRAGMENTS, st.text(max_size=3)), max_size=8).map("".join)
KEYS = ("a", "b", "password", "api_key", "phone: ", "password: ", "Bearer ", '"', "\\", "é")
CUTS = st.one_of(st.integers(1, 4), st.integers(1, 40))


def in_pieces(masking: Masking, text: str, sizes: list[int]) -> str:
    out, place = [], 0
    while place < len(text):
        size = sizes[len(out) % len(sizes)] if sizes else 1
        out.append(masking.feed(text[place : place + size]))
        place += size
    return "".join(out) + masking.flush()


@given(TEXTS, st.lists(CUTS, min_size=1, max_size=6))
def test_any_chunking_gives_the_mask_of_the_whole(text, sizes):
    masking = Masking(SCANNER)
    assert in_pieces(masking, text, sizes) == SCANNER.mask(text)
    assert masking.held == 0


@given(TEXTS, st.lists(CUTS, min_size=1, max_size=6))
@example('{"a": "john\\u0040x.org", "n": 4111111111111111}', [1])
def test_any_chunking_of_json_gives_the_mask_of_the_whole(text, sizes):
    masking = Masking(SCANNER, json=True)
    assert in_pieces(masking, text, sizes) == mask_json(SCANNER, text)
    assert masking.held == 0


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind in EXAMPLES for text in EXAMPLES[kind]])
def test_cut_in_two_anywhere_no_character_of_it_comes_out(kind, text):
    for cut in range(len(text) + 1):
        masking = Masking(SCANNER)
        out = masking.feed(f"see {text[:cut]}") + masking.feed(f"{text[cut:]}, ok") + masking.flush()
        assert out == SCANNER.mask(f"see {text}, ok")
        assert text not in out


@given(TEXTS)
def test_letter_by_letter_nothing_is_let_out_that_is_later_masked(text):
    """R2: at each moment what is out is a beginning of what comes out in the end."""
    masking, out, whole = Masking(SCANNER), "", SCANNER.mask(text)
    for char in text:
        out += masking.feed(char)
        assert whole.startswith(out)


@given(TEXTS)
def test_what_is_held_back_is_no_more_than_the_longest_finding(text):
    masking = Masking(SCANNER)
    for char in text:
        masking.feed(char)
        # An invisible character between each two, at most sixteen of them.
        assert masking.held <= 17 * SCANNER.max_width


def test_of_plain_text_no_more_than_the_last_words_are_held_back():
    masking, text = Masking(SCANNER), "The sky is blue, because: blue light scatters more! "
    for place, char in enumerate(text):
        masking.feed(char)
        assert masking.held <= len(text[: place + 1].rstrip().rpartition(" ")[2]) + 1
    masking.feed("(")
    assert masking.held <= len("more! (")


def test_only_what_may_still_become_something_is_held_back():
    masking = Masking(SCANNER)
    assert masking.feed("Write to john") == "Write to "
    assert masking.feed(".doe@exam") == ""
    assert masking.feed("ple.com, ") == "[EMAIL], "
    assert masking.held == 0


def test_a_finding_longer_than_a_thousand_characters_is_masked_across_chunks():
    token = "eyJ" + "a" * 900 + "." + "b" * 5000 + "." + "c" * 43
    masking = Masking(SCANNER)
    assert in_pieces(masking, f"token {token} end", [7]) == "token [API_KEY] end"


@pytest.mark.parametrize("name", ["private_key=", '"private_key": "', "secret: ", "token = ", "api-key: "])
@pytest.mark.parametrize("letters", [0, 600])
def test_a_value_without_a_space_is_hidden_to_its_end(name, letters):
    """A private key that is written in base64 without its header has 1,600 characters and more."""
    value = "k" * letters + "".join(f"{number:x}Zq" for number in range(1000, 1600))
    text, masked = f"it is {name}{value} here", f"it is {name}[API_KEY] here"
    assert SCANNER.mask(text) == masked
    assert in_pieces(Masking(SCANNER), text, [7]) == masked
    assert in_pieces(Masking(SCANNER), text, [1000, 1]) == masked
    assert SCANNER.mask("secret:" * 3000 + text).endswith(masked[6:])  # found by the sieve


def test_what_was_let_out_early_is_not_taken_back_and_its_rest_is_masked():
    masking = Masking(SCANNER)
    out = masking.feed("ask john") + masking.release()
    assert out == "ask john"
    assert masking.held == 0
    assert masking.feed("@example.com now") + masking.flush() == "[EMAIL] now"


def test_what_is_let_out_early_is_masked_as_if_it_were_all():
    masking = Masking(SCANNER)
    assert masking.feed("ask john@example.com") + masking.release() == "ask [EMAIL]"
    assert masking.feed("mons or ann") + masking.release() == " or ann"  # the domain went on
    assert masking.feed(", you@exam") + masking.release() == ", you@exam"
    assert masking.feed("ple.org!") + masking.flush() == "[EMAIL]!"


def test_findings_are_counted_once_however_they_come():
    masking = Masking(SCANNER)
    in_pieces(masking, "a@b.org and c@d.org or +14155552671", [3])
    assert masking.found == {"email": 2, "phone": 1}


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            FRAGMENTS,
            st.text(max_size=5),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
        ),
        max_leaves=8,
    )
)
def test_json_stays_json_of_the_same_shape(value):
    scanner = Scanner()  # patterns of one's own may well match a bracket
    for ascii_only in (True, False):
        masked = json.loads(mask_json(scanner, json.dumps(value, ensure_ascii=ascii_only)))
        assert shape(masked) == shape(value)


def shape(value):
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return "leaf"


def test_a_number_becomes_a_string_unless_it_is_negative_or_broken():
    assert mask_json(SCANNER, '{"n": 4111111111111111}') == '{"n": "[CREDIT_CARD]"}'
    for number in ("-4111111111111111", "4111111111111111.5", "4111111111111111e5", "1e4111111111111111"):
        text = f'{{"n": {number}}}'
        assert mask_json(SCANNER, text) is text


def test_a_finding_that_reaches_over_the_end_of_a_string_covers_what_is_in_strings():
    scanner = Scanner([], [("span", "x.{1,9}y")])
    assert mask_json(scanner, '["ax", 1, "yb"]') == '["a[SPAN]", 1, "[SPAN]b"]'


def test_json_without_anything_to_mask_is_the_same_object():
    text = '{"a": [1, 2.5, "b\\n"], "c": null}'
    assert mask_json(SCANNER, text) is text


def test_a_label_is_escaped_in_json():
    assert (
        mask_json(SCANNER, '{"a": "b@c.org"}', lambda kind, value: f'"{value}"\n')
        == '{"a": "\\"b@c.org\\"\\n"}'
    )


def test_invisible_characters_where_two_findings_of_a_kind_overlap_are_covered():
    scanner = Scanner([], [("one", "abc"), ("one", "cde")])
    text = "xabc" + "\u200b" * 3 + "de" + "\u200b" + "x"
    assert scanner.mask(text) == "x[ONE]\u200bx"
    for size in range(1, len(text)):
        assert in_pieces(Masking(scanner), text, [size]) == "x[ONE]\u200bx"


def test_random_streams_agree_with_the_whole():
    """More of the same than hypothesis has time for."""
    random = Random(5)
    pool = [text for examples in (EXAMPLES, LOOK_ALIKES) for texts in examples.values() for text in texts]
    for _ in range(300):
        text = "".join(
            random.choice(pool) + random.choice(["", " ", ", "]) for _ in range(random.randint(1, 6))
        )
        place = random.randrange(len(text))
        text = text[:place] + random.choice(pool) + text[place:]
        sizes = [random.randint(1, random.choice([2, 9, 50])) for _ in range(5)]
        for json_ in (False, True):
            masking = Masking(SCANNER, json=json_)
            whole = mask_json(SCANNER, text) if json_ else SCANNER.mask(text)
            assert in_pieces(masking, text, sizes) == whole, (text, sizes)


@pytest.mark.parametrize(("name", "kind", "unit"), DISGUISED)
def test_a_stream_that_is_all_disguise_is_masked_as_the_whole(name, kind, unit):
    for middle in ("jo@example.com", " 4111%201111 1111&#49;111 ", 'jo\\u0040example.com", "'):
        text = repeated(unit, 90) + middle + repeated(unit, 90)
        for json_ in (False, True):
            whole = mask_json(SCANNER, text) if json_ else SCANNER.mask(text)
            for size in (1, 4, 7, 50):
                assert in_pieces(Masking(SCANNER, json=json_), text, [size]) == whole, (text, size)


class Counting(Scanner):
    """Counts what it is asked."""

    judged = asked = 0

    def suspects(self, seen):
        Counting.judged += 1
        return super().suspects(seen)

    def unsure(self, seen, start):
        Counting.asked += 1
        return super().unsure(seen, start)


@pytest.mark.parametrize("piece", ["\\x41%41", "A%41A"])
def test_what_is_held_as_a_whole_is_not_judged_with_each_piece(piece):
    """One word of thousands of characters, of which none is let out, is looked through once, at its end.

    Nor is it asked with each piece how far the text as it stands could be judged, if that would not help.
    """
    masking = Masking(Counting())
    Counting.judged = Counting.asked = 0
    for _ in range(500):
        masking.feed(piece)
    assert masking.held >= 500 * len(piece) - 2
    assert Counting.judged <= 10
    assert 500 <= Counting.asked <= 510
    assert (
        masking.feed(", jo@example.com ok") == SCANNER.mask(piece * 500 + ", jo@example.com ok")[: -len("ok")]
    )
    assert masking.flush() == "ok"


def test_a_text_is_read_in_two_ways_until_both_go_on_alike():
    """Digits without end, found nine by nine: from elsewhere where there is an escape before them."""
    scanner = Scanner([], [("fixed", r"\d{9}")])
    text = "\\x41" * 3 + "123456789" * 20 + " and 123456789"
    assert scanner.mask(text) == "\\x41\\x41\\x[FIXED] and [FIXED]"
    for size in (1, 2, 4, 9, 50):
        assert in_pieces(Masking(scanner), text, [size]) == scanner.mask(text)


@pytest.mark.parametrize(("name", "kind", "unit"), DISGUISED)
def test_a_hostile_stream_is_masked_in_steps_by_the_piece_not_by_the_character(name, kind, unit):
    """Neither how long a piece is makes a difference, nor how many came before it."""
    scanner, json_ = Scanner(), kind in (JSONView, EncodedJSONView)

    def each(pieces: int, size: int) -> float:
        sizes = [size]
        text = repeated(unit, pieces * size)
        in_pieces(Masking(scanner, json=json_), text, sizes)  # what each escape means is known now
        return steps_of(lambda: in_pieces(Masking(scanner, json=json_), text, sizes)) / pieces

    assert each(15, 1_500) <= 1.5 * each(15, 300) + 500
    assert each(300, 4) <= 1.5 * each(150, 4) + 100
