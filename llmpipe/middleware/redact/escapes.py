"""Views of texts in which characters stand as escapes: JSON, and what URLs, HTML and source code write.

A text with such signs is looked at twice, as it stands and as it is meant, for ``%41`` may be an A
and may be a discount. What is encoded twice is meant once.
"""

from __future__ import annotations

import html
import json
import re
from functools import lru_cache
from typing import ClassVar

from llmpipe.middleware.redact.view import View

__all__ = (
    "EncodedJSONView",
    "EncodedView",
    "EscapedView",
    "JSONView",
    "TOKENS",
    "is_encoded",
    "meaning",
    "unescape",
)

_HEX = "[0-9A-Fa-f]"
_NEXT = f"%[89ABab]{_HEX}"  # a byte of UTF-8 that is not the first
_PERCENT = (
    f"%[CDcd]{_HEX}{_NEXT}|%[Ee]{_HEX}(?:{_NEXT}){{2}}|%[Ff]{_HEX}(?:{_NEXT}){{3}}|%{_HEX}{{2}}",
    (
        rf"%(?:[CDcd](?:{_HEX}(?:%[89ABab]?)?)?|[Ee](?:{_HEX}(?:{_NEXT})?(?:%[89ABab]?)?)?"
        rf"|[Ff](?:{_HEX}(?:{_NEXT}){{0,2}}(?:%[89ABab]?)?)?|{_HEX}?)\Z"
    ),
)
_NAMES = (
    "commat|period|plus|lpar|rpar|nbsp|hyphen|dash|colon|comma|sol|lowbar|num|equals|quot|apos|amp|ensp|emsp"
)
_ENTITY = (
    rf"&(?:#(?:[0-9]{{1,7}}|[xX]{_HEX}{{1,6}})|{_NAMES});",
    rf"&(?:#(?:[0-9]{{0,7}}|[xX]{_HEX}{{0,6}})|[a-z]{{0,6}})\Z",
)
_U = (rf"\\u{_HEX}{{4}}", rf"\\u{_HEX}{{0,3}}\Z|\\\Z")
_JSON = (rf"{_U[0]}|\\.", _U[1])
_CODE = (rf"{_U[0]}|\\x{_HEX}{{2}}", rf"{_U[1]}|\\x{_HEX}?\Z")
_SHORT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _tokens(signs: str, *ways: tuple[str, str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What a text is made of while more may come, and at its end."""
    plain = f"(?P<plain>[^{re.escape(signs)}]+|[{re.escape(signs)}])"
    whole, begun = "|".join([way for way, _ in ways]), "|".join([way for _, way in ways])
    return (
        re.compile(f"(?P<open>{begun})|{whole}|{plain}", re.DOTALL),
        re.compile(f"(?P<open>(?!))|{whole}|{plain}", re.DOTALL),
    )


class EscapedView(View):
    """The view of a text in which escapes stand as what they mean."""

    __slots__ = ("_waiting",)

    signs: ClassVar[str]
    """What an escape begins with."""
    tokens: ClassVar[tuple[re.Pattern[str], re.Pattern[str]]]

    def __init__(self) -> None:
        super().__init__()
        self._waiting = 0  # characters at the end of `raw` that are not in `text` yet

    def feed(self, piece: str) -> None:
        """Add `piece` at the end."""
        if not self._waiting and not any([sign in piece for sign in self.signs]):  # noqa: C419  a list is faster
            super().feed(piece)
            return
        self._take(len(self.raw) - self._waiting, piece)

    def finish(self) -> None:
        """No more will come: half an escape is text."""
        if self._waiting:
            self._take(len(self.raw) - self._waiting, "", last=True)

    def _take(self, base: int, piece: str, *, last: bool = False) -> None:
        self.raw += piece
        characters: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        until, high = len(self.raw), ""  # an escaped first half of a surrogate pair, if that came last
        for token in self.tokens[last].finditer(self.raw, base):
            start, end = token.span()
            if token.lastgroup == "open":
                until = start
                break
            if token.lastgroup == "plain":
                characters.append(token.group())
                starts.extend(range(start, end))
                ends.extend(range(start + 1, end + 1))
                high = ""
                continue
            char = meaning(token.group())
            if high and "\udc00" <= char <= "\udfff":
                characters[-1] = chr(0x10000 + ((ord(high) & 0x3FF) << 10) + (ord(char) & 0x3FF))
                ends[-1] = end
                high = ""
                continue
            high = char if "\ud800" <= char <= "\udbff" else ""
            characters.append(char)
            starts.append(start)
            ends.append(end)
        if high and not last and ends[-1] == until:
            until = starts.pop()  # the second half of the pair may come
            characters.pop()
            ends.pop()
        self._waiting = len(self.raw) - until
        self._append("".join(characters), starts, ends)

    def _viewed(self) -> int:
        return len(self.raw) - self._waiting


class JSONView(EscapedView):
    """The view of a JSON text: escapes in its strings stand in it as what they mean."""

    __slots__ = ()
    signs = "\\"
    tokens = _tokens("\\", _JSON)


class EncodedView(EscapedView):
    r"""The view of a text that is a URL, HTML or source code: ``%40``, ``&#64;``, ``\u0040``, ``\x40``."""

    __slots__ = ()
    signs = "%&\\"
    tokens = _tokens("%&\\", _PERCENT, _ENTITY, _CODE)


class EncodedJSONView(EscapedView):
    """The same of JSON, in whose strings URLs and HTML stand."""

    __slots__ = ()
    signs = "%&\\"
    tokens = _tokens("%&\\", _PERCENT, _ENTITY, _JSON)


# The two halves of a character beyond 0xFFFF; and the most frequent bytes before all others.
_PAIR = rf"\\u[Dd][89ABab]{_HEX}{{2}}\\u[Dd][C-Fc-f]{_HEX}{{2}}"
_URL = rf"%[0-7]{_HEX}|{_PERCENT[0]}"
TOKENS: dict[type[View], re.Pattern[str]] = {
    JSONView: re.compile(f"({_PAIR}|{_JSON[0]})", re.DOTALL),
    EncodedView: re.compile(f"({_URL}|{_ENTITY[0]}|{_PAIR}|{_CODE[0]})"),
    EncodedJSONView: re.compile(f"({_URL}|{_ENTITY[0]}|{_PAIR}|{_JSON[0]})", re.DOTALL),
}
"""What the escapes of a view look like, in a text of which all is there."""
_SOME = re.compile(rf"%{_HEX}{{2}}|{_ENTITY[0]}|{_CODE[0]}")


def is_encoded(text: str) -> bool:
    """Whether an `EncodedView` of `text` differs from it."""
    return ("%" in text or "&" in text or "\\" in text) and _SOME.search(text) is not None


@lru_cache(maxsize=4096)
def meaning(token: str) -> str:
    """The one character that an escape stands for, or two halves of one."""
    if token[0] == "%":
        char = bytes.fromhex(token.replace("%", "")).decode("utf-8", "replace")
    elif token[0] == "&":
        char = html.unescape(token)
    elif len(token) == 12:
        char = chr(0x10000 + ((int(token[2:6], 16) & 0x3FF) << 10) + (int(token[8:], 16) & 0x3FF))
    elif len(token) > 2:
        char = chr(int(token[2:], 16))  # noqa: FURB166  there is no prefix
    else:
        char = _SHORT.get(token[1], token[1])
    return char if len(char) == 1 else "\ufffd"


def unescape(raw: str) -> str:
    """What a piece of a JSON string means; as it is where it is no such piece."""
    if "\\" not in raw:
        return raw
    try:
        meaning = json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return raw
    return str(meaning)
