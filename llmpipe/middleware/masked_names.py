"""Tenants, users and tags as records and spans may show them; what comes again and again is masked once.

To mask a name is ten searches through it (4 µs), and there are several in all that is told of a call. What
is remembered is bounded: so many names, and only short ones, for callers make them up.
"""

from __future__ import annotations

from functools import lru_cache

from llmpipe.middleware.log.fields import MAX_TAG_CHARS, clipped
from llmpipe.secret import scrub

__all__ = ("MAX_NAMES", "masked_name", "scrubbed_name")

MAX_NAMES = 1024
"""How many are remembered."""
_SHORT = 200  # characters

_masked = lru_cache(maxsize=MAX_NAMES)(clipped)
_scrubbed = lru_cache(maxsize=MAX_NAMES)(scrub)


def masked_name(name: str) -> str:
    """`name` without credentials and personal data, cut to `MAX_TAG_CHARS`."""
    return _masked(name, MAX_TAG_CHARS) if len(name) <= _SHORT else clipped(name, MAX_TAG_CHARS)


def scrubbed_name(name: str) -> str:
    """`name` without credentials: the key of a tag, which is no caller's data."""
    return _scrubbed(name) if len(name) <= _SHORT else scrub(name)
