"""Settings in the URL of a backend: read strictly, and no error shows what may be a piece of a password."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.state.url import flag, number, one_of, options

KNOWN = ("pool", "prefix", "timeout")


@given(st.dictionaries(st.sampled_from(KNOWN), st.text(st.characters(codec="utf-8"))))
def test_what_was_written_is_read(told: dict[str, str]):
    assert options(urlencode(told), KNOWN, of="a store") == told


def test_nothing_said_is_nothing_read_and_an_empty_value_is_there():
    assert options("", KNOWN, of="a store") == {}
    assert options("pool=&timeout=5%2B", KNOWN, of="a store") == {"pool": "", "timeout": "5+"}


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (
            "hunter2@host/db?pools=3",
            r"the URL of a store has a setting that is not known; it takes pool, prefix",
        ),
        ("pools=hunter2", r"not known; did you mean 'pool'\?; it takes pool, prefix, timeout$"),
        ("pool=1&pool=hunter2", "the URL of a store sets 'pool' twice"),
    ],
)
def test_an_unknown_setting_and_one_that_is_there_twice_are_refused(query: str, says: str):
    with pytest.raises(ConfigError, match=says) as caught:
        options(query, KNOWN, of="a store")
    assert "hunter2" not in str(caught.value)


@given(st.integers(-100, 100))
@example(1)
@example(10)
def test_a_whole_number_is_read_where_the_bounds_are_whole(value: int):
    if 1 <= value <= 10:
        found = number("pool", str(value), 1, 10, of="a store")
        assert (found, type(found)) == (value, int)
    else:
        with pytest.raises(ConfigError, match=r"^pool of a store is a whole number from 1 to 10$"):
            number("pool", str(value), 1, 10, of="a store")


@given(st.floats(-100, 100))
@example(0.5)
@example(60.0)
@example(5e-05)
def test_a_number_is_read_where_they_are_not(value: float):
    if 0.5 <= value <= 60:
        assert number("timeout", repr(value), 0.5, 60.0, of="a store") == value
    else:
        with pytest.raises(ConfigError, match=r"^timeout of a store is a number from 0\.5 to 60$"):
            number("timeout", repr(value), 0.5, 60.0, of="a store")


@pytest.mark.parametrize("text", ["5", "5.", "05", "+5", ".5e1", "50e-1"])
def test_usual_ways_to_write_a_number_are_taken(text: str):
    assert number("timeout", text, 0.5, 60.0, of="a store") == 5


@pytest.mark.parametrize(
    "text",
    ["", " 5", "5 ", "5\n", "1_0", "nan", "inf", "0x5", "5s", "٥", "²", "5e", ".", "1" * 6000, "hunter2"],
)
def test_other_ways_are_not_and_are_not_shown(text: str):
    for least, most in ((1, 10), (0.5, 1e9)):
        with pytest.raises(ConfigError) as caught:
            number("timeout", text, least, most, of="a store")
        assert "hunter2" not in str(caught.value)


def test_a_whole_number_has_no_point():
    with pytest.raises(ConfigError, match="whole number"):
        number("pool", "5.0", 1, 10, of="a store")


def test_flags_and_words():
    assert [flag("f", text, of="a store") for text in ("true", "1", "false", "0")] == [
        True,
        True,
        False,
        False,
    ]
    for text in ("", "True", "yes", "hunter2"):
        with pytest.raises(ConfigError, match=r"^f of a store is true or false$"):
            flag("f", text, of="a store")
    assert one_of("w", "a", ("a", "b"), of="a store") == "a"
    with pytest.raises(ConfigError, match=r"^w of a store is one of a, b$"):
        one_of("w", "hunter2", ("a", "b"), of="a store")
