"""How postal addresses are written: the house in its street, the box, the code of a place."""

from __future__ import annotations

from llmpipe.middleware.redact import checks
from llmpipe.middleware.redact.detector import Detector

__all__ = ("POSTAL_ADDRESS",)

_KINDS_OF_STREET = (
    # A longer one before its own beginning: the group that takes one does not try another.
    "Street|St|Avenue|Ave|Boulevard|Blvd|Road|Rd|Drive|Dr|Lane|Ln|Court|Ct|Circle|Cir|Place|Plaza|Pl|Square|Sq"
    "|Terrace|Ter|Parkway|Pkwy|Highway|Hwy|Way|Trail|Trl|Crescent|Cres|Close|Gardens|Mews|Row|Walk|Broadway|Loop|Alley"
)
_FIRST_LETTERS = "".join(sorted({kind[0] for kind in _KINDS_OF_STREET.split("|")}))
_ENDINGS = {
    letter: "|".join([kind[1:] for kind in _KINDS_OF_STREET.split("|") if kind[0] == letter])
    for letter in _FIRST_LETTERS
}
_KIND = "|".join(
    [f"[{first}{first.lower()}](?i:{rest})" for first, rest in _ENDINGS.items()]
)  # few are tried
_SPACE = "[ ]{1,2}+"
_WORD = r"(?>[A-Za-z][A-Za-z0-9'.\-]{0,24}+|[0-9]{1,3}+(?i:st|nd|rd|th))"
_UNIT = rf"(?:,?+{_SPACE}(?>Apartment|Apt|Suite|Ste|Unit|Floor|Room|#)\.?+[ ]?+#?+[A-Za-z0-9\-]{{1,8}}+)?+"
_CITY = r"[A-Z][A-Za-z.'\-]{1,24}+"
_TOWN = (  # , Springfield, IL 62704
    rf"(?>,?+[ \n]{{1,2}}+(?:{_CITY}[ ,]{{1,2}}+){{1,3}}?[A-Z]{{2}}(?![A-Za-z])"
    rf"(?:,?+{_SPACE}[0-9]{{5}}(?:-[0-9]{{4}})?+)?+)?+"
)
_NAME = r"[A-Z][A-Za-z'\-]{1,24}+"
_OF = r"(?:(?>della|del|des|dei|de|du|las|les|los|la|le|dos|do|di|da)[ ]){0,3}+"

_GERMAN_NUMBER = rf"[ ]{{1,2}}+[0-9]{{1,4}}+[a-z]?+(?![0-9A-Za-z])(?:,[ ][0-9]{{4,5}} {_NAME})?+"
# Behind the letters of a word: to look back once is cheaper than to look for it at each letter.
_GERMAN_STREET = (
    r"(?<=[A-Za-z\-]{2}strasse)|(?<=[A-Za-z\-]{2}stra)\xdfe|(?<=[A-Za-z\-]{2}str)\."
    r"|(?<=[A-Za-z\-]{2}platz)|(?<=[A-Za-z\-]{2}allee)|(?<=[A-Za-z\-]{2}gasse)|(?<=[A-Za-z\-]{2}weg)"
)

