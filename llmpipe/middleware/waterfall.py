"""A call as a picture in text: its attempts and what happened between them, on one axis of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.log.jsonlog import printable
from llmpipe.pipeline.call import Attempt, Call, Ledger, Note
from llmpipe.secret import scrub

__all__ = ("render_waterfall",)

_PICTURES = {True: ("░", "█", "✗", "┄", "◆", "…"), False: (".", "#", "x", "-", "*", "~")}
_AHEAD = frozenset(("retry.wait",))  # written before the wait; other waits are written after it


class _Row(NamedTuple):
    """One line: from `at` to `turn` (the first content) it waits, from there to `end` it reads.

    `turn` is None where there was no content, and for notes.
    """

    at: float
    turn: float | None
    end: float
    label: str
    tail: str
    note: bool


def render_waterfall(what: Call | Ledger, *, width: int = 100, unicode: bool = True) -> str:
    """The attempts of a call as bars, notes as points or, where they wait, as lines; in order of time.

    An attempt's bar is light until its first content and dark from there to its end. Each line has at
    most `width` characters, none of which breaks it, whatever stands in names and notes. Of these a
    third at least is the picture's, and what is told behind it has a half at most.

    Args: width from 40; unicode False draws with ASCII only.
    Raises: ConfigError for a smaller width.
    """
    if width < 40:
        raise ConfigError(f"a waterfall needs a width of at least 40, not {width}")
    light, dark, cross, line, point, more = _PICTURES[unicode]
    rows = sorted(_rows(what.ledger if isinstance(what, Call) else what), key=lambda row: (row.at, row.note))
    if not rows:
        return "nothing happened"
    start = min(rows[0].at, what.started_at) if isinstance(what, Call) else rows[0].at
    end = max(row.at if row.note else row.end for row in rows)  # a wait may have been cut short
    labels = min(max(len(row.label) for row in rows), width // 3)
    tails = min(max(len(row.tail) for row in rows), width // 2, width - labels - width // 3 - 2)
    chart = width - labels - tails - 2

    def column(at: float) -> int:
        # The share first: a span may be so short that no number of columns a second is finite.
        return round((chart - 1) * (min(at, end) - start) / (end - start)) if start < min(at, end) else 0

    last = _seconds(end - start)
    lines = [f"{'':{labels}} 0{last:>{chart - 1}}"]
    for row in rows:
        first, final = column(row.at), column(row.end)
        if row.turn is not None:
            turn = column(row.turn)
            bar = light * (turn - first) + dark * (final - turn + 1)
        elif not row.note:
            bar = light * (final - first) + cross
        elif final > first:
            bar = line * (final - first + 1)
        else:
            bar = point
        label, tail = _fit(row.label, labels, more), _fit(row.tail, tails, more)
        lines.append(f"{label:{labels}} {' ' * first + bar:{chart}} {tail}".rstrip())
    return "\n".join(lines)


def _rows(ledger: Ledger) -> Iterator[_Row]:
    for attempt in ledger.attempts:
        end = _end(attempt, ledger)
        label = _shown(f"{attempt.number} {attempt.provider}/{attempt.asked_model}")
        tail = _shown(_result(attempt, end))
        yield _Row(attempt.started_at, attempt.committed_at, end, label, tail, note=False)
    for note in ledger.notes:
        begun = until = note.at
        seconds = note.detail.get("seconds")
        if note.kind.endswith(".wait") and isinstance(seconds, (int, float)):
            if note.kind in _AHEAD:
                until += seconds
            else:
                begun -= seconds
        yield _Row(begun, None, until, "  " + _shown(note.kind), _shown(_detail(note)), note=True)


def _end(attempt: Attempt, ledger: Ledger) -> float:
    """When the attempt ended; of one that is open, the latest time the ledger knows."""
    if attempt.ended_at is not None:
        return attempt.ended_at
    times = [attempt.started_at, attempt.committed_at or 0.0, *(note.at for note in ledger.notes)]
    times.extend(other.ended_at for other in ledger.attempts if other.ended_at is not None)
    return max(times)


def _result(attempt: Attempt, end: float) -> str:
    said = [attempt.status]
    if isinstance(attempt.error, LLMError):
        said = [attempt.error.type, str(attempt.error.status)]
    elif isinstance(attempt.error, Exception):
        said = [type(attempt.error).__name__]
    said.append(_seconds(end - attempt.started_at))
    if (usage := attempt.usage) is not None:
        said.append(f"{usage.input_tokens}+{usage.output_tokens} tokens")
    return " ".join(said)


def _detail(note: Note) -> str:
    said = []
    for key, value in note.detail.items():
        if key == "seconds" and isinstance(value, (int, float)):
            said.append(_seconds(value))
        elif value is not None:
            said.append(f"{key}={'/'.join(map(str, value)) if isinstance(value, tuple) else value}")
    return " ".join(said)


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms"


def _shown(text: str) -> str:
    """Without credentials, and with nothing in it that breaks a line."""
    return printable(scrub(text))


def _fit(text: str, width: int, more: str) -> str:
    return text if len(text) <= width else text[: width - 1] + more
