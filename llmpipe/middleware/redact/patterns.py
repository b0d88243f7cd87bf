"""The detectors of each kind, and here those of numbers and addresses on the Internet.

Patterns match on the view of a text (see `view`), so they speak of ASCII only. The rules they keep,
which `linear.analyse` and its tests hold them to:

- Every quantifier has a bound, and where it could give ground it is possessive, so that the work
  at one place of a text is bounded and small. Linear time follows.
- The first thing in a pattern is a character or a class of them, and what must not stand before it
  is said right after it by a look-behind one longer. `re` then skips at three nanoseconds a
  character what cannot begin a match; with the look-behind first it tries every place, at thirty.
- A quantifier that stops before its bound looks at the character after it, so a match at the end of
  a chunk is known to be undecided.
"""

from __future__ import annotations

from llmpipe.middleware.redact import accounts, cards, checks, hints
from llmpipe.middleware.redact.addresses import POSTAL_ADDRESS
from llmpipe.middleware.redact.credentials import API_KEY
from llmpipe.middleware.redact.detector import Detector

__all__ = ("BUILT_IN",)

# ------------------------------------------------------------ email

_LABEL = r"[A-Za-z0-9](?:-{0,2}+[A-Za-z0-9]){0,62}+(?<!-)"  # which is always so; `planes` knows by it
_LOCAL = r"[A-Za-z0-9](?<![A-Za-z0-9].)[A-Za-z0-9._+'\-]{0,63}+"
_AT = r"[ \t]{0,2}+[\[({<][ \t]{0,2}+(?>[Aa][Tt]|@)[ \t]{0,2}+[\])}>][ \t]{0,2}+"
_DOT = r"[ \t]{0,2}+[\[({<][ \t]{0,2}+(?>[Dd][Oo][Tt]|\.)[ \t]{0,2}+[\])}>][ \t]{0,2}+"

_TOP = r"\.[A-Za-z]-{0,2}+[A-Za-z0-9]"
_TO_ITS_TOP = rf"{_LABEL}(?:(?!{_TOP})\.{_LABEL}){{0,6}}+{_TOP}"
_AT_DOMAIN = rf"(?>@|%40|&#64;)(?={_TO_ITS_TOP})(?P<domain>{_LABEL}(?:\.{_LABEL}){{1,7}}+)"
_BRACKETED = rf"{_AT}{_LABEL}(?:(?>\.|{_DOT}){_LABEL}){{1,7}}+"

_EMAIL = (
    # Also as it stands in a URL (%40) and in HTML (&#64;).
    Detector(
        "email",
        _LOCAL + _AT_DOMAIN,
        checks.email,
        hint=hints.at,
        inner=_AT_DOMAIN,
    ),
    Detector("email", _LOCAL + _BRACKETED, hint=hints.bracketed_at, inner=_BRACKETED),
)


def _cues(words: str, last: str, glues: tuple[str, ...], begun: str) -> str:
    """Looks back over `begun` for one of `words`, which end with `last`, and glue behind it.

    In two steps, for to try each word with each glue takes ten times as long.
    """
    ways = [
        f"(?<={last}{glue}{begun})(?>{'|'.join([f'(?<={word}{glue}{begun})' for word in words.split('|')])})"
        for glue in glues
    ]
    return f"(?>{'|'.join(ways)})"


# ------------------------------------------------------------ phone

_NOT_AFTER_WORD = "(?<![0-9A-Za-z].)"
_NOT_A_FRACTION = r"(?<![0-9][.,].)"
_GAP = r"[ .\-]{0,2}+"
_EXTENSION = r"(?:[ ,]{0,2}+(?>x|ext\.?|#)[ .]{0,2}+[0-9]{1,6}+)?+"
_LOCAL_NUMBER = rf"[2-9][0-9]{{2}}{_GAP}[0-9]{{4}}(?![0-9]){_EXTENSION}"
_CUES = _cues(
    "[Pp]hone|PHONE|[Tt]el|TEL|[Mm]obile|[Cc]ell|[Cc]all|[Ff]ax|[Nn]umber",
    "[eElLxr]",
    (" ", ": ", ":", r"\. ", " is ", " me at ", " us at ", '": "', '":"'),
    ".",
)

