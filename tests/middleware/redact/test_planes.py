"""All places of a text at once: none is missed that `re` finds, few are looked at, in linear effort."""

from __future__ import annotations

import re
from base64 import b64encode
from itertools import product
from random import Random

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.redact import Scanner, hints, scan
from llmpipe.middleware.redact.masking import Masking
from llmpipe.middleware.redact.planes import Planes, way
from llmpipe.testing.hostile import attacks, repeated, written
from tests.middleware.redact.samples import EXAMPLES, LOOK_ALIKES
from tests.middleware.redact.test_linear import PATTERNS

ALL = Scanner()
NAMED = pytest.mark.parametrize("detector", ALL.detectors, ids=lambda d: f"{d.kind} {d.pattern[:24]}")
POOL = [text for examples in (EXAMPLES, LOOK_ALIKES) for texts in examples.values() for text in texts]
MORE = [
    *(
        "password =  \t swordfish ",
        "token:= 'abcd",
        'api_key"] = abc_def',
        'secret = \t"open',
        "pwd=none",
        "pwd=nonesuch",
    ),
    *(
        "password: two words",
        "passwd => s3cr3t!",
        "key: x",
        "api key =\tabc.def",
        "Authorization: Basic abcd",
        "token=null}",
    ),
    *(
        "15.01.2024 10:30 +49",
        "2024-01-15 415-555-2671",
        "1 1st road",
        "5 about a Road",
        "12 Any Road",
        "7 Oak lane",
    ),
    *(
        "am9obkBleGFtcGxlLmNvbQ==",
        "Y2FyZCA0MTExIDExMTEgMTExMSAxMTEx",
        "1:2:3:4:5:6:7::",
        "::1.2.3.4",
        "1::2::3",
    ),
    *(
        "token=_._.",
        "token:=word",
        "pwd: _.x._",
        'pwd="xxxx"',
        "pwd='xxxxy'",
        "secret='your api key'",
        "secret = my-tokens1",
        "token=basic token",
        "token=basic xx.x1",
        "passwd:....",
        "key=x*x*x",
        "api key=your_api_key;",
        'secret:"the.key"',
    ),
    *(
        "1 1st road road",
        "2 0st st Oak lane",
        "3 9o  0st road,",
        "4 1st Road",
        "5 21st roadside street",
        "hf_Aaaaaaaaaaaaaaaaaaaa",
        "hf_Aaaaaaaaaaaaaaaaaaaaa",
        "ghp_aaaaaaaaaaaaaaaaaaaa-0",
        "SG.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "Bearer abcdefgh=0",
        "Bearer abcdefgh0=",
        "k@h-.K",
        "k@h--a.b---c.de",
    ),
    *(
        "::a:b/",
        "::a:b:c/",
        "a::b:c/",
        "9:::",
        "a::999.9.9.9",
        "1::2:3:4:5:6:1.2.3.4",
        "1:2:3:4:5:6:7:8:",
        "a::255.01.2.3",
        "::1:1.2.3.40:",
    ),
    *("é", "号", "?", "\u200b", "\x00", " ", ", ", "\n", "-", "4", "a", "=", ":", '"', "(", "@"),
]
TEXTS = st.lists(st.one_of(st.sampled_from(POOL + MORE), st.text(max_size=3)), max_size=9).map("".join)


def found(pattern: str, text: str) -> set[int]:
    planes, back = Planes(text), way(pattern)
    assert back is not None
    return set(planes.places(back(planes, planes.every)))


LOOKING = ["a(?!bc|c)b?", "(?<!ab)c", "(?<=a|b)c", "(?<![^a])b"]
LONG_LOOPS = [
    *("a{25,60}b?", "(?:ab|b){30}", "(?:b{0,2}a){0,30}c", "(?:a?b){1,30}c"),
    *("(?:ab?+){0,30}c", "(?:b{1,2}+a?+){0,30}c"),
]


@pytest.mark.parametrize("pattern", [*PATTERNS, *LOOKING, *LONG_LOOPS])
def test_no_place_is_missed_where_a_pattern_matches(pattern):
    possible = 0
    for length in range(6):
        for letters in product("abc ", repeat=length):
            text = "".join(letters)
            places = {place for place in range(length + 1) if re.compile(pattern).match(text, place)}
            assert places <= found(pattern, text), text
            possible += len(found(pattern, text)) - len(places)
    # Word boundaries are passed over, and loops that are possessive give ground.
    assert possible == 0 or "b\\b" in pattern or "\\B" in pattern or "+" in pattern or "(?>" in pattern


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_each_character_stands_where_it_does(text):
    planes = Planes(text)
    for char in {*text, "a", "\0", "\x7f"}:
        places = [place for place in range(len(text)) if text[place] == char]
        assert list(planes.places(planes.of(1 << ord(char)))) == places


