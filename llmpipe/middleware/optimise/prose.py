"""Fewer characters for the same prose: spaces and blank lines that say nothing, paragraphs said twice.

What may not be prose is left as it is, to the byte: fenced and indented code, lines with inline code,
JSON and anything else in brackets, preformatted HTML, tables, columns. The doubt is the text's: a
bracket that is never closed protects the rest.
"""

from __future__ import annotations

import re

__all__ = ("squeezed",)

_MIN_REPEAT = 40  # characters; a shorter paragraph that comes twice is more often a heading

# Anything that `squeezed` could change, for a look before the work.
_SPENDTHRIFT = re.compile(r"[ \t]\r?\n|\S {2}|\n[ \t\r]*\n[ \t\r]*\n")
_FENCE = re.compile(r"[ \t>]*(?:[-*+]|\d{1,9}[.)])?[ \t]*(`{3,}|~{3,})")
_FENCE_END = re.compile(r"([ \t>]*)(`{3,}|~{3,})[ \t\r]*")
_INDENTED = re.compile(r"(?: {4}|\t| {1,3}\t)[ \t]*[^ \t\r]")
_OPENS = re.compile(r"<(pre|code|script|style|textarea|svg|math)\b", re.IGNORECASE)
_NOT_PROSE = re.compile(r"[`|\t{}\[\]\\]")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\]]')
_COLUMN = re.compile(r"[^\s.!?,;:] {2,}\S")
_RUN = re.compile(r"(?<=\S) {2,}(?=\S)")


def squeezed(text: str, *, spaces: bool = True, repeats: bool = False) -> str:
    """`text` with single spaces, no spaces at line ends and one blank line where there were more.

    Line beginnings stay, for they carry lists and quotations; so does the very end, which another part may
    follow. Squeezing twice changes nothing. Linear in the length of the text.

    Args: spaces: do the above. repeats: leave out paragraphs of 40 characters or more that stand in the
    text before, unless they introduce something (end with a colon) or touch what is protected.
    """
    if not (repeats and "\n" in text) and _SPENDTHRIFT.search(text) is None:
        return text
    lines = text.split("\n")
    kept = _protected(lines)
    last = len(lines) - 1
    for at, line in enumerate(lines if spaces else ()):
        if not kept[at]:
            body, end = (line[:-1], "\r") if line.endswith("\r") else (line, "")
            lines[at] = _RUN.sub(" ", body if at == last else body.rstrip(" \t")) + end
    if repeats:
        _drop_repeats(lines, kept)
    return "\n".join(_single_spaced(lines, kept) if spaces else lines)


def _single_spaced(lines: list[str], kept: list[bool]) -> list[str]:
    """Without the second and further blank lines of each run."""
    told: list[str] = []
    blank, last = False, len(lines) - 1
    for at, line in enumerate(lines):
        if kept[at]:
            blank = False
        elif not line.strip(" \t\r"):
            if blank and at != last:  # the last is what another part may follow
                continue
            blank = at > 0  # the first line is the end of what stood before the text
        else:
            blank = False
        told.append(line)
    return told


def _drop_repeats(lines: list[str], kept: list[bool]) -> None:
    """Take out, in place, the paragraphs that were there before, with the blank lines after them."""
    seen: set[str] = set()
    drop: set[int] = set()
    begin, last = 0, len(lines)
    while begin < last:
        end = begin
        while end < last and (kept[end] or lines[end].strip(" \t\r")):
            end += 1
        if begin < end and not any(kept[begin:end]):
            paragraph = "\n".join(line.rstrip("\r") for line in lines[begin:end]).strip(" ")
            if paragraph in seen and len(paragraph) >= _MIN_REPEAT and not paragraph.endswith(":"):
                drop.update(range(begin, end))
            seen.add(paragraph)
        begin = end + 1
    if drop:
        rest = [at for at in range(last) if at not in drop]
        lines[:], kept[:] = [lines[at] for at in rest], [kept[at] for at in rest]


def _protected(lines: list[str]) -> list[bool]:
    """Which lines may not be prose."""
    kept = []
    guard = _Guard()
    columns = [False] * (len(lines) + 2)
    for at, line in enumerate(lines):
        kept.append(guard.keeps(line))
        columns[at + 1] = not kept[at] and _COLUMN.search(line) is not None
    indented = False  # the last line that is not blank is indented
    blanks: list[int] = []
    for at, line in enumerate(lines):
        # One wide space is a slip of the hand; two lines with one are columns.
        kept[at] = kept[at] or (columns[at + 1] and (columns[at] or columns[at + 2]))
        if not line.strip(" \t\r"):
            blanks.append(at)
            continue
        if indented and _INDENTED.match(line):
            for between in blanks:  # of one block of code
                kept[between] = True
        indented = _INDENTED.match(line) is not None
        blanks.clear()
    return kept


class _Guard:
    """Goes through the lines of a text, and knows in what it is."""

    __slots__ = ("_closes", "_depth", "_fence", "_quotes", "_width")

    def __init__(self) -> None:
        self._fence = ""  # which closes the code we are in
        self._quotes = self._width = 0  # of what stands before it: ``>`` and all characters
        self._closes = ""  # the tag that closes the preformatted text we are in
        self._depth = 0  # brackets open

    def keeps(self, line: str) -> bool:
        """Whether the next line may not be prose."""
        if self._fence:
            if self._ends(line):
                self._fence = ""
            return True
        if self._closes:
            if self._closes in line.lower():
                self._closes = ""
            return True
        if self._depth:
            self._depth = _depth(line, self._depth)
            return True
        return self._begins(line)

    def _ends(self, line: str) -> bool:
        """Whether the code ends with `line`. A fence further in than the first one's is part of the code."""
        found = _FENCE_END.fullmatch(line)
        return (
            found is not None
            and found[2].startswith(self._fence)
            and found[1].count(">") == self._quotes
            and len(found[1].expandtabs(4)) <= self._width + 3  # CommonMark 0.31, 4.5
        )

    def _begins(self, line: str) -> bool:
        line = line.rstrip(" \t\r")
        if not line:
            return False
        fence = _FENCE.match(line)
        if fence is not None and not (fence[1][0] == "`" and "`" in line[fence.end() :]):
            self._fence, before = fence[1], line[: fence.start(1)]
            self._quotes, self._width = before.count(">"), len(before.expandtabs(4))
            return True
        opened = _OPENS.search(line)
        if opened is not None:
            closes = f"</{opened[1].lower()}"
            if closes not in line.lower()[opened.end() :]:
                self._closes = closes
            return True
        if _NOT_PROSE.search(line) is not None:
            self._depth = _depth(line, 0)
            return True
        return _INDENTED.match(line) is not None


def _depth(line: str, depth: int) -> int:
    """How many brackets are open after `line`; those in quotes are only told apart within brackets."""
    at = 0
    while (found := _BRACKET.search(line, at)) is not None:
        mark = found[0]
        if mark in "{[":
            depth += 1
        elif mark in "}]":
            depth = max(0, depth - 1)
        elif not depth:  # a quotation mark of the prose, or of inches: go on right behind it
            at = found.start() + 1
            continue
        at = found.end()
    return depth
