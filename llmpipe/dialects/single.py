"""One answer, of text: all that some wires can be asked for, in whichever words the caller asked."""

from __future__ import annotations

from typing import Any

from llmpipe.dialects.losses import refused

__all__ = ("one_text",)

_COUNTS = ("n", "candidateCount")  # OpenAI's word and Google's
_KINDS = ("modalities", "responseModalities")


def one_text(extra: dict[str, Any], who: str) -> None:
    """Take out of a request's `extra` what asks for a single answer of text, as that goes without saying.

    Args: who is the provider, as the error names it.
    Raises: Unsupported naming the field where more is asked for, or something else.
    """
    for name in _COUNTS:
        if extra.pop(name, None) not in (None, 1):
            raise refused(name, f"{who} answers once a request: it must be 1")
    for name in _KINDS:
        kinds = extra.pop(name, None)
        if isinstance(kinds, list) and any(str(kind).upper() != "TEXT" for kind in kinds):
            raise refused(name, f"{who} answers with text")
