r"""How characters are escaped: in JSON (``\n``, ``\u0040``), and in URLs, HTML and source code."""

from __future__ import annotations

import html
import re

from llmpipe.middleware.redact.characters import is_none

__all__ = ("ENCODED", "ENCODED_JSON", "Escapes", "JSON", "SOME_ENCODED", "SlashEscapes")

_HEX = "[0-9A-Fa-f]"
_NEXT = f"%[89ABab]{_HEX}"  # a byte of UTF-8 that is not the first
_NAMES = (
    "commat|period|plus|lpar|rpar|nbsp|hyphen|dash|colon|comma|sol|lowbar|num|equals|quot|apos|amp|ensp|emsp"
)
_HALF = rf"\\u[Dd][89ABab]{_HEX}{{2}}"  # the first of the two of a character beyond 0xFFFF
_U = rf"{_HALF}\\u[Dd][C-Fc-f]{_HEX}{{2}}|\\u{_HEX}{{4}}"
_CODE = rf"{_U}|\\x{_HEX}{{2}}"
# In URLs, the most frequent bytes first, and in HTML. `(?:…|)` is quicker than `(?:…)?+`, and the same here.
_WEB = (
    rf"%(?:[0-9ABab]{_HEX}|[CDcd]{_HEX}(?:{_NEXT}|)"
    rf"|[Ee]{_HEX}(?:{_NEXT}{_NEXT}|)|[Ff]{_HEX}(?:{_NEXT}{_NEXT}{_NEXT}|))"
    rf"|&(?:#(?:[0-9]{{1,7}}+|[xX]{_HEX}{{1,6}}+)|{_NAMES});"
)
SOME_ENCODED = re.compile(f"{_WEB}|{_CODE}")
"""An escape of `ENCODED`."""

# What begins at the end of a text so that more could make an escape of it; and how long that can be.
_WEB_BEGUN = (
    rf"%(?:[CDcd](?:{_HEX}(?:%[89ABab]?)?)?|[Ee](?:{_HEX}(?:{_NEXT})?(?:%[89ABab]?)?)?"
    rf"|[Ff](?:{_HEX}(?:{_NEXT}){{0,2}}(?:%[89ABab]?)?)?|{_HEX}?)\Z"
    rf"|&(?:#(?:[0-9]{{0,7}}|[xX]{_HEX}{{0,6}})|[a-z]{{0,6}})\Z"
)
_U_BEGUN = rf"{_HALF}(?:\\(?:u{_HEX}{{0,3}})?)?\Z|\\(?:u{_HEX}{{0,3}})?\Z"
_CODE_BEGUN = rf"{_U_BEGUN}|\\x{_HEX}?\Z"
_LONGEST_BEGUN = 11

_BLOCK = 16_384  # characters at once: memory for many more is fetched anew, which takes a fifth of all time
# Of JSON, those of two characters; and those that say of a sign that it is meant, with what stands for it.
_SHORT = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\b": "\b", r"\f": "\f"}
_MEANT = {r"\\": "\ufdd0", r"\%": "\ufdd1", r"\&": "\ufdd2"}


class _Meanings(dict[str, str]):
    """What escapes stand for; those in use, for there are a million. Of a backslash, `slash`."""

    def __init__(self, slash: str = "\\") -> None:
        self._slash = slash

    def __missing__(self, token: str) -> str:
        found = _meaning(token).replace("\\", self._slash)
        if len(self) >= 8_192:
            self.clear()  # or one text that is full of rare ones would make all others slow for ever
        self[token] = found
        return found


def _meaning(token: str) -> str:
    """The one character that an escape stands for, or one half of one."""
    if token[0] == "%":
        char = bytes.fromhex(token.replace("%", "")).decode("utf-8", "replace")
    elif token[0] == "&":
        char = html.unescape(token)
    elif len(token) == 12:
        char = chr(0x10000 + ((int(token[2:6], 16) & 0x3FF) << 10) + (int(token[8:], 16) & 0x3FF))
    else:
        char = chr(int(token[2:], 16))  # noqa: FURB166  there is no prefix
    return char if len(char) == 1 and not is_none(char) else "\ufffd"


class Escapes:
    """One way to write characters as several.

    Args:
        signs: what an escape begins with.
        token: what one looks like.
        begun: what one looks like of which the rest has not come.
    """

    def __init__(self, signs: str, token: str, begun: str) -> None:
        self._signs = signs
        self._token = re.compile(f"({token})", re.DOTALL)
        self._whole = re.compile(f"(?:[^{re.escape(signs)}]++|(?!{begun})(?:{token}|.))*+", re.DOTALL)
        self._meanings = _Meanings()

    def may_be_in(self, text: str) -> bool:
        """Whether there is a sign of one in `text`."""
        for sign in self._signs:  # noqa: SIM110  half the time of any() with a generator
            if sign in text:
                return True
        return False

    def split(self, text: str) -> list[str]:
        """Text and escapes by turns. Each escape stands for one character."""
        return self._token.split(text)

    def read(self, text: str) -> str:
        """What `text` means."""
        if len(text) <= _BLOCK:
            return self._read(text)
        blocks: list[str] = []
        place = 0
        while place < len(text):
            block = text[place : place + _BLOCK]
            whole = self.whole(block) if place + _BLOCK < len(text) else len(block)
            blocks.append(self._read(block[:whole]))
            place += whole
        return "".join(blocks)

    def whole(self, text: str) -> int:
        """Up to where it means that whatever comes behind it. It does not begin within an escape."""
        place = len(text) - _LONGEST_BEGUN
        match = self._whole.match(text, self._between(text, place) if place > 0 else 0)
        assert match is not None, "it matches the empty text too"
        return match.end()

    def _read(self, text: str) -> str:
        return self._exchanged(text, self._token)

    def _exchanged(self, text: str, token: re.Pattern[str]) -> str:
        parts = token.split(text)
        parts[1::2] = map(self._meanings.__getitem__, parts[1::2])
        return "".join(parts)

    def _between(self, text: str, place: int) -> int:
        """`place`, or the next where there is no sign but such as may begin an escape."""
        return place


class SlashEscapes(Escapes):
    r"""One in which a ``\`` says of whatever comes behind it that this is meant, as in JSON.

    There can be one for every two characters, too many to look at each of them: so those of two are
    exchanged by kind, those first in which a sign is meant, for which another stands until the end.
    """

    def __init__(self, signs: str, token: str, begun: str) -> None:
        super().__init__(signs, rf"{token}|\\.", begun)
        self._long = re.compile(f"({token})")
        self._meanings = _Meanings(_MEANT[r"\\"])

    def _read(self, text: str) -> str:
        for token, stand_in in _MEANT.items():
            text = text.replace(stand_in, "\ufffd").replace(token, stand_in)
        for token, char in _SHORT.items():
            text = text.replace(token, char)
        text = self._exchanged(text, self._long)
        alone = "\\" if text.endswith("\\") else ""  # there is nothing behind it
        text = text.replace("\\", "") + alone
        for token, stand_in in _MEANT.items():
            text = text.replace(stand_in, token[1])
        return text

    def _between(self, text: str, place: int) -> int:
        slashes = place - len(text[:place].rstrip("\\"))
        return place + slashes % 2


JSON = SlashEscapes("\\", _U, _U_BEGUN)
ENCODED = Escapes("%&\\", f"{_WEB}|{_CODE}", f"{_WEB_BEGUN}|{_CODE_BEGUN}")
ENCODED_JSON = SlashEscapes("%&\\", f"{_WEB}|{_U}", f"{_WEB_BEGUN}|{_U_BEGUN}")
