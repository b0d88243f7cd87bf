"""What a pattern cannot say: check digits, lengths by country or brand, words in their place.

Each check takes a match and gives the part of it that is a finding, as (start, end), or None. It
looks at nothing outside the match, but for the `CONTEXT` characters before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from llmpipe.middleware.redact import hints

__all__ = (
    "CONTEXT",
    "Check",
    "Match",
    "NOT_IN_NAMES",
    "NO_DATE",
    "NO_WORDS",
    "SURE_STREETS",
    "Span",
    "after",
    "bearer",
    "email",
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
    r"|[*xX.…•]{3,4096}\Z|\*\*|\$|\{|<|\[|%\("
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
