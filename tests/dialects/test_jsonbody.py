"""JSON from a peer: an object or one typed error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects.jsonbody import excerpt, json_text, parse_object
from llmpipe.errors import BadReply


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_reply"),
        (b" \n ", "empty_reply"),
        (b"\xef\xbb\xbf", "empty_reply"),
        (b"null", "reply_not_object"),
        (b"[]", "reply_not_object"),
        (b'"text"', "reply_not_object"),
        (b"1", "reply_not_object"),
        (b"<html><body>Login</body></html>", "reply_not_json"),
        (b'{"a": NaN}', "reply_not_json"),
        (b'{"a": Infinity}', "reply_not_json"),
        (b'{"a": 1e400}', "reply_not_json"),
        (b'{"a": "\\ud800"}', "reply_not_json"),
        (b'{"a": "\xff"}', "reply_not_json"),
        (b'{"a": 1}{"b": 2}', "reply_not_json"),
        (b'{"a": 1', "reply_not_json"),
        (b"{'a': 1}", "reply_not_json"),
        (b"[" * 100_000, "reply_not_json"),
        (b'{"a":' * 100_000, "reply_not_json"),
        (b'{"a": ' + b"9" * 1_000_000 + b"}", "reply_not_json"),
        (b"\x00" * 100, "reply_not_json"),
    ],
)
def test_what_is_no_object_is_a_bad_reply_that_says_so(body, code):
    with pytest.raises(BadReply) as caught:
        parse_object(body, "the reply")
    error = caught.value
    assert (error.code, error.phase) == (code, "body")
    assert error.message.startswith("the reply is ")
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b"\xef\xbb\xbf {}", {}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"a": 123456789012345678901234567890}', {"a": 1.2345678901234568e29}),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, None),
    ],
)
def test_objects_are_parsed(body, value):
    found = parse_object(body, "the reply")
    assert value is None or found == value


def test_a_million_keys_are_no_reason_to_fail():
    body = b"{" + b",".join(b'"%d":0' % n for n in range(200_000)) + b"}"
    assert len(parse_object(body, "the reply")) == 200_000


def test_the_error_names_the_place_and_shows_the_beginning():
    with pytest.raises(BadReply, match="character 6") as caught:
        parse_object(b'{"ab":oops}', "the list of models")
    assert '{"ab":oops}' in caught.value.message


def test_credentials_in_the_beginning_are_not_shown():
    with pytest.raises(BadReply) as caught:
        parse_object(b"Incorrect API key provided: sk-abcdefghijklmnop1234", "the reply")
    assert "abcdefghijklmnop" not in caught.value.message


@given(st.binary(max_size=300))
def test_any_bytes_give_an_object_or_a_bad_reply(body):
    try:
        found = parse_object(body, "the reply")
    except BadReply as error:
        found = {"error": error.message}
    assert isinstance(found, dict)


@given(st.binary(max_size=3000))
def test_an_excerpt_is_short_and_printable(body):
    text = excerpt(body)
    assert len(text) <= 200
    assert text.isprintable()


def test_json_is_written_as_text_and_what_cannot_be_is_a_bad_reply():
    assert json_text({"a": [1]}, "it") == '{"a":[1]}'
    nested: list[object] = []
    for _ in range(300):
        nested = [nested]
    with pytest.raises(BadReply, match="cannot be written"):
        json_text(nested, "it")
