"""Views of texts in which characters stand as escapes: JSON, and what URLs, HTML and source code write.

A text with such signs is looked at twice, as it stands and as it is meant, for ``%41`` may be an A
and may be a discount. What is encoded twice is meant once.
"""

from __future__ import annotations

import json

from llmpipe.middleware.redact.tokens import ENCODED, ENCODED_JSON, JSON, SOME_ENCODED
from llmpipe.middleware.redact.view import View

__all__ = ("EncodedJSONView", "EncodedView", "JSONView", "is_encoded", "unescape")


class JSONView(View):
    """The view of a JSON text: escapes in its strings stand in it as what they mean."""

    __slots__ = ()
    escapes = JSON


class EncodedView(View):
    r"""The view of a text that is a URL, HTML or source code: ``%40``, ``&#64;``, ``\u0040``, ``\x40``."""

    __slots__ = ()
    escapes = ENCODED


class EncodedJSONView(View):
    """The same of JSON, in whose strings URLs and HTML stand."""

    __slots__ = ()
    escapes = ENCODED_JSON


def is_encoded(text: str) -> bool:
    """Whether an `EncodedView` of `text` differs from it."""
    return ("%" in text or "&" in text or "\\" in text) and SOME_ENCODED.search(text) is not None


def unescape(raw: str) -> str:
    """What a piece of a JSON string means; as it is where it is no such piece."""
    if "\\" not in raw:
        return raw
    try:
        meaning = json.loads(f'"{raw}"', strict=False)
    except ValueError:
        return raw
    return str(meaning)
