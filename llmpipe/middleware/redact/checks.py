"""What a pattern cannot say: check digits, lengths by country or brand, words in their place.

Each check takes a match and gives the part of it that is a finding, as (start, end), or None. It
looks at nothing outside the match, but for the `CONTEXT` characters before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from llmpipe.middleware.redact import hints

__all__ = (
    "CONTEXT",
    "Check",
    "IBAN_BY_COUNTRY",
    "Match",
    "NOT_IN_NAMES",
    "NO_DATE",
    "NO_WORDS",
    "SURE_STREETS",
    "Span",
    "after",
    "bearer",
    "email",
    "iban",
    "ibans",
    "ip_v6",
    "not_a_date",
    "scrambled",
    "secret",
    "street",
    "token",
)

CONTEXT = 32
"""Characters before a match that a check may look at."""

Span = tuple[int, int] | tuple[int, int, str]
"""Where a finding starts and ends; and its kind, where that is not the detector's."""
Match = re.Match[str]
Check = Callable[[Match], Span | None]


def after(match: Match, count: int) -> int:
    """Where the `count`-th letter or digit of the match ends."""
    text, place = match.string, match.start()
    while count:
        count -= text[place].isalnum()
        place += 1
    return place


def email(match: Match) -> Span | None:
    """Up to the last label that can be a top-level domain: two characters or more, first a letter."""
    domain = match["domain"]
    while "." in domain:
        label = domain[domain.rindex(".") + 1 :]
        if len(label) > 1 and label[0].isalpha():
            return match.start(), match.start("domain") + len(domain)
        domain = domain[: -len(label) - 1]
    return None


_DATE = re.compile(
    r"[0-3]?[0-9]([./\-])[0-3]?[0-9]\1(?:19|20)[0-9]{2}"
    r"|(?:19|20)[0-9]{2}([./\-])[01]?[0-9]\2[0-3]?[0-9]"
)


_SEPARATED = (  # without anything that could give ground
    "(?:[0-3][0-9]{0}|[0-9]{0})(?:[0-3][0-9]{0}|[0-9]{0})(?:19|20)[0-9]{{2}}"
    "|(?:19|20)[0-9]{{2}}{0}(?:[01][0-9]{0}|[0-9]{0})[0-9]"
)
NO_DATE = f"(?!{'|'.join([_SEPARATED.format(sign) for sign in ('[.]', '/', '-')])})"
"""Where `not_a_date` can say yes."""


def not_a_date(match: Match) -> Span | None:
    """All of it, unless it begins as a date does."""
    return None if _DATE.match(match.group()) else match.span()