def test_a_long_loop_goes_on_over_nothing_that_its_body_does_not_take():
    label = "@(?:-{0,2}[a-z]){0,62}[.]"
    assert found(label, "@a--b.") == {0}
    assert found(label, "@a---b.") == found(label, "@ab-.") == set()


@given(st.text(alphabet="ab?é号1", max_size=8))
def test_what_is_not_ascii_may_be_whatever_a_class_allows(text):
    for pattern in ("[^a]b", "a(?![^b])", "(?<!é)b", r"\w1", ".b", "é", r"\?", "[a-é]b", r"(?<!\?)b"):
        places = {place for place in range(len(text) + 1) if re.compile(pattern).match(text, place)}
        assert places <= found(pattern, text), pattern


def plainly(scanner: Scanner, text: str) -> list[tuple[int, int, str]]:
    """What is found by `re` alone, place by place."""
    everything = []
    for rank, detector in enumerate(scanner.detectors):
        place = 0
        while (match := detector.regex.search(text, place)) is not None:
            span = match.span() if detector.check is None else detector.check(match)
            if span is None:
                place = match.start() + 1
            else:
                place = span[1]
                kind = detector.kind if len(span) == 2 else span[2]
                everything.append((span[0], -span[1], rank, kind))
    return scan._standing(everything)


@given(TEXTS, st.integers(0, 40))
def test_a_sieved_text_has_the_findings_it_has_place_by_place(text, start):
    hard = [(detector, 0) for detector in ALL.detectors]
    everything: list[tuple[int, int, int, str]] = []
    ALL._sift(hard, text, len(text), None, everything)
    assert scan._standing(everything) == plainly(ALL, text)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from([1, 7, 40]))
def test_in_a_long_text_is_found_what_is_found_place_by_place(texts, times):
    text = " ".join([repeated(piece, len(piece) * times) for piece in texts if piece])
    assert ALL.spans(text) == plainly(ALL, text)


@NAMED
def test_no_attack_hides_what_is_found(detector):
    random = Random(17)
    for unit in attacks(
        detector.pattern, random, 40, [text for texts in EXAMPLES.values() for text in texts[:2]]
    ):
        text = f"x {repeated(unit, 2_500)} {written(detector.pattern, random)} x"
        assert ALL.spans(text) == plainly(ALL, text), unit


def test_over_the_end_of_a_block_a_finding_is_whole(monkeypatch):
    from llmpipe.middleware.redact import sieve

    monkeypatch.setattr(sieve, "_BLOCK", 50)
    monkeypatch.setattr("llmpipe.middleware.redact.cards.BLOCK", 50)
    random = Random(2)
    for _ in range(60):
        text = " ".join([random.choice(POOL + MORE) for _ in range(30)])
        everything: list[tuple[int, int, int, str]] = []
        ALL._sift([(detector, 0) for detector in ALL.detectors], text, len(text), None, everything)
        assert scan._standing(everything) == plainly(ALL, text)


def test_a_long_hostile_stream_is_masked_as_the_whole():
    random = Random(4)
    for detector in ALL.detectors[::3]:
        units = attacks(detector.pattern, random, 6, POOL)
        text = " ".join([repeated(unit, 900) for unit in units])
        masking = Masking(ALL)
        out = [masking.feed(text[at : at + 3_000]) for at in range(0, len(text), 3_000)]
        assert "".join(out) + masking.flush() == ALL.mask(text)


# ------------------------------------------------------------ how much is done


class Counted:
    """How many places were looked at with `re`, and how many matches were checked."""

    def __init__(self, detector) -> None:
        self.looked = self.checked = 0
        regex, check = detector.regex, detector.check

        class Regex:
            def match(_, text, place):
                self.looked += 1
                return regex.match(text, place)

            def search(_, text, place):
                self.looked += 1
                return regex.search(text, place)

        def counted(match):
            self.checked += 1
            return check(match)

        self.detector = evolve(detector, check=check and counted)
        object.__setattr__(self.detector, "regex", Regex())
        self.scanner = Scanner()
        object.__setattr__(self.scanner, "detectors", (self.detector,))

    def on(self, text: str) -> tuple[int, int]:
        """How many findings, and how many places looked at."""
        self.looked = self.checked = 0
        spans = self.scanner._spans([self.detector], text)
        return len(spans), self.looked


