"""Ways to write a thing so that a person or a model still reads it: each is seen through."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmpipe.middleware.redact import Scanner
from llmpipe.middleware.redact.masking import mask_json

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


def between(mark: str) -> Callable[[str], str]:
    return lambda text: mark.join(text)


def digits_from(zero: int) -> Callable[[str], str]:
    return lambda text: "".join(chr(zero + int(c)) if c.isdigit() else c for c in text)


def letters_from(start: str) -> Callable[[str], str]:
    return lambda text: "".join(chr(ord(start) + ord(c) - 97) if "a" <= c <= "z" else c for c in text)


def replaced(pairs: str) -> Callable[[str], str]:
    table = str.maketrans(dict(pair.split(":") for pair in pairs.split(" ")))
    return lambda text: text.translate(table)


TRANSFORMS: dict[str, Callable[[str], str]] = {
    "zero-width space": between("\u200b"),
    "zero-width joiner": between("\u200d"),
    "word joiner": between("\u2060"),
    "byte order mark": between("\ufeff"),
    "soft hyphen": between("\u00ad"),
    "combining mark": between("\u0332"),
    "variation selector": between("\ufe0f"),
    "right-to-left mark": between("\u200f"),
    "tag characters": between("\U000e0061"),
    "ten invisible ones": between("\u200b" * 10),
    "blank hangul letter": between("\u3164"),
    "full-width": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "arabic-indic digits": digits_from(0x660),
    "devanagari digits": digits_from(0x966),
    "thai digits": digits_from(0xE50),
    "mathematical bold digits": digits_from(0x1D7CE),
    "full-width digits": digits_from(0xFF10),
    "keycap digits": lambda t: "".join(c + "\ufe0f\u20e3" if c.isdigit() else c for c in t),
    "superscript digits": replaced("0:⁰ 1:¹ 2:² 3:³ 4:⁴ 5:⁵ 6:⁶ 7:⁷ 8:⁸ 9:⁹"),
    "circled digits": replaced("1:① 2:② 3:③ 4:④ 5:⑤ 6:⑥ 7:⑦ 8:⑧ 9:⑨"),
    "mathematical letters": letters_from("\U0001d41a"),
    "circled letters": letters_from("ⓐ"),
    "cyrillic letters": replaced("a:а e:е o:о p:р c:с x:х i:і j:ј s:ѕ h:һ d:ԁ k:к m:м"),
    "greek letters": replaced("o:ο a:α p:ρ i:ι k:κ x:χ e:ε"),
    "accents": replaced("a:á e:é o:ö"),
    "non-breaking space": lambda t: t.replace(" ", "\u00a0"),
    "ideographic space": lambda t: t.replace(" ", "\u3000"),
    "other dashes": lambda t: t.replace("-", "\u2011"),
    "minus sign": lambda t: t.replace("-", "−"),
    "other dots": lambda t: t.replace(".", "。").replace("@", "＠"),
}


@pytest.mark.parametrize("kind", THINGS)
@pytest.mark.parametrize("way", TRANSFORMS)
def test_a_disguised_thing_is_found_with_all_its_characters(kind, way):
    disguised = TRANSFORMS[way](THINGS[kind])
    text = f"before {disguised} after"
    covered: set[int] = set()
    for finding in ALL.scan(text):
        covered |= set(range(finding.start, finding.end))
    last = len(disguised.rstrip("\u0332\ufe0f\u20e3"))  # a mark on the last character may stay
    assert covered >= set(range(7, 7 + last)), ALL.mask(text)


@pytest.mark.parametrize("kind", THINGS)
def test_in_json_what_is_escaped_is_found(kind):
    for escape in (lambda c: f"\\u{ord(c):04x}", lambda c: f"\\u{ord(c):04X}" if c in "@-. 14a" else c):
        text = '{"a": "' + "".join(map(escape, THINGS[kind])) + '", "b": 1}'
        assert mask_json(ALL, text) == '{"a": "[' + kind.upper() + ']", "b": 1}'


def test_a_long_run_of_invisible_characters_separates():
    assert ALL.mask("john@exam" + "\u200b" * 17 + "ple.com") == "john@exam" + "\u200b" * 17 + "ple.com"
