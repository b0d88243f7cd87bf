"""The detectors: for each kind, what to look for and how to be sure.

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

import re
from collections.abc import Callable
from functools import cached_property

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.redact import checks, hints
from llmpipe.middleware.redact.linear import Shape, analyse
from llmpipe.middleware.redact.view import View

__all__ = ("BUILT_IN", "Detector", "custom")

_MAX_STEPS = 20_000  # at one place of a text; about 0.2 ms there at the worst
_MAX_WIDTH = 10_000


@frozen(eq=False)
class Detector:
    """One way in which something of `kind` is written.

    `check` says which part of a match is a finding, if any is. A text in which there is one has at
    least so many `digits`, and passes `hint` if there is one: both are cheap to ask before.
    """

    kind: str
    pattern: str
    check: checks.Check | None = field(default=None, repr=False)
    digits: int = 0
    hint: Callable[[str], bool] | None = field(default=None, repr=False)

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The pattern, compiled at first use: importing compiles nothing."""
        return re.compile(self.pattern)

    @cached_property
    def shape(self) -> Shape:
        """What is proved of the pattern."""
        return analyse(self.pattern)


def custom(kind: str, pattern: str) -> Detector:
    """A detector of one's own.

    Raises: ConfigError for a kind that is no name, and for a pattern that is none, is not bounded,
    may take long, or matches nothing.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", kind):
        raise ConfigError(f"{kind!r} is no name for a kind; it takes small letters, digits and _, 32 at most")
    seen = View()
    seen.feed(pattern)  # letters are written in a pattern as they stand in a view
    shape = analyse(seen.text)
    if shape.steps > _MAX_STEPS or shape.max_width > _MAX_WIDTH:
        raise ConfigError(
            f"pattern of {kind!r} may take {shape.steps} steps at each character and match {shape.max_width} of "
            f"them; at most {_MAX_STEPS} and {_MAX_WIDTH} are allowed. Make its quantifiers possessive "
            f"({{1,64}}+) or smaller: {pattern!r}"
        )
    if re.search(seen.text, ""):
        raise ConfigError(f"pattern of {kind!r} matches the empty text: {pattern!r}")
    if shape.look_behind > checks.CONTEXT:
        raise ConfigError(f"pattern of {kind!r} looks back more than {checks.CONTEXT} characters: {pattern!r}")
    return Detector(kind, seen.text)


# ------------------------------------------------------------ email

_LABEL = r"[A-Za-z0-9](?:-{0,2}+[A-Za-z0-9]){0,62}+"
_LOCAL = r"[A-Za-z0-9](?<![A-Za-z0-9].)[A-Za-z0-9._+'\-]{0,63}+"
_AT = r"[ \t]{0,2}+[\[({<][ \t]{0,2}+(?>[Aa][Tt]|@)[ \t]{0,2}+[\])}>][ \t]{0,2}+"
_DOT = r"[ \t]{0,2}+[\[({<][ \t]{0,2}+(?>[Dd][Oo][Tt]|\.)[ \t]{0,2}+[\])}>][ \t]{0,2}+"

_EMAIL = (
    # Also as it stands in a URL (%40) and in HTML (&#64;).
    Detector("email", rf"{_LOCAL}(?>@|%40|&#64;)(?P<domain>{_LABEL}(?:\.{_LABEL}){{1,7}}+)", checks.email, hint=hints.at),
    Detector("email", rf"{_LOCAL}{_AT}{_LABEL}(?:(?>\.|{_DOT}){_LABEL}){{1,7}}+", hint=hints.bracketed_at),
)

# ------------------------------------------------------------ phone

_NOT_AFTER_WORD = "(?<![0-9A-Za-z].)"
_NOT_A_FRACTION = r"(?<![0-9][.,].)"
_GAP = r"[ .\-]{0,2}+"
_EXTENSION = r"(?:[ ,]{0,2}+(?>x|ext\.?|#)[ .]{0,2}+[0-9]{1,6}+)?+"
_LOCAL_NUMBER = rf"[2-9][0-9]{{2}}{_GAP}[0-9]{{4}}(?![0-9]){_EXTENSION}"
_CUES = "".join(
    rf"|(?<={word}{glue}.)"
    for word in ("[Pp]hone", "PHONE", "[Tt]el", "TEL", "[Mm]obile", "[Cc]ell", "[Cc]all", "[Ff]ax", "[Nn]umber")
    for glue in (" ", ": ", ":", r"\. ", " is ", " me at ", " us at ")
).lstrip("|")

_PHONES = (
    # (pattern, digits it has at least)
    # E.164: + and 7 to 15 digits; the national 0 in parentheses is often kept.
    (rf"\+{_NOT_AFTER_WORD}[1-9](?:[ .\-/()]{{0,3}}+[0-9]){{6,14}}+(?![0-9]){_EXTENSION}", 7),
    (rf"00(?<![0-9A-Za-z+]00)[1-9](?:[ .\-/()]{{0,3}}+[0-9]){{8,13}}+(?![0-9]){_EXTENSION}", 11),
    # North America: area and exchange begin with 2 to 9.
    (rf"[2-9]{_NOT_AFTER_WORD}{_NOT_A_FRACTION}[0-9]{{2}}[ .\-/]{{0,2}}+{_LOCAL_NUMBER}", 10),
    (rf"\({_NOT_AFTER_WORD}[2-9][0-9]{{2}}\){_GAP}{_LOCAL_NUMBER}", 10),
    (
        rf"1{_NOT_AFTER_WORD}{_NOT_A_FRACTION}{_GAP}(?>\([2-9][0-9]{{2}}\)|[2-9][0-9]{{2}}){_GAP}{_LOCAL_NUMBER}",
        11,
    ),
    # With the trunk prefix 0: most of Europe, Japan, Australia.
    (
        rf"0{_NOT_AFTER_WORD}(?<![0-9][.,:/\-].)[1-9](?:[ .\-/()]{{0,2}}+[0-9]){{7,9}}+(?![0-9]){_EXTENSION}",
        9,
    ),
    # China, mobile; India, mobile in two groups.
    (rf"1{_NOT_AFTER_WORD}{_NOT_A_FRACTION}[3-9][0-9][ \-]?+[0-9]{{4}}[ \-]?+[0-9]{{4}}(?![0-9])", 11),
    (rf"[6-9]{_NOT_AFTER_WORD}{_NOT_A_FRACTION}[0-9]{{4}}[ \-][0-9]{{5}}(?![0-9])", 10),
    # Any number of seven digits or more that is said to be one.
    (rf"[0-9](?>{_CUES})(?:[ .\-/()]{{0,2}}+[0-9]){{6,14}}+(?![0-9])", 7),
)
_PHONE = tuple(
    Detector("phone", pattern, checks.not_a_date, digits, hints.dense_digits) for pattern, digits in _PHONES
)

# ------------------------------------------------------------ other numbers

_AREA = r"[0-8][0-9]{2}(?<!000)(?<!666)(?<![0-9A-Za-z]...)(?<![0-9][.\-]...)"
_SERIAL = r"(?!0000)[0-9]{4}(?![0-9A-Za-z])(?!-[0-9])"
_SSN_CUES = "".join(
    rf"|(?<={word}{glue}...)"
    for word in ("[Ss][Ss][Nn]", "[Ss]ecurity [Nn]umber", "[Ss]ecurity [Nn]o\\.", "[Ss]ocial [Ss]ecurity", "[Ss]ocial")
    for glue in (" ", ": ", ":", "=", " is ", " number ", " number is ", " #")
).lstrip("|")

_SSN = (
    # Area 001-899 but 666, group 01-99, serial 0001-9999. Source: Social Security Administration,
    # "Randomization" (2011), which kept these exclusions.
    Detector(
        "ssn",
        rf"{_AREA}(?>-(?!00)[0-9]{{2}}-| (?!00)[0-9]{{2}} |\.(?!00)[0-9]{{2}}\.){_SERIAL}",
        digits=9,
        hint=hints.dense_digits,
    ),
    Detector("ssn", rf"{_AREA}(?>{_SSN_CUES})(?!00)[0-9]{{2}}{_SERIAL}", digits=9, hint=hints.dense_digits),
)

_CREDIT_CARD = (
    Detector(
        "credit_card",
        # Up to four digits more than a card has: the check finds where the card ends.
        rf"[2-68](?<![0-9].){_NOT_A_FRACTION}(?:[ .\-]{{0,2}}+[0-9]){{11,22}}+",
        checks.credit_card,
        12,
        hints.dense_digits,
    ),
)

_IBAN = (
    Detector(
        "iban",
        rf"[A-Za-z]{_NOT_AFTER_WORD}[A-Za-z][0-9]{{2}}(?:[ \-]?+[A-Za-z0-9]){{11,30}}+",
        checks.iban,
        6,
        hints.country_and_digits,
    ),
)

_IP = (
    Detector(
        "ip",
        r"[0-9](?<![0-9A-Za-z_.\-].)[0-9]{0,2}+(?:\.[0-9]{1,3}+){3}+(?![0-9A-Za-z_])(?!\.[0-9])",
        checks.ip_v4,
        4,
    ),
    Detector(
        "ip",
        r"[0-9A-Fa-f](?<![0-9A-Za-z:.].)[0-9A-Fa-f]{0,3}+:[0-9A-Fa-f]{0,4}+:[0-9A-Fa-f:.]{0,38}+(?![0-9A-Za-z:])",
        checks.ip_v6,
        hint=hints.colons,
    ),
    Detector(
        "ip",
        r":(?<![0-9A-Za-z:.].):[0-9A-Fa-f]{1,4}+[0-9A-Fa-f:.]{0,38}+(?![0-9A-Za-z:])",
        checks.ip_v6,
        hint=hints.colons,
    ),
)

# ------------------------------------------------------------ credentials

# (what it begins with, what it goes on with, at least, at most). Source: the providers' own formats.
_PREFIXES = (
    ("sk-", "A-Za-z0-9_\\-", 8, 220),  # OpenAI, Anthropic, OpenRouter, DeepSeek, …
    ("gsk_", "A-Za-z0-9", 16, 100),  # Groq
    ("AIza", "A-Za-z0-9_\\-", 30, 60),  # Google
    ("AKIA", "A-Z0-9", 16, 16),  # AWS
    ("ASIA", "A-Z0-9", 16, 16),
    ("ghp_", "A-Za-z0-9", 20, 255),  # GitHub
    ("gho_", "A-Za-z0-9", 20, 255),
    ("ghu_", "A-Za-z0-9", 20, 255),
    ("ghs_", "A-Za-z0-9", 20, 255),
    ("ghr_", "A-Za-z0-9", 20, 255),
    ("github_pat_", "A-Za-z0-9_", 20, 255),
    ("glpat-", "A-Za-z0-9_\\-", 16, 100),  # GitLab
    ("xoxa-", "A-Za-z0-9\\-", 10, 255),  # Slack
    ("xoxb-", "A-Za-z0-9\\-", 10, 255),
    ("xoxe-", "A-Za-z0-9\\-", 10, 255),
    ("xoxp-", "A-Za-z0-9\\-", 10, 255),
    ("xoxr-", "A-Za-z0-9\\-", 10, 255),
    ("xoxs-", "A-Za-z0-9\\-", 10, 255),
    ("xapp-", "A-Za-z0-9\\-", 10, 255),
    ("xai-", "A-Za-z0-9", 16, 100),
    ("hf_", "A-Za-z0-9", 16, 60),  # Hugging Face
    ("r8_", "A-Za-z0-9", 16, 60),  # Replicate
    ("pplx-", "A-Za-z0-9", 16, 100),  # Perplexity
    ("csk-", "A-Za-z0-9", 16, 100),  # Cerebras
    ("nvapi-", "A-Za-z0-9_\\-", 16, 100),
    ("tvly-", "A-Za-z0-9_\\-", 16, 100),
    ("npm_", "A-Za-z0-9", 30, 60),
    ("pypi-", "A-Za-z0-9_\\-", 30, 255),
    ("sk_live_", "A-Za-z0-9", 10, 255),  # Stripe
    ("sk_test_", "A-Za-z0-9", 10, 255),
    ("rk_live_", "A-Za-z0-9", 10, 255),
    ("whsec_", "A-Za-z0-9+/=", 16, 100),
    ("ya29.", "A-Za-z0-9_\\-", 20, 255),  # Google OAuth
    ("SG.", "A-Za-z0-9_\\-.", 30, 100),  # SendGrid
)


def _token_pattern() -> str:
    """All beginnings as one pattern, by first letter: tried at a place are those of its letter only."""
    by_letter: dict[str, list[str]] = {}
    for begin, of, least, most in _PREFIXES:
        start = re.escape(begin)
        by_letter.setdefault(begin[0], []).append(
            rf"{re.escape(begin[1:])}(?<![A-Za-z0-9]{start})[{of}]{{{least},{most}}}+"
        )
    return "|".join(f"{letter}(?>{'|'.join(rest)})" for letter, rest in by_letter.items())


_VALUE = (
    r"""[ \t]{0,4}+(?>"(?P<quoted>[^"\r\n]{4,400}+)"|'(?P<single>[^'\r\n]{4,400}+)'"""
    r"""|["']?+(?P<scheme>(?i:(?>bearer|basic|token))[ ]{1,4}+)?+(?P<bare>[^\s"'&,;<>()\[\]{}]{4,400}+))"""
)
_GLUE = r"""["'\]]{0,2}+[ \t]{0,3}+(?P<glue>(?>=>|:=|=|:))"""
_PRIVATE_KEY = "(?:(?>RSA|EC|DSA|OPENSSH|ENCRYPTED|PGP) )?+PRIVATE KEY(?: BLOCK)?+-----"