_ROMANCE = (
    r"(?>(?<=C)(?>alle|arrera|orso)|(?<=A)(?>venida|vda\.|v\.)|(?<=P)(?>laza|aseo|iazza)"
    r"|(?<=R)ua|(?<=V)(?>iale|ia))"
)
_FRENCH = (
    "[Rr]ue|[Aa]venue|[Bb]oulevard|[Bb]d|[Pp]lace|[Cc]hemin|[Ii]mpasse|[Aa]llee|[Qq]uai|[Cc]ours|[Rr]oute"
)
_STATES = "|".join(  # of the USA: their second letters behind their first
    [
        f"(?<={first})[{second}]"
        for first, second in (
            *(
                ("A", "AEKLPRSZ"),
                ("C", "AOT"),
                ("D", "CE"),
                ("F", "L"),
                ("G", "AU"),
                ("H", "I"),
                ("I", "ADLN"),
            ),
            *(("K", "SY"), ("L", "A"), ("M", "ADEINOPST"), ("N", "CDEHJMVY"), ("O", "HKR"), ("P", "AR")),
            *(("R", "I"), ("S", "CD"), ("T", "NX"), ("U", "T"), ("V", "AIT"), ("W", "AIVY")),
        )
    ]
)
# Behind their first letter.
_CAPITALISED = (
    rf"(?>{_STATES}),?+{_SPACE}[0-9]{{5}}(?:-[0-9]{{4}})?+(?![0-9A-Za-z])",  # IL 62704
    r"[A-Z]?+[0-9][A-Z0-9]?+ [0-9][ABD-HJLNP-UW-Z]{2}(?![A-Za-z0-9])",  # SW1A 2AA
    r"[0-9][ABCEGHJ-NPRSTV-Z][ \-]?+[0-9][ABCEGHJ-NPRSTV-Z][0-9](?![A-Za-z0-9])",  # K1A 0B1
    r"(?<=P)\.?+[ ]?+[Oo]\.?+[ ]?+(?i:box)[ ]{1,2}+#?+[0-9]{1,6}+",  # P.O. Box 12
    rf"[A-Za-z\-]{{4,37}}+(?>{_GERMAN_STREET})" + _GERMAN_NUMBER,
    r"[a-z\-]{1,30}+ (?>Stra(?>ss|\xdf)e|Str\.|Platz|Allee|Gasse|Weg)" + _GERMAN_NUMBER,
    # Spanish, Italian, Portuguese
    _ROMANCE
    + rf"[ ]{_OF}{_NAME}(?:[ ]{_NAME}){{0,3}}+,?+[ ](?:[nN][o.\xb0]{{0,2}}+[ ]?+)?+[0-9]{{1,4}}+(?![0-9])",
)

_STREET = (
    rf"[0-9](?<![0-9A-Za-z.,$#%+\-].)[0-9]{{0,5}}+(?:-[0-9]{{1,5}}+)?+[A-Za-z]?+{_SPACE}"
    rf"(?P<names>(?>{_WORD}{_SPACE}){{1,4}}?)(?P<kind>(?>{_KIND}))(?![A-Za-z0-9])"
)

# What `checks.street` says yes to, behind the number.
_NAMED = (
    rf"(?:[A-Z0-9][A-Za-z0-9'.\-]{{0,24}}[ ]{{1,2}}){{1,4}}"
    rf"(?=[A-Z])(?>{_KIND})(?![A-Za-z0-9])"  # as in `_STREET`, which is done once for both
    r"|(?=(?:[0-9][0-9a-zA-Z]{1,5}[ ]{1,2}){0,3}"
    rf"(?!(?i:{_KINDS_OF_STREET})[^A-Za-z0-9])[A-Za-z])"
    rf"(?:(?!(?i:{'|'.join(sorted(checks.NOT_IN_NAMES))})[ ])[A-Za-z0-9'.\-]{{1,25}}[ ]{{1,2}}){{1,4}}"
    rf"(?i:{'|'.join(sorted(checks.SURE_STREETS))})"
)

POSTAL_ADDRESS = (
    Detector(
        "postal_address",
        rf"{_STREET}(?:\.(?=[ ,]))?+{_UNIT}{_TOWN}",
        checks.street,
        1,
        probe=_STREET,
        sieves=(rf"[0-9]{{1,6}}(?:-[0-9]{{1,5}})?[A-Za-z]?[ ]{{1,2}}(?:{_NAMED})",),
    ),
    Detector(  # France
        "postal_address",
        rf"[0-9](?<![0-9A-Za-z.,].)[0-9]{{0,3}}+(?:[ ]?+(?>bis|ter))?+,?+[ ]"
        rf"(?>{_FRENCH})[ ]{_OF}(?:[dl]')?+{_NAME}(?:[ ]{_NAME}){{0,3}}+(?:,?+[ ][0-9]{{5}} {_NAME})?+",
        digits=1,
    ),
    # All that begins with a capital letter, in one go.
    Detector(
        "postal_address",
        rf"[A-Z](?<![A-Za-z0-9\-].)(?>{'|'.join(_CAPITALISED)})",
        digits=1,
        probe=r"[0-9](?<=[A-Za-z \-#.\xb0].)",
    ),
)
