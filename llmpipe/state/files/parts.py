"""The files of one trail: the one that is written, under the trail's name, and older ones numbered behind it.

``audit.jsonl`` is written. When it is full, or its day is over, it becomes ``audit.jsonl.000001``, the next
one ``audit.jsonl.000002``, and never changes again; it is deleted as a whole when all its records are pruned.

It gets its number as a second name (a hard link), and then a new file takes the place of the first: at no
moment is there no file under the trail's name that a lock is held on. A crash between the two leaves one
file with two names, of which the number is taken back.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from attrs import frozen

__all__ = ("Rotation", "day_of", "next_part", "parts_of")


@frozen(kw_only=True)
class Rotation:
    """When a file is full.

    Attributes:
        max_bytes: of one file; a batch may go beyond it. 0: without bound.
        daily: whether each day, of UTC, has a file of its own.
    """

    max_bytes: int = 0
    daily: bool = False

    def due(self, size: int, written: int) -> bool:
        """Whether what comes next goes into another file than one of that size, last written on that day."""
        return (0 < self.max_bytes <= size) or (self.daily and written != day_of(time.time()))


def day_of(at: float) -> int:
    """The day of UTC, counted from that of the epoch."""
    return int(at // 86_400)


def parts_of(path: Path) -> list[Path]:
    """The numbered files of the trail at `path`, the oldest first."""
    form = re.compile(re.escape(path.name) + r"\.(\d{6,})")
    with os.scandir(path.parent) as entries:
        found = [(int(match[1]), entry.name) for entry in entries if (match := form.fullmatch(entry.name))]
    return [path.with_name(name) for _, name in sorted(found)]


def next_part(path: Path, parts: list[Path]) -> Path:
    """The name for the file that is written, when it is full."""
    last = int(parts[-1].name.rpartition(".")[2]) if parts else 0
    return path.with_name(f"{path.name}.{last + 1:06d}")