_API_KEY = (
    Detector("api_key", _token_pattern(), checks.token, hint=hints.token),
    Detector(  # JWT
        "api_key",
        r"eyJ(?<![A-Za-z0-9]eyJ)[A-Za-z0-9_\-]{8,1024}+\.[A-Za-z0-9_\-]{4,6144}+(?:\.[A-Za-z0-9_\-]{0,1024}+)?+",
        hint=hints.jwt,
    ),
    Detector(
        "api_key",
        rf"-----BEGIN {_PRIVATE_KEY}[A-Za-z0-9+/=\s\\:,]{{1,8192}}+(?:-----END {_PRIVATE_KEY})?+",
        hint=hints.private_key,
    ),
    Detector(
        "api_key",
        r"[Bb](?<![A-Za-z0-9].)earer[ \t]{1,4}+(?P<value>[A-Za-z0-9._~+/\-]{8,2048}+={0,2}+)",
        checks.bearer,
        hint=hints.bearer,
    ),
    Detector("api_key", rf"[Kk](?i:ey){_GLUE}{_VALUE}", checks.qualified_secret, hint=hints.named),
    Detector(
        "api_key",
        rf"[TtSsPpAaCc](?>(?<=[Tt])(?i:oken)|(?<=[Ss])(?i:ecret)|(?<=[Pp])(?i:(?>assword|asswd|wd|assphrase))"
        rf"|(?<=[Aa])(?i:uthorization)|(?<=[Cc])(?i:redentials?)){_GLUE}{_VALUE}",
        checks.secret,
        hint=hints.named,
    ),
    # A long random word, whatever it opens. Not in base64, where it would be one of many.
    Detector(
        "api_key",
        r"[A-Za-z0-9](?<![A-Za-z0-9+/=_.\-].)[A-Za-z0-9]{31,127}+(?![A-Za-z0-9+/=_\-])",
        checks.scrambled,
        3,
        hints.digit_in_a_long_word,
    ),
)

