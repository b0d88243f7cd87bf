"""Whether the write-ahead log has lost what was in it.

SQLite reads the log up to the first frame whose checksum is wrong, and takes the rest for a commit that
was never finished. So a bit flipped in the middle of it silently undoes all commits behind that. What
is looked for here is a finished commit *behind* a frame that is wrong. The last frame is never
blamed: it is what a process that was killed while it wrote leaves, and then nobody was told of it.

Format: sqlite.org/fileformat2.html, "The Write-Ahead Log".
"""

from __future__ import annotations

import sys
from array import array
from pathlib import Path
from struct import Struct

__all__ = ("lost",)

_HEADER = Struct(">8I")
_FRAME = Struct(">6I")
_MAGIC = 0x377F0682  # its last bit says that checksums are of big-endian words
_MASK = 0xFFFFFFFF


def lost(path: str) -> str | None:
    """What is wrong with the log at `path`; None if nothing that was committed can be missing.

    Reads all of it: 20 ms a megabyte. Nobody may be writing meanwhile. Raises: OSError.
    """
    data = Path(path).read_bytes()
    if len(data) < _HEADER.size:
        return None if len(data) == 0 else "its header is cut off"
    magic, _, size, _, salt1, salt2, *sums = _HEADER.unpack_from(data)
    big = bool(magic & 1)
    if magic & ~1 != _MAGIC or _sums(data[:24], (0, 0), big=big) != tuple(sums):
        return "its header is damaged"
    running, bad, place = tuple(sums), 0, _HEADER.size
    step, number = _FRAME.size + size, 0
    while place + step <= len(data):
        number += 1
        _, commit, *salts, sum1, sum2 = _FRAME.unpack_from(data, place)
        if not bad:
            running = _sums(data[place : place + 8], running, big=big)
            running = _sums(data[place + _FRAME.size : place + step], running, big=big)
            if salts != [salt1, salt2] or running != (sum1, sum2):
                bad = number
        elif commit and salts == [salt1, salt2]:
            return f"frame {bad} of it is damaged, and a commit behind that is lost"
        place += step
    return None


def _sums(data: bytes, sums: tuple[int, ...], *, big: bool) -> tuple[int, int]:
    one, two = sums
    words = array("I", data)
    if big != (sys.byteorder == "big"):
        words.byteswap()
    pairs = iter(words)
    for word in pairs:
        one = (one + word + two) & _MASK
        two = (two + next(pairs) + one) & _MASK
    return one, two