_PHONES = (
    # (pattern, digits it has at least). The loops over digits give ground, a few at most: after a
    # number another may follow, and the first must end where a group of digits does.
    # E.164: + and 7 to 15 digits; the national 0 in parentheses is often kept.
    (rf"\+{_NOT_AFTER_WORD}[1-9](?:[ .\-/()]{{0,3}}+[0-9]){{6,14}}(?![0-9]){_EXTENSION}", 7),
    (rf"00(?<![0-9A-Za-z+]00)[1-9](?:[ .\-/()]{{0,3}}+[0-9]){{8,13}}(?![0-9]){_EXTENSION}", 11),
    # North America: area and exchange begin with 2 to 9.
    (rf"[2-9]{_NOT_AFTER_WORD}{_NOT_A_FRACTION}[0-9]{{2}}[ .\-/]{{0,2}}+{_LOCAL_NUMBER}", 10),
    (rf"\({_NOT_AFTER_WORD}[2-9][0-9]{{2}}\){_GAP}{_LOCAL_NUMBER}", 10),
    (
        rf"1{_NOT_AFTER_WORD}{_NOT_A_FRACTION}{_GAP}(?>\([2-9][0-9]{{2}}\)|[2-9][0-9]{{2}}){_GAP}{_LOCAL_NUMBER}",
        11,
    ),
    # With the trunk prefix 0: most of Europe, Japan, Australia.
    (
        rf"0{_NOT_AFTER_WORD}(?<![0-9][.,:/\-].)[1-9](?:[ .\-/()]{{0,2}}+[0-9]){{7,10}}(?![0-9]){_EXTENSION}",
        9,
    ),
    # China, mobile; India, mobile in two groups.
    (rf"1{_NOT_AFTER_WORD}{_NOT_A_FRACTION}[3-9][0-9][ \-]?+[0-9]{{4}}[ \-]?+[0-9]{{4}}(?![0-9])", 11),
    (rf"[6-9]{_NOT_AFTER_WORD}{_NOT_A_FRACTION}[0-9]{{4}}[ \-][0-9]{{5}}(?![0-9])", 10),
    # Any number of seven digits or more that is said to be one.
    (rf"[0-9](?<![0-9].)(?<=[ :\x22].){_CUES}(?:[ .\-/()]{{0,2}}+[0-9]){{6,14}}(?![0-9])", 7),
)
_PHONE = tuple(
    Detector("phone", pattern, checks.not_a_date, digits, hints.dense_digits, sieves=(checks.NO_DATE,))
    for pattern, digits in _PHONES
)

# ------------------------------------------------------------ other numbers

_AREA = r"[0-8][0-9]{2}(?<!000)(?<!666)(?<![0-9A-Za-z]...)(?<![0-9][.\-]...)"
_SERIAL = r"(?!0000)[0-9]{4}(?![0-9A-Za-z])(?!-[0-9])"
_SSN_CUES = _cues(
    r"[Ss][Ss][Nn]|[Ss]ecurity [Nn]umber|[Ss]ecurity [Nn]o\.|[Ss]ocial [Ss]ecurity|[Ss]ocial",
    "[nNry.l]",
    (" ", ": ", ":", "=", " is ", " number ", " number is ", " #", '": "', '":"'),
    "...",
)

_SSN = (
    # Area 001-899 but 666, group 01-99, serial 0001-9999. Source: Social Security Administration,
    # "Randomization" (2011), which kept these exclusions.
    Detector(
        "ssn",
        rf"{_AREA}(?>-(?!00)[0-9]{{2}}-| (?!00)[0-9]{{2}} |\.(?!00)[0-9]{{2}}\.){_SERIAL}",
        digits=9,
        hint=hints.dense_digits,
    ),
    Detector(
        "ssn",
        rf"{_AREA}(?<=[ :=#\x22]...){_SSN_CUES}(?!00)[0-9]{{2}}{_SERIAL}",
        digits=9,
        hint=hints.dense_digits,
    ),
)