# ------------------------------------------------------------ postal addresses

_KINDS_OF_STREET = (
    # A longer one before its own beginning: the group that takes one does not try another.
    "Street|St|Avenue|Ave|Boulevard|Blvd|Road|Rd|Drive|Dr|Lane|Ln|Court|Ct|Circle|Cir|Place|Plaza|Pl|Square|Sq"
    "|Terrace|Ter|Parkway|Pkwy|Highway|Hwy|Way|Trail|Trl|Crescent|Cres|Close|Gardens|Mews|Row|Walk|Broadway|Loop|Alley"
)
_SPACE = "[ ]{1,2}+"
_UNIT = rf"(?:,?+{_SPACE}(?>Apartment|Apt|Suite|Ste|Unit|Floor|Room|#)\.?+[ ]?+#?+[A-Za-z0-9\-]{{1,8}}+)?+"
_CITY = r"[A-Z][A-Za-z.'\-]{1,24}+"
_TOWN = (  # , Springfield, IL 62704
    rf"(?>,?+[ \n]{{1,2}}+(?:{_CITY}[ ,]{{1,2}}+){{1,3}}?[A-Z]{{2}}(?![A-Za-z])"
    rf"(?:,?+{_SPACE}[0-9]{{5}}(?:-[0-9]{{4}})?+)?+)?+"
)
_NAME = r"[A-Z][A-Za-z'\-]{1,24}+"
_OF = r"(?:(?>della|del|des|dei|de|du|las|les|los|la|le|dos|do|di|da)[ ]){0,3}+"

