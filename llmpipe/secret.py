"""Keys that cannot be printed, and texts that may hold one."""

from __future__ import annotations

import hmac
import re
from typing import Any, NoReturn

from llmpipe.errors import ConfigError

__all__ = ("Secret", "hide_password", "scrub", "shown_url")


# Key formats of the providers we speak to, and the generic spellings of a credential in text. What ends a way
# has no bound: a key is hidden to its last character, however long, and what is hidden is gone over once.
# Each begins with a plain character, by which `re` passes most places over; what stands before it comes next.
_SECRETS = re.compile(
    r"[spr]k(?:-|\\u002[dD])[A-Za-z0-9_\-]{6,}"
    r"|[spr]k_(?:live|test)_[A-Za-z0-9]{8,}"
    r"|(?:gsk|xai|r8|hf|pplx|csk|fw|tvly)[_-][A-Za-z0-9_\-]{8,}"
    r"|[gnwx](?<![A-Za-z0-9].)(?:(?<=g)(?:h[oprsu]_|ithub_pat_|lpat-)|(?<=x)(?:ox[a-z]|app)-|(?<=n)vapi-"
    r"|(?<=w)hsec_)[A-Za-z0-9_\-]{10,}"
    r"|AIza[0-9A-Za-z_\-]{20,}"
    r"|ya29\.[0-9A-Za-z_.\-]{10,}"
    r"|eyJ(?<![A-Za-z0-9]eyJ)[A-Za-z0-9_\-]{8,4000}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*){0,3}"
    r"|A(?<![A-Za-z0-9]A)(?:KIA|SIA)[0-9A-Z]{16}"
    r"|://[^\s/@:\"'<>]{0,200}:[^\s/@\"'<>]{1,400}(?=@)"  # the user and the password in a URL
    r"|[?&](?i:key|sig|token|[a-z_-]{0,40}(?:_key|[_-]token|[_-]signature))=[^\s\"'&<>]{4,}"
    r"|[aA](?i:uthorization\\?[\"']?\s{0,4}[=:]\s{0,4}\\?[\"']?(?:[a-z][a-z0-9-]{2,20}\s{1,4})?)[^\s\"',;}]{4,}"
    r"|[bB](?i:earer)\s{1,4}[A-Za-z0-9._~+/\-]{4,}={0,2}"
    r"|[aAsSpP](?i:(?<=a)(?:pi[_-]?key|ccess[_-]?token)|(?<=s)ecret(?:[_-]access[_-]key)?"
    r"|(?<=p)ass(?:word|phrase))\\?[\"']?\s{0,4}[=:]\s{0,4}\\?[\"']?[^\s\"'&,;}]{4,}"
    # Not each value after this word: parsers tell of tokens too.
    r"|[tT](?i:oken)\\?[\"']?\s{0,4}[=:]\s{0,4}\\?[\"']?(?=[^\s\"'&,;}]{0,400}[0-9])[^\s\"'&,;}]{16,}"
)
_BEYOND = 8192  # characters past the cut that are looked at too, so that no key is cut in half and missed


def scrub(text: str, *, max_chars: int = 2000) -> str:
    """`text` with everything that looks like a credential replaced, cut at `max_chars` characters.

    Providers echo keys in their error texts ("Incorrect API key provided: sk-..."), so no text
    of theirs reaches an error unscrubbed. A key over which the cut goes is hidden too. Linear time: what
    is tried in vain is bounded.
    """
    if len(text) <= max_chars:
        return _SECRETS.sub("[REDACTED]", text)
    told: list[str] = []
    done = 0
    for match in _SECRETS.finditer(text[: max_chars + _BEYOND]):
        if match.start() >= max_chars:
            break
        told += (text[done : match.start()], "[REDACTED]")
        done = match.end()
    return f"{''.join(told)}{text[done:max_chars]}…"


_IN_QUERY = re.compile(
    r"([?&][a-z0-9_.-]{0,60}(?:password|passwd|pwd|secret|token|key|signature|credentials?)=)[^&#]*",
    re.IGNORECASE,
)


def hide_password(url: str) -> str:
    """`url` without its password: ``redis://user:…@host:6379/0``. What is no URL is given back as it is.

    Nor with those among its settings: ``postgresql://host/db?password=…``.

    Errs on the side of hiding: of ``redis://:password``, which lacks a host, too.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    rest = _IN_QUERY.sub(r"\1…", rest)  # first: what is said there may hold an @
    login, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        return f"{scheme}://{user}{':…' if colon else ''}@{place}"
    host, colon, port = rest.partition("/")[0].rpartition(":")
    if colon and not port.isdecimal() and not port.endswith("]"):  # ends so where it is an IPv6 address
        return f"{scheme}://{host}:…"
    return f"{scheme}://{rest}"


def shown_url(url: object) -> str:
    """The repr of a setting that may hold a URL, without its password; for `attrs.field(repr=…)`."""
    return repr(hide_password(url) if isinstance(url, str) else url)


class Secret:
    """A credential. Only `reveal` gives it away; str, repr, format, JSON and pickle do not.

    Raises: ConfigError if it is empty, or has characters that cannot stand in an HTTP header.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | Secret) -> None:
        text: object = value.reveal() if isinstance(value, Secret) else value
        if not isinstance(text, str) or not text.strip():
            raise ConfigError("an API key must be a non-empty string")
        text = text.strip()
        if not text.isascii() or not text.isprintable():
            raise ConfigError(
                "an API key must be printable ASCII, for it travels in a header; "
                "look for a line break or a typographic character copied with it"
            )
        self._value = text

    def reveal(self) -> str:
        """The key itself, for the one place that puts it into a header."""
        return self._value

    def hidden_in(self, text: str) -> str:
        """`text` without the key: a server may send it back in words that `scrub` does not know."""
        return text.replace(self._value, "[REDACTED]")

    def __repr__(self) -> str:
        return "Secret('…')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied out of the process")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self