# Source: SWIFT IBAN Registry.
_IBAN_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
_IBAN_LENGTHS = {code.encode(): length for length, codes in _IBAN_COUNTRIES.items() for code in codes.split()}
IBAN_BY_COUNTRY = "|".join(
    [
        rf"(?i:{'|'.join(codes.split())})[0-9]{{2}}(?:[ \-]?[A-Za-z0-9]){{{length - 4}}}"
        for length, codes in _IBAN_COUNTRIES.items()
    ]
)
"""Where the country is one and the length is its."""
_LONGEST_IBAN = 2 * max(_IBAN_COUNTRIES)  # with what may stand between its characters
_UPPER = bytes(range(256)).upper()
# A letter is two digits, A is 10; a digit is itself, with a space before it.
_TENS = bytes(48 + (byte - 55) // 10 if 65 <= byte <= 90 else 32 for byte in range(256))
_ONES = bytes(48 + (byte - 55) % 10 if 65 <= byte <= 90 else byte for byte in range(256))


def iban(match: Match) -> Span | None:
    """As many characters as the country's have, if they are 1 modulo 97. Source: ISO 13616-1."""
    compact = match.group().encode().translate(_UPPER, b" -")
    length = _IBAN_LENGTHS.get(compact[:2])
    if length is None or len(compact) < length:
        return None
    if int(_in_digits(compact[4:length] + compact[:4])) % 97 != 1:
        return None
    return match.start(), after(match, length)


def _in_digits(account: bytes) -> bytes:
    """With two digits for each letter."""
    number = bytearray(2 * len(account))
    number[::2], number[1::2] = account.translate(_TENS), account.translate(_ONES)
    return bytes(number.translate(None, b" "))


class _Heads(dict[bytes, tuple[int, int]]):
    """Of the first four characters, how long an account is and what the rest of it is modulo 97."""

    def __missing__(self, head: bytes) -> tuple[int, int]:
        rest = (1 - int(_in_digits(head))) * pow(10**6, -1, 97) % 97
        found = self[head] = (_IBAN_LENGTHS[head[:2]], rest)  # there are 100 of each country
        return found


_HEADS = _Heads()


def ibans(text: str, places: Iterable[int]) -> Iterator[int]:
    """Of places where `IBAN_BY_COUNTRY` matches, those where the sum is right: many in one go."""
    places, data = iter(places), text.encode("ascii", "replace").translate(_UPPER)
    while batch := list(islice(places, 512)):  # more would not stay in the processor's cache
        pieces = [data[place : place + _LONGEST_IBAN] for place in batch]
        windows = b"\xff".join(pieces).translate(None, b" -").split(b"\xff")
        heads = [_HEADS[window[:4]] for window in windows]
        accounts = [window[4:length] for window, (length, _) in zip(windows, heads, strict=True)]
        numbers = map(int, _in_digits(b"/".join(accounts)).split(b"/"))
        for place, number, (_, rest) in zip(batch, numbers, heads, strict=True):
            if number % 97 == rest:
                yield place


def _is_ip_v4(text: str) -> bool:
    parts = text.split(".")
    return len(parts) == 4 and all(
        part.isdecimal() and len(part) < 4 and int(part) < 256 and (part == "0" or part[0] != "0")
        for part in parts
    )


def ip_v6(match: Match) -> Span | None:
    """Eight groups, or fewer and one ``::``. Not ``a::b`` from source code: a digit, or three groups."""
    text = match.group().rstrip(".")
    gaps = text.count("::")
    if gaps > 1 or (gaps == 0 and text.count(":") < 6):
        return None
    if text[-1] == ":" and text[-2] != ":":
        text = text[:-1]
    groups = text.split(":")
    if "." in groups[-1] and _is_ip_v4(groups[-1]):
        groups[-1:] = ["0", "0"]
    written = [group for group in groups if group]
    if max(map(len, written)) > 4 or ":::" in text or any("." in group for group in written):
        return None
    if gaps:
        if len(written) > 7 or (len(written) < 3 and not any(map(str.isdigit, text))):
            return None
    elif len(written) != 8:
        return None
    return match.start(), match.start() + len(text)


def token(match: Match) -> Span | None:
    """A token after its known beginning: with a digit in it, or long and in both cases."""
    return match.span() if _is_random(match.group()) else None


def bearer(match: Match) -> Span | None:
    """The token of an authorization header; not a word, as in "bearer certificates"."""
    return match.span("value") if _is_random(match["value"]) else None


def _is_random(value: str) -> bool:
    return hints.digits(value) > 0 or (len(value) > 23 and not value.islower())


_NO_CAPITALS = bytes(set(range(256)) - set(range(65, 91)))


def scrambled(match: Match) -> Span | None:
    """Letters in both cases and digits mixed as no word is; not hexadecimal, which is rather a digest."""
    value = match.group()
    digits = hints.digits(value)
    upper = len(value.encode().translate(None, _NO_CAPITALS))
    mixed = digits > 2 and upper > 2 and len(value) - digits - upper > 2
    return match.span() if mixed and hints.digits(value[8:]) else None


NO_WORDS = (
    "(?i:none|null|nil|true|false|undefined|required|optional|string|str|bearer|basic|redacted|changeme)"
)
# What stands in the place of a secret: a word of configuration, a variable, a mask, its own name.
_NO_SECRET = re.compile(
    rf"{NO_WORDS}\Z"
    r"|(?i:(?:your|my|the|some|an?)?[ _\-]?(?:api|access|secret)?[ _\-]?"
    r"(?:key|token|secret|password|passwd)s?)\Z"
    r"|[*xX.…•]{3,400}\Z|\*\*|\$|\{|<|\[|%\("
)


def secret(match: Match) -> Span | None:
    """The value after ``password=`` and its like, where it can be one.

    In quotes anything can, and so can what has a digit or a sign in it. A plain word is one only
    right after ``=``: in prose and in source code words stand there (``token: the``).
    """
    for group in ("quoted", "single"):
        if match[group] is not None:
            return None if _NO_SECRET.match(match[group]) else match.span(group)
    value = match["bare"]
    if _NO_SECRET.match(value):
        return None
    word = value.replace("_", "").replace(".", "").isalpha()
    if word and match["scheme"] is None and (match["glue"] != "=" or "." in value):
        return None
    return match.span("bare")


SURE_STREETS = frozenset(("street", "avenue", "boulevard", "lane", "road"))
NOT_IN_NAMES = frozenset(
    "a about after again all along an and any are as at away blocks by car cars city day days dirt down "  # noqa: SIM905  easier to read
    "each every feet for from had has have hour hours if in is it its just kilometers kilometres km "
    "lane like m meters metres mi mile miles minute minutes month months more most my new no of off on "
    "one open or our out over people per same second seconds side small some steps than that the their "
    "them there these they this those through time times to two under until up was way week weeks were "
    "when where which who with year years your".split()
)


def street(match: Match) -> Span | None:
    """A house number, a name and a kind of street: capitalised, or a sure kind after what is no sentence."""
    names, kind = match["names"].split(), match["kind"]
    if kind[0].isupper() and not any(name[0].islower() for name in names):
        return match.span()
    if kind.lower() not in SURE_STREETS or not any(name[0].isalpha() for name in names):
        return None
    return match.span() if NOT_IN_NAMES.isdisjoint([name.lower() for name in names]) else None
