"""A caller's JSON object read field by field, and what is wrong with it in the words of Anthropic's API."""

from __future__ import annotations

from llmpipe.dialects import checked
from llmpipe.errors import InvalidRequest

__all__ = ("Fields", "invalid")


def invalid(path: str, problem: str) -> InvalidRequest:
    """An InvalidRequest that names the field, as the API's own messages do; they have no codes."""
    return checked.invalid(path, problem, code=None)


class Fields(checked.Fields):
    """The same as everywhere; paths are such as ``messages.0.content.1.source.type``."""

    __slots__ = ()

    expected = "Input should be {}, not {}"
    required = "Field required"
    coded = False
