"""Keys as people may see them, and values with the keys taken out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmpipe.secret import Secret, scrub

__all__ = ("mask_api_key", "sanitize_object")

_NAMES = re.compile(
    r"(?:^|[\s._-])(?:api[\s._-]?key|apikey|key|secret|token|password|passwd|passphrase|pwd|auth|authorization|"
    r"bearer|jwt|credential|cookie)s?$",
    re.IGNORECASE,
)
_WHOLLY = re.compile(
    r"(?:password|passwd|passphrase|pwd|cookie)s?$", re.IGNORECASE
)  # too short to show any of
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_DEEPEST = 50
_MOST = 1_000_000


def mask_api_key(key: str | Secret) -> str:
    """The beginning and the end of `key`: ``sk-12...cdef``; of a short one nothing: ``***``.

    Of 16 characters and more five and four are shown, of 12 and more five and two.
    """
    text = key.reveal() if isinstance(key, Secret) else str.__str__(key)
    if len(text) < 12:
        return "***"
    return f"{text[:5]}...{text[-4:] if len(text) >= 16 else text[-2:]}"


def sanitize_object(value: Any) -> Any:
    """A copy of `value` without keys: what a name says is secret is masked, what looks like a key taken out.

    Goes through mappings, lists and tuples, `_DEEPEST` levels down; a part that holds itself is ``"..."``
    there. Anything else than plain values is given as its `repr`, which hides a `Secret`. Takes time in
    proportion to what is there, and raises nothing, whatever is in it.
    """
    return _Sanitizer().of(value, 0, "")


class _Sanitizer:
    """One walk. What is met twice is looked at once."""

    def __init__(self) -> None:
        self._known: dict[
            tuple[int, str], tuple[Any, Any]
        ] = {}  # holds what it knows, so that ids stay its own
        self._seen = 0

    def of(self, value: Any, depth: int, mask: str) -> Any:
        """`value` as it may be shown; `mask` is the name that says that all in it is secret, or ""."""
        self._seen += 1
        if self._seen > _MOST:
            return "..."
        if isinstance(value, Mapping | list | tuple):
            return self._container(value, depth, mask)
        if mask:
            return _masked(value, mask)
        if isinstance(value, str):
            return scrub(str.__str__(value), max_chars=len(value) + 1)
        if value is None or type(value) in (bool, int, float):
            return value
        return _shown(value)

    def _container(self, value: Any, depth: int, mask: str) -> Any:
        if depth > _DEEPEST:
            return "..."
        place = (id(value), mask)
        if place in self._known:
            return self._known[place][1]
        self._known[place] = (value, "...")  # what is in itself
        try:
            if isinstance(value, Mapping):
                made: Any = {
                    _name(name): self.of(item, depth + 1, mask or _secret(name, item))
                    for name, item in value.items()
                }
            else:
                made = [self.of(item, depth + 1, mask) for item in value]
        except Exception:  # noqa: BLE001  a mapping of somebody else's may fail in any way, and logging must not
            made = f"<{type(value).__name__}>"
        self._known[place] = (value, made)
        return made


def _name(name: Any) -> Any:
    if isinstance(name, str):
        return scrub(str.__str__(name))
    return name if name is None or type(name) in (bool, int, float) else _shown(name)


def _secret(name: Any, value: Any) -> str:
    """`name` if it says that `value` is secret, or ""."""
    if not isinstance(name, str) or _NAMES.search(_CAMEL.sub("_", name[-64:])) is None:
        return ""
    if name.lower().endswith("tokens") and type(value) in (int, float):
        return ""  # a count, of which there are many here
    return name[-64:]


def _masked(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | Secret) and _WHOLLY.search(_CAMEL.sub("_", name)) is None:
        return mask_api_key(value)
    return "***"


def _shown(value: Any) -> str:
    try:
        return scrub(repr(value))
    except Exception:  # noqa: BLE001  somebody else's repr may fail in any way, and logging must not
        return f"<{type(value).__name__}>"
