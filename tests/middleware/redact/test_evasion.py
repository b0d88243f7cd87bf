"""Ways to write a thing so that a person or a model still reads it: each is seen through."""

from __future__ import annotations

import json

import pytest

from llmpipe.middleware.redact import Scanner
from llmpipe.middleware.redact.masking import Masking, mask_json
from llmpipe.testing.evasions import EVASIONS, TRAILING

ALL = Scanner()

THINGS = {
    "email": "john.doe@example.com",
    "phone": "+1 415 555 2671",
    "ssn": "123-45-6789",
    "credit_card": "4111 1111 1111 1111",
    "iban": "DE89 3704 0044 0532 0130 00",
    "ip": "192.168.100.200",
    "api_key": "sk-abcdef1234567890abcdef",
}


@pytest.mark.parametrize("kind", THINGS)
@pytest.mark.parametrize("way", EVASIONS)
def test_a_disguised_thing_is_found_with_all_its_characters(kind, way):
    disguised = EVASIONS[way](THINGS[kind])
    text = f"before {disguised} after"
    covered: set[int] = set()
    for finding in ALL.scan(text):
        covered |= set(range(finding.start, finding.end))
    assert covered >= set(range(7, 7 + len(disguised.rstrip(TRAILING)))), ALL.mask(text)


@pytest.mark.parametrize("kind", THINGS)
@pytest.mark.parametrize("way", EVASIONS)
def test_disguised_in_pieces_or_in_json_nothing_of_it_comes_out(kind, way):
    disguised = EVASIONS[way](THINGS[kind])
    text = f"before {disguised} after"
    for size in (1, 2, 3, 5, 8, 13):
        masking = Masking(ALL)
        pieces = [masking.feed(text[at : at + size]) for at in range(0, len(text), size)]
        assert "".join(pieces) + masking.flush() == ALL.mask(text)
    for ascii_only in (True, False):
        masked = json.loads(mask_json(ALL, json.dumps({"a": text, "b": 1}, ensure_ascii=ascii_only)))
        if "source code" in way:  # escaped twice
            continue
        assert masked["b"] == 1
        assert masked["a"].startswith("before [")
        assert masked["a"].strip(TRAILING).endswith(" after")
        assert disguised[:8] not in masked["a"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("50%4111111111111111 off", "50%[CREDIT_CARD] off"),  # %41 is an A, or none
        ("a%4012@b.org", "a%[EMAIL]"),
        ("AT&T at 415-555-2671 & co", "AT&T at [PHONE] & co"),
        ("100% of a&b;c\\d", "100% of a&b;c\\d"),
        ("half %4", "half %4"),
        ("%E2%82%AC is no finding, %C3 neither", "%E2%82%AC is no finding, %C3 neither"),
        ("&#0;&#1114112;&#x1F600; &nosuch; \\ud83d", "&#0;&#1114112;&#x1F600; &nosuch; \\ud83d"),
    ],
)
def test_what_may_be_an_escape_and_may_be_none_is_read_in_both_ways(text, masked):
    assert ALL.mask(text) == masked


def test_in_base64_what_is_found_covers_all_of_it_and_random_signs_are_left():
    text = "to: Y2FyZCA0MTExIDExMTEgMTExMSAxMTEx."
    assert ALL.mask(text) == "to: [CREDIT_CARD]."
    assert Scanner(["email"]).mask(text) == text
    assert Scanner(base64=False).mask(text) == text
    for word in (
        "aGVsbG8gd29ybGQsIDEyMw==",
        "U29tZSB0ZXh0IHdpdGhvdXQgYW55dGhpbmcgMQ==",
        "RandomWord12Abcdefghij",
    ):
        assert ALL.mask(word) == word


@pytest.mark.parametrize("kind", THINGS)
def test_in_json_what_is_escaped_is_found(kind):
    for escape in (lambda c: f"\\u{ord(c):04x}", lambda c: f"\\u{ord(c):04X}" if c in "@-. 14a" else c):
        text = '{"a": "' + "".join(map(escape, THINGS[kind])) + '", "b": 1}'
        assert mask_json(ALL, text) == '{"a": "[' + kind.upper() + ']", "b": 1}'


def test_a_long_run_of_invisible_characters_separates():
    assert ALL.mask("john@exam" + "\u200b" * 17 + "ple.com") == "john@exam" + "\u200b" * 17 + "ple.com"
