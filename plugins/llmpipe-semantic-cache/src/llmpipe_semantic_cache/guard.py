"""What two questions must have in common to the letter, however much alike their vectors are.

Embeddings put "flights to Rome in 2024" next to "flights to Paris in 2025", and "is it safe" next to "is it
not safe". So numbers, names, negations, quotations, identifiers and code are compared as they are.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ("facts",)

_TOKEN = re.compile(r"\w+(?:[-'’.,:/@_+#%&=]\w+)*[%°]?|[$€£¥+<>=≠≤≥±×÷]|-(?=\d)", re.UNICODE)
_QUOTED = re.compile(r"`+[^`]+`+|\"[^\"]+\"|“[^”]+”|«[^»]+»")
_SENTENCE_ENDS = ".!?:;\n"
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?%?|\d+(?:\.\d+)?%?")


def _words(told: str) -> frozenset[str]:
    return frozenset(told.split())


_NEGATIONS = _words(
    """
    no not never none nobody nothing neither nor without cannot except unless against non un nicht kein
    keine nie ohne pas jamais sans non senza sin nunca não nem
    """
)
_NUMBER_WORDS = _words(
    """
    zero one two three four five six seven eight nine ten eleven twelve hundred thousand million billion
    first second third half double twice once
    """
)
# Directions and extremes, whose opposites embeddings take for neighbours.
_OPPOSITES = _words(
    """
    before after above below over under more less most least highest lowest largest smallest best worst
    increase decrease buy sell start stop open close on off up down in out from to left right north
    south east west yesterday today tomorrow min max minimum maximum earliest latest newest oldest
    enable disable add remove allow deny import export upload download encrypt decrypt true false safe
    unsafe legal illegal won lost win lose older younger larger smaller hotter colder faster slower he
    she his her
    """
)
# Words that begin a question or an order. Any other capital at the beginning of a sentence may be a name.
_BEGINNINGS = _words(
    """
    a an the what what's whats which who who's whom whose when where why how how's is are was were am be
    do does did can could will would shall should may might must have has had tell give show explain
    describe list name write please i i'm i'd you your my me we our us they their it its it's this that
    these those there here if and or but so hi hello hey thanks thank let let's make find say define
    summarise summarize compare translate help need want like know
    """
)


def facts(text: str) -> tuple[str, ...]:
    """The quotations of `text`, then its numbers, names, negations, opposites and identifiers, in order.

    In order, for "from Rome to Paris" is not "from Paris to Rome". Words of a script without capitals
    (Chinese, Arabic, Hindi, …) count as names, for nothing tells which are: there only the same words
    are the same question.
    """
    found = [match[0] for match in _QUOTED.finditer(text)]
    begins, at = True, 0
    for match in _TOKEN.finditer(text):
        begins = begins or any(mark in _SENTENCE_ENDS for mark in text[at : match.start()])
        at = match.end()
        fact = _fact(match[0], begins)
        if fact:
            found.append(fact)
        begins = False
    return tuple(found)


def _fact(token: str, begins: bool) -> str:
    """The token, as it is to be compared; "" where it need not be."""
    lower = token.casefold()
    if _NUMBER.fullmatch(token):
        return token.replace(",", "")
    if lower in _NEGATIONS or lower.endswith(("n't", "n’t")):
        return "not"
    if lower in _NUMBER_WORDS or lower in _OPPOSITES:
        return lower
    plain = token.replace("'", "").replace("’", "").replace("-", "")
    if not plain.isalpha():
        return token  # an identifier, an address, a version, a sign
    if begins and lower in _BEGINNINGS:
        return ""
    if lower in ("i", "i'm", "i’m", "i'd", "i’d", "i'll", "i’ll", "i've", "i’ve"):
        return ""
    if token != lower or _caseless(token):
        return lower
    return ""


def _caseless(token: str) -> bool:
    return any(unicodedata.category(letter) == "Lo" for letter in token)
