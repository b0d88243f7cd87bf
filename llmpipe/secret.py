"""A key that cannot be printed."""

from __future__ import annotations

import hmac
from typing import Any, NoReturn

from llmpipe.errors import ConfigError

__all__ = ("Secret",)


class Secret:
    """A credential. Only `reveal` gives it away; str, repr, format, JSON and pickle do not.

    Raises: ConfigError if it is empty, or has characters that cannot stand in an HTTP header.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | Secret) -> None:
        text = value.reveal() if isinstance(value, Secret) else value
        if not text or not text.strip():
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
