"""What a docstring says of a function and of its arguments, in Google's form."""

from __future__ import annotations

import inspect
import re

__all__ = ("described",)

_SECTION = re.compile(
    r"(Args|Arguments|Parameters|Attributes|Returns?|Yields?|Raises|Examples?|Notes?|Warnings?):\s*\Z"
)
_ENTRY = re.compile(r"(\*{0,2}\w+)\s*(?:\([^)]{0,200}\))?\s*:\s*(.*)\Z")


def described(documented: object) -> tuple[str, dict[str, str]]:
    """What `documented` does, and what each of its arguments (or attributes) is.

    The first is all that stands before the first section; the second comes from ``Args:`` or
    ``Attributes:``, lines that go on joined. Both are empty where there is no docstring.
    """
    lines = (inspect.getdoc(documented) or "").splitlines()
    start = next((at for at, line in enumerate(lines) if _SECTION.match(line)), len(lines))
    text = "\n".join(lines[:start]).strip()
    arguments: dict[str, str] = {}
    for at, line in enumerate(lines):
        if (match := _SECTION.match(line)) and match[1] in ("Args", "Arguments", "Parameters", "Attributes"):
            arguments.update(_entries(lines[at + 1 :]))
    return text, arguments


def _entries(lines: list[str]) -> dict[str, str]:
    """The entries of a section, which ends where a line stands as far out as its heading."""
    found: dict[str, str] = {}
    margin: int | None = None
    name = ""
    for line in lines:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if not indent:
            break
        margin = indent if margin is None else margin
        entry = _ENTRY.match(line.strip()) if indent <= margin else None
        if entry is not None:
            name = entry[1].lstrip("*")
            found[name] = entry[2]
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found