_GERMAN_NUMBER = rf"[ ]{{1,2}}+[0-9]{{1,4}}+[a-z]?+(?![0-9A-Za-z])(?:,[ ][0-9]{{4,5}} {_NAME})?+"

# Behind their first letter.
_CAPITALISED = (
    rf"(?P<zip>[A-Z],?+{_SPACE}[0-9]{{5}}(?:-[0-9]{{4}})?+(?![0-9A-Za-z]))",  # IL 62704
    r"[A-Z]?+[0-9][A-Z0-9]?+ [0-9][ABD-HJLNP-UW-Z]{2}(?![A-Za-z0-9])",  # SW1A 2AA
    r"[0-9][ABCEGHJ-NPRSTV-Z][ \-]?+[0-9][ABCEGHJ-NPRSTV-Z][0-9](?![A-Za-z0-9])",  # K1A 0B1
    r"(?<=P)\.?+[ ]?+[Oo]\.?+[ ]?+(?i:box)[ ]{1,2}+#?+[0-9]{1,6}+",  # P.O. Box 12
    r"[A-Za-z\-]{1,30}?(?>stra(?>ss|\xdf)e|str\.|platz|allee|gasse|weg)" + _GERMAN_NUMBER,
    r"[a-z\-]{1,30}+ (?>Stra(?>ss|\xdf)e|Str\.|Platz|Allee|Gasse|Weg)" + _GERMAN_NUMBER,
    # Spanish, Italian, Portuguese
    r"(?>(?<=C)(?>alle|arrera|orso)|(?<=A)(?>venida|vda\.|v\.)|(?<=P)(?>laza|aseo|iazza)|(?<=R)ua|(?<=V)(?>iale|ia))"
    rf"[ ]{_OF}{_NAME}(?:[ ]{_NAME}){{0,3}}+,?+[ ](?:[nN][o.\xb0]{{0,2}}+[ ]?+)?+[0-9]{{1,4}}+(?![0-9])",
)