_CREDIT_CARD = (
    Detector(
        "credit_card",
        # Up to four digits more than a card has: the check finds where the card ends.
        rf"[2-68](?<![0-9].){_NOT_A_FRACTION}(?:[ .\-]{{0,2}}+[0-9]){{11,22}}+",
        cards.credit_card,
        12,
        hints.dense_digits,
        places=cards.cards,
    ),
)

_IBAN = (
    Detector(
        "iban",
        rf"[A-Za-z]{_NOT_AFTER_WORD}[A-Za-z][0-9]{{2}}(?:[ \-]?+[A-Za-z0-9]){{11,30}}+",
        accounts.iban,
        6,
        probe="[0-9](?<=[A-Za-z]{2}.)[0-9]",
        places=accounts.ibans,
    ),
)

# What follows the first digit of a number up to 255 without leading zeros.
_OCTET = "(?<=1)[0-9]{0,2}+|(?<=2)(?>[0-4][0-9]?+|5[0-5]?+|[6-9])?+|(?<=[3-9])[0-9]?+|"
# Of an address without digits three groups at least: `a::b` stands in source code.
_SURE = (
    "(?>(?<=[0-9])|(?=[A-Fa-f:.]{0,44}+[0-9])"
    "|(?<=[A-Fa-f])(?=[A-Fa-f]{0,3}+:{1,2}+[A-Fa-f]{1,4}+:{1,2}+[A-Fa-f])"
    "|(?=:[A-Fa-f]{1,4}+:[A-Fa-f]{1,4}+:[A-Fa-f]))"
)

_GROUP, _BYTE = "[0-9A-Fa-f]{1,4}", "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_FOUR, _END = rf"{_BYTE}(?:\.{_BYTE}){{3}}", r"\.{0,38}(?![0-9A-Za-z:.])"
_SHORT_V6 = [  # `::` after so many groups; four bytes count for two
    rf"(?:{_GROUP}:){{{before}}}:(?:(?:{_GROUP}:){{0,{6 - before}}}{_GROUP}:?)?{_END}"
    + (rf"|(?:{_GROUP}:){{{before}}}:(?:{_GROUP}:){{0,{5 - before}}}{_FOUR}:?{_END}" if before < 6 else "")
    for before in range(1, 7)
]
_IP_V6 = "|".join(
    [
        rf"(?:{_GROUP}:){{6}}(?:{_GROUP}:{_GROUP}|{_FOUR}):?{_END}",
        *_SHORT_V6,
        rf"(?:{_GROUP}:){{7}}:{_END}",
        rf"::(?:{_GROUP}:){{0,6}}{_GROUP}:?{_END}|::(?:{_GROUP}:){{0,5}}{_FOUR}:?{_END}",
    ]
)
"""Where `checks.ip_v6` says yes, but for the digit it wants of a short one."""

_IP = (
    Detector(
        "ip",
        rf"[0-9](?<![0-9A-Za-z_.\-].)(?>{_OCTET})(?:\.[0-9](?>{_OCTET})){{3}}+(?![0-9A-Za-z_])(?!\.[0-9])",
        digits=4,
    ),
    Detector(
        "ip",
        rf"[0-9A-Fa-f](?<![0-9A-Za-z.].)(?<![0-9A-Fa-f:]:.){_SURE}[0-9A-Fa-f]{{0,3}}+:[0-9A-Fa-f]{{0,4}}+:[0-9A-Fa-f:.]{{0,38}}+(?![0-9A-Za-z:])",
        checks.ip_v6,
        hint=hints.colons,
        sieves=(_IP_V6,),
    ),
    Detector(
        "ip",
        rf":(?<![0-9A-Za-z:.].){_SURE}:[0-9A-Fa-f]{{1,4}}+[0-9A-Fa-f:.]{{0,38}}+(?![0-9A-Za-z:])",
        checks.ip_v6,
        hint=hints.colons,
        sieves=(_IP_V6,),
    ),
)

BUILT_IN: dict[str, tuple[Detector, ...]] = {
    "email": _EMAIL,
    "ssn": _SSN,
    "credit_card": _CREDIT_CARD,
    "iban": _IBAN,
    "phone": _PHONE,
    "ip": _IP,
    "api_key": API_KEY,
    "postal_address": POSTAL_ADDRESS,
}
"""The detectors of each kind that is looked for by default; where two find the same, the first stands."""
