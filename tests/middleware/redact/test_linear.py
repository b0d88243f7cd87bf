"""The proof of linear time: its counts are true bounds, and what it calls undecided is."""

from __future__ import annotations

import re
from itertools import product
from random import Random
from time import process_time

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.redact.linear import _parser, _steps, analyse, narrowed, reach
from llmpipe.middleware.redact.patterns import BUILT_IN
from llmpipe.middleware.redact.scan import Scanner
from tests.middleware.redact.engine import Engine
from tests.middleware.redact.samples import EXAMPLES

DETECTORS = [detector for detectors in BUILT_IN.values() for detector in detectors]
NAMED = pytest.mark.parametrize("detector", DETECTORS, ids=lambda d: f"{d.kind} {d.pattern[:24]}")
SIGNS = "a1A.-@ :=_/\"'(+"


def hurting(kind: str, random: Random, count: int) -> list[str]:
    """What to repeat: beginnings of examples, examples run together, pairs of signs."""
    found = []
    for _ in range(count):
        example = random.choice(EXAMPLES[kind])
        cut = example[: random.randint(1, len(example))]
        found.append(
            random.choice([cut, cut + random.choice(SIGNS), random.choice(SIGNS) + random.choice(SIGNS)])
        )
    return found


def repeated(unit: str, length: int) -> str:
    return (unit * (length // len(unit) + 1))[:length]


def counted(engine: Engine, text: str) -> int:
    """Steps to try every place of `text`."""
    before = engine.steps
    for place in range(len(text)):
        engine.match(text, place)
    return engine.steps - before


@NAMED
def test_every_pattern_has_a_small_bound_at_each_place(detector):
    assert detector.shape.steps <= 10_000
    assert detector.shape.max_width <= 9_000
    assert detector.shape.look_behind <= 32
    assert _steps(list(_parser.parse(detector.shape.unsure)))[1] <= 25_000


@NAMED
def test_no_engine_takes_more_steps_than_were_counted(detector):
    """Nor does the one here find anything else than `re` does, or it would prove nothing."""
    engine, random = Engine(detector.pattern), Random(7)
    for unit in hurting(detector.kind, random, 25):
        text = repeated(unit, 120)
        for place in range(len(text)):
            before = engine.steps
            end = engine.match(text, place)
            found = detector.regex.match(text, place)
            assert end == (None if found is None else found.end()), (text, place)
            assert engine.steps - before <= detector.shape.steps, (text, place)


@NAMED
def test_twice_the_text_takes_at_most_twice_the_steps(detector):
    engine, random = Engine(detector.pattern), Random(11)
    for unit in hurting(detector.kind, random, 8):
        # Long enough that the loops with small bounds run to their ends.
        short, long = counted(engine, repeated(unit, 400)), counted(engine, repeated(unit, 800))
        assert long <= 2.5 * short, unit


@pytest.mark.slow
def test_the_time_for_a_megabyte_grows_as_its_length_does():
    """CPU seconds, less of two; coarse, for the count above is the proof and this a check of it."""
    scanner, random = Scanner(), Random(3)

    def seconds(text: str) -> float:
        best = 1e9
        for _ in range(2):
            began = process_time()
            scanner.spans(text)
            best = min(best, process_time() - began)
        return best

    for kind in BUILT_IN:
        for unit in hurting(kind, random, 2):
            half, whole = seconds(repeated(unit, 500_000)), seconds(repeated(unit, 1_000_000))
            assert whole <= 2.5 * half + 0.05, unit


PATTERNS = (
    r"a(?:bc)?",
    r"(?:ab?){1,3}+c",
    r"(?:a|ab)(?:c|bcd)",
    r"a{1,3}b{0,2}?c",
    r"(?>a|ab)c",
    r"\bab\b",
    r"a(?=bc)b?",
    r"a(?!bc)b{0,2}",
    r"(?:ab){0,2}a(?<!aa)",
    r"a{2}",
    r"(?:a{1,2}b?){1,2}+a",
    r"b{0,2}+a(?<!ba)c?",
    r"(?i:A[bc]){1,2}\B",
    r"[^b]{1,2}(?:a|\d)\D",
    r"a.b\s?",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_found_before_the_first_unsure_place_is_found_whatever_follows(pattern):
    unsure, regex = re.compile(analyse(pattern).unsure), re.compile(pattern)
    for length in range(5):
        for letters in product("abc ", repeat=length):
            text = "".join(letters)
            found = unsure.search(text)
            until = len(text) if found is None else found.start()
            sure = [m.span() for m in regex.finditer(text) if m.start() < until]
            for more in ("a", "b", "c", " ", "ab", "bc", "bcd", "aa", "ca", "abc", "1a"):
                later = [m.span() for m in regex.finditer(text + more) if m.start() < until]
                assert later == sure, (text, more)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_place_is_unsure_without_a_reason(pattern):
    """Where one is, a few more characters can change what is found there or what is looked at."""
    engine, unsure = Engine(pattern), re.compile(analyse(pattern).unsure)
    for letters in product("abc ", repeat=4):
        text = "".join(letters)
        for place in range(len(text)):
            if unsure.match(text, place) is None:
                continue
            seen = max(looked_at(engine, text + more, place) for more in ("", "abc", "bcd", "1a ", "aaa"))
            assert seen >= len(text), (text, place)


def looked_at(engine: Engine, text: str, place: int) -> int:
    """The farthest place of `text` that matching at `place` looks at."""

    class Watched(str):
        __slots__ = ()
        farthest = -1

        def __getitem__(self, key):
            if isinstance(key, int):
                Watched.farthest = max(Watched.farthest, key)
            return str.__getitem__(self, key)

        def __len__(self) -> int:
            return 10**6  # so that the end is no wall

    padded = Watched(text + "\0" * 40)
    engine.match(padded, place)
    return Watched.farthest


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from(["", "?", "+"]))
def test_the_bound_of_a_loop_follows_from_its_numbers(least, more, kind):
    shape = analyse(f"(?:ab){{{least},{least + more}}}{kind}c")
    assert shape.max_width == 2 * (least + more) + 1
    text = "ab" * (least + more + 3) + "d"
    engine = Engine(f"(?:ab){{{least},{least + more}}}{kind}c")
    engine.match(text, 0)
    assert engine.steps <= shape.steps


def test_loops_in_loops_are_counted_as_what_they_can_cost():
    assert analyse("(?:a{1,30}){1,30}b").steps > 10**9
    assert analyse("(?:a{1,30}+){1,30}+b").steps < 5_000
    assert analyse("(?:a|a|a){1,20}b").steps > 10**9
    assert analyse("(?>a|a|a){1,20}b").steps < 1_000


def test_what_a_match_begins_with_is_known_where_it_is_one_of_a_few():
    assert analyse("[0-3x]a?").first == frozenset("0123x")
    assert analyse("ab").first == frozenset("a")
    for pattern in ("a?b", "a|bc", "(?:ab){1,2}", "[^a]b", r"\db", ".b", "(?=a)b", r"\bb"):
        assert analyse(pattern).first is None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_narrowed_pattern_matches_the_same_in_texts_of_few_characters(pattern):
    for alphabet in ("ab", "ac ", "b", "abc"):
        ways = [re.compile(way) for way in narrowed(pattern, frozenset(alphabet))]
        for length in range(5):
            for letters in product(alphabet, repeat=length):
                text = "".join(letters)
                for place in range(length):
                    whole = re.compile(pattern).match(text, place) is not None
                    assert whole == any(way.match(text, place) is not None for way in ways), (text, place)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_stands_beyond_the_reach_of_a_pattern_does_not_matter(pattern):
    regex, far = re.compile(pattern), reach(pattern)
    for letters in product("abc", repeat=7):
        text = "".join(letters)
        assert (regex.match(text) is None) == (regex.match(text, 0, far) is None), text


@pytest.mark.parametrize(
    ("kind", "unit", "least"),
    [
        ("email", "a@b.", 100),
        ("ip", "a::b ", 100),
        ("ip", "::a ", 100),
        ("api_key", "key=a", 100),
        ("api_key", "key: 'abcd' ", 100),
        ("credit_card", "4 ", 40),
        ("credit_card", "2 8 ", 40),
        ("iban", "MT84 ", 5),
        ("ip", "1:2:3:4:5:6:7: ", 14),
        ("postal_address", "1 a b c d road ", 14),
    ],
)
def test_a_check_is_asked_once_in_so_many_characters_of_hostile_text(kind, unit, least, monkeypatch):
    """A check is a microsecond, a thousand times what a character is: where it can, the pattern says no."""
    asked = 0

    def counting(check):
        def counted(match):
            nonlocal asked
            asked += 1
            return check(match)

        return counted

    scanner, text = Scanner([kind]), repeated(unit, 10_000)
    watched = [evolve(d, check=d.check and counting(d.check)) for d in scanner.detectors]
    object.__setattr__(scanner, "detectors", tuple(watched))
    assert scanner._spans(watched, text) == []
    assert asked <= len(text) / least + 10