@NAMED
def test_next_to_no_place_of_a_hostile_text_is_looked_at_in_vain(detector):
    """Beside those where something is found, one in 250 characters: a fifth of the budget."""
    counted, random = Counted(detector), Random(23)
    examples = [*EXAMPLES.get(detector.kind, ()), *LOOK_ALIKES.get(detector.kind, ())]
    for unit in attacks(detector.pattern, random, 60, examples):
        text = repeated(unit, 20_000)
        spans, looked = counted.on(text)
        everything = len(plainly(counted_alone(detector), text)) if spans else 0
        assert looked <= len(text) / 250 + 12 * everything + 10, (unit, looked, spans)


def counted_alone(detector) -> Scanner:
    scanner = Scanner()
    object.__setattr__(scanner, "detectors", (detector,))
    return scanner


@NAMED
def test_twice_the_hostile_text_takes_at_most_twice_the_operations(detector):
    """Operations on sets do not depend on the text's length at all, and places looked at grow with it."""
    counted, random = Counted(detector), Random(29)
    for unit in attacks(detector.pattern, random, 12):
        _, short = counted.on(repeated(unit, 20_000))
        _, long = counted.on(repeated(unit, 40_000))
        assert long <= 2.2 * short + 10, unit


@NAMED
def test_a_pattern_takes_few_operations_on_sets(detector, monkeypatch):
    if detector.places is not None:
        return
    done = 0
    plain = Planes.back

    def counting(self, key, step, ends):
        nonlocal done
        done += 1
        return plain(self, key, step, ends)

    monkeypatch.setattr(Planes, "back", counting)
    for unit in attacks(detector.pattern, Random(31), 20):
        done = 0
        planes = Planes(repeated(unit, 3_000))
        assert detector.back is not None
        detector.back(planes, planes.every)
        assert done <= 4_500, unit


def test_a_pattern_of_loops_in_loops_is_left_to_the_other_engine():
    assert way("(?:(?:a{1,20}b{1,20}){1,20}c{1,20}){1,20}") is None
    own = Scanner([], [("nest", "(?:(?:a{1,9}+b{1,9}+){1,9}+c{1,9}+){1,9}+")])
    text = "aabbc " * 2_000
    assert own.spans(text) == plainly(own, text)


def test_frequent_beginnings_are_sieved_and_rare_ones_are_searched():
    assert hints.is_dense(200, 3_000)
    assert not hints.is_dense(100, 3_000)
    assert not hints.is_dense(100, 300)


@pytest.mark.parametrize(
    "meant",
    [
        "\x01jo@example.com and",  # an address in what is no text
        'password="abcdefghij',  # to the next quotation mark, which is in another word
        "-----BEGIN PRIVATE KEY-----",
        "1:2:3:4:5:6:7: 1:2",
    ],
)
def test_hostile_words_in_base64_are_decoded_at_once(meant):
    """Whatever they mean. A word by itself takes ten microseconds, which is the budget for 200 characters."""
    random = Random(37)
    signs = b64encode(meant.encode()).decode()
    others = [b64encode(random.randbytes(9)).decode() for _ in range(20)]
    text = repeated(" ".join([signs, "aGVsbG8gd29ybGQh", "egozWhsXcn=", *others]) + " ", 20_000)
    for detector in ALL.detectors:
        if detector.kind == "base64":
            counted = Counted(detector)
            spans, looked = counted.on(text)
            assert spans == len(plainly(counted_alone(detector), text))
            assert looked <= len(text) / 250 + 2 * spans + 10


@given(
    st.lists(
        st.sampled_from([*POOL, "a", "=", "\n", "\t", "\x01", "call me at 555", "-1234", "key=abc"]),
        max_size=8,
    )
)
def test_in_many_words_of_base64_is_found_what_is_in_each(pieces):
    words = []
    for number, piece in enumerate(pieces):
        word = b64encode(piece.encode()).decode()
        words.append(word.rstrip("=") if number % 2 else word)
    text = " ".join([*words, "x"] * 3)
    everything: list[tuple[int, int, int, str]] = []
    encoded = [detector for detector in ALL.detectors if detector.kind == "base64"]
    ALL._sift([(detector, 0) for detector in encoded], text, len(text), None, everything)
    scanner = Scanner()
    object.__setattr__(scanner, "detectors", tuple(encoded))
    found = [span[:3:2] for span in plainly(scanner, text)]
    assert [span[:3:2] for span in scan._standing(everything)] == found


def test_what_begins_nowhere_in_a_long_text_is_not_searched():
    detector = next(detector for detector in ALL.detectors if detector.beginnings == b"+?")
    counted = Counted(detector)
    assert counted.on("no number at all " * 1_000) == (0, 0)
    assert counted.on("no number at all " * 1_000 + "+49 30 1234567")[0] == 1
