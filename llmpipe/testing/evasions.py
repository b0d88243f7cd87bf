"""Ways to write a thing so that a person or a model still reads it, and a pattern might not."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from urllib.parse import quote

__all__ = ("EVASIONS", "TRAILING")

Evasion = Callable[[str], str]

TRAILING = "\u0332\ufe0f\u20e3\u200b\u200d\u2060\ufeff\u00ad\u200f\U000e0061\u3164"
"""What is not seen, and may stay where it stands behind the last character of a thing."""


def _between(mark: str) -> Evasion:
    return mark.join


def _digits_from(zero: int) -> Evasion:
    return lambda text: "".join([chr(zero + int(c)) if c in "0123456789" else c for c in text])


def _letters_from(small: str) -> Evasion:
    return lambda text: "".join([chr(ord(small) + ord(c) - 97) if "a" <= c <= "z" else c for c in text])


def _exchanged(old: str, new: str) -> Evasion:
    return lambda text: text.translate(str.maketrans(old, new))


def _each(form: str) -> Evasion:
    """Each ASCII character as an escape: with `{0}` its number, as in ``{0:x}``."""
    return lambda text: "".join([form.format(ord(c)) if c < "\x80" else c for c in text])


def _signs(form: str) -> Evasion:
    """Only what is no letter and no digit as an escape."""
    return lambda text: "".join([c if c.isalnum() or c > "\x7f" else form.format(ord(c)) for c in text])


def _first(form: str) -> Evasion:
    """Only the first digit or sign as an escape."""

    def change(text: str) -> str:
        place = next((i for i, c in enumerate(text) if c < "\x80" and not c.isalpha()), 0)
        return text[:place] + form.format(ord(text[place])) + text[place + 1 :]

    return change


def _wide(text: str) -> str:
    return "".join([chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text])


EVASIONS: Mapping[str, Evasion] = {
    "zero-width space": _between("\u200b"),
    "zero-width joiner": _between("\u200d"),
    "word joiner": _between("\u2060"),
    "byte order mark": _between("\ufeff"),
    "soft hyphen": _between("\u00ad"),
    "combining mark": _between("\u0332"),
    "variation selector": _between("\ufe0f"),
    "right-to-left mark": _between("\u200f"),
    "tag characters": _between("\U000e0061"),
    "ten invisible ones": _between("\u200b" * 10),
    "blank hangul letter": _between("\u3164"),
    "full-width": _wide,
    "arabic-indic digits": _digits_from(0x660),
    "devanagari digits": _digits_from(0x966),
    "thai digits": _digits_from(0xE50),
    "mathematical bold digits": _digits_from(0x1D7CE),
    "full-width digits": _digits_from(0xFF10),
    "keycap digits": lambda text: "".join([c + "\ufe0f\u20e3" if c in "0123456789" else c for c in text]),
    "superscript digits": _exchanged("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"),
    "circled digits": _exchanged("123456789", "①②③④⑤⑥⑦⑧⑨"),
    "mathematical letters": _letters_from("\U0001d41a"),
    "circled letters": _letters_from("ⓐ"),
    "cyrillic letters": _exchanged("aeopcxijshdkm", "аеорсхіјѕһԁкм"),
    "greek letters": _exchanged("oapikxe", "οαρικχε"),
    "accents": _exchanged("aeo", "áéö"),
    "non-breaking space": _exchanged(" ", "\u00a0"),
    "ideographic space": _exchanged(" ", "\u3000"),
    "other dashes": _exchanged("-", "\u2011"),
    "minus sign": _exchanged("-", "−"),
    "other dots": _exchanged(".@", "。＠"),
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded whole": _each("%{0:02X}"),
    "percent-encoded first": _first("%{0:02x}"),
    "percent-encoded full-width": lambda text: quote(_wide(text), safe=""),
    "HTML entities, decimal": _each("&#{0};"),
    "HTML entities, hexadecimal": _each("&#x{0:x};"),
    "HTML entities of signs": _signs("&#{0};"),
    "escapes of source code": _each("\\u{0:04x}"),
    "short escapes of source code": _signs("\\x{0:02x}"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(f"to {text}".encode()).decode().rstrip("="),
}
"""How a text is disguised, by name. Of 41, eight write escapes, and two base64."""
