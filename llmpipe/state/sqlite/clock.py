"""The file's own clock: one for all processes on a machine, which no jump of the wall clock moves.

Whoever opens the file first since the machine was started notes how far the wall clock is from the clock
that counts since that start. All add that to the counting clock from then on. After the next start it is
noted anew, and never so that the file's time went back by more than a minute: machines without a battery
wake in 1970. Where a machine does not say which start it is (elsewhere than on Linux), each process
notes it for itself.
"""

from __future__ import annotations

import sqlite3
import time
from functools import cache
from pathlib import Path

from attrs import define

__all__ = ("Clock", "since_boot", "this_boot")

_NOTE = 60.0  # seconds between the times that are noted as seen

if hasattr(time, "CLOCK_BOOTTIME"):

    def since_boot() -> float:
        """Seconds since the machine was started, those in which it slept among them."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:  # pragma: no cover  (not on Linux)
    since_boot = time.monotonic


@cache
def this_boot() -> str:
    """Which start of the machine this is, or "" where that is not told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):  # not Linux, or hidden from this process
        return ""


@define
class Clock:
    """Seconds since the epoch as the file counts them, `ahead` added.

    Attributes: base is when the file was made: times of limits are counted from there, because a
        float of seconds since 1970 has only a quarter of a microsecond.
    """

    ahead: float = 0.0
    offset: float = 0.0
    base: float = 0.0
    noted: float = 0.0

    def now(self) -> float:
        """The time."""
        return since_boot() + self.offset + self.ahead

    def read(self, db: sqlite3.Connection) -> bool:
        """Go by what the file has noted; whether it was opened before since the machine was started.

        Raises: sqlite3.DatabaseError if that is not there any more, or no numbers.
        """
        row = db.execute("SELECT boot, offset, base, seen FROM clock WHERE id = 1").fetchone()
        if row is None or not all(isinstance(value, int | float) for value in row[1:]):
            raise sqlite3.DatabaseError("the file's clock is lost")
        boot, self.offset, self.base, self.noted = row
        here = this_boot()
        if here and boot == here and since_boot() + self.offset > self.noted - 2 * _NOTE:
            return True
        self.offset = max(time.time(), self.noted) - since_boot()
        db.execute("UPDATE clock SET boot = ?, offset = ? WHERE id = 1", (here, self.offset))
        return False

    def note(self, db: sqlite3.Connection) -> None:
        """Note the time as seen, if that is due; inside a transaction that writes anyway."""
        now = since_boot() + self.offset
        if now > self.noted + _NOTE:
            db.execute("UPDATE clock SET seen = ? WHERE id = 1 AND seen < ?", (now, now))
            self.noted = now