_POSTAL_ADDRESS = (
    Detector(
        "postal_address",
        rf"[0-9](?<![0-9A-Za-z.,$#%+\-].)[0-9]{{0,5}}+(?:-[0-9]{{1,5}}+)?+[A-Za-z]?+{_SPACE}"
        rf"(?P<names>(?>[A-Za-z0-9][A-Za-z0-9'.\-]{{0,24}}+{_SPACE}){{1,4}}?)"
        rf"(?P<kind>(?i:(?>{_KINDS_OF_STREET})))(?![A-Za-z0-9])\.?+{_UNIT}{_TOWN}",
        checks.street,
        1,
    ),
    Detector(  # France
        "postal_address",
        rf"[0-9](?<![0-9A-Za-z.,].)[0-9]{{0,3}}+(?:[ ]?+(?>bis|ter))?+,?+[ ]"
        rf"(?>[Rr]ue|[Aa]venue|[Bb]oulevard|[Bb]d|[Pp]lace|[Cc]hemin|[Ii]mpasse|[Aa]llee|[Qq]uai|[Cc]ours|[Rr]oute)[ ]"
        rf"{_OF}(?:[dl]')?+{_NAME}(?:[ ]{_NAME}){{0,3}}+(?:,?+[ ][0-9]{{5}} {_NAME})?+",
        digits=1,
    ),
    # All that begins with a capital letter, in one go.
    Detector(
        "postal_address",
        rf"[A-Z](?<![A-Za-z0-9].)(?>{'|'.join(_CAPITALISED)})",
        checks.state_and_zip,
        1,
    ),
)

BUILT_IN: dict[str, tuple[Detector, ...]] = {
    "email": _EMAIL,
    "phone": _PHONE,
    "ssn": _SSN,
    "credit_card": _CREDIT_CARD,
    "iban": _IBAN,
    "ip": _IP,
    "api_key": _API_KEY,
    "postal_address": _POSTAL_ADDRESS,
}
"""The detectors of each kind that is looked for by default."""
