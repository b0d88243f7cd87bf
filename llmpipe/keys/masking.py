"""Keys as people may see them, and values with the keys taken out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmpipe.secret import Secret, scrub

__all__ = ("mask_api_key", "sanitize_object")

_NAMES = re.compile(
    r"(?:^|[_-])(?:api[_-]?key|apikey|key|secret|token|password|passwd|authorization|credential|cookie)s?$",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Names that end so and hold no secret.
_HARMLESS = frozenset((
    "completion_tokens", "input_tokens", "max_tokens", "output_tokens", "prompt_tokens", "tokens",
    "total_tokens",
))  # fmt: skip
_DEEPEST = 50


def mask_api_key(key: str | Secret) -> str:
    """The beginning and the end of `key`: ``sk-12...cdef``; of a short one nothing: ``***``.

    Of 16 characters and more five and four are shown, of 12 and more five and two.
    """
    text = key.reveal() if isinstance(key, Secret) else str(key)
    if len(text) < 12:
        return "***"
    return f"{text[:5]}...{text[-4:] if len(text) >= 16 else text[-2:]}"


def sanitize_object(value: Any, *, _depth: int = 0) -> Any:
    """A copy of `value` without keys: what a name says is secret is masked, what looks like a key taken out.

    Goes through mappings, lists and tuples, `_DEEPEST` levels down. Anything else than plain values is given
    as its `repr`, which hides a `Secret`.
    """
    if _depth > _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {
            (scrub(name) if isinstance(name, str) else name): (
                _masked(item, _depth + 1) if _secret(name) else sanitize_object(item, _depth=_depth + 1)
            )
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [sanitize_object(item, _depth=_depth + 1) for item in value]
    if isinstance(value, str):
        return scrub(value, max_chars=len(value) + 1)
    if value is None or isinstance(value, bool | int | float):
        return value
    return scrub(repr(value))


def _secret(name: Any) -> bool:
    if not isinstance(name, str) or name.lower() in _HARMLESS:
        return False
    return _NAMES.search(_CAMEL.sub("_", name)) is not None


def _masked(value: Any, depth: int) -> Any:
    if isinstance(value, str | Secret):
        return mask_api_key(value)
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        masked = [(name, _masked(item, depth + 1) if depth <= _DEEPEST else "...") for name, item in items]
        return dict(masked) if isinstance(value, Mapping) else [item for _, item in masked]
    return value if value is None or isinstance(value, bool) else "***"
