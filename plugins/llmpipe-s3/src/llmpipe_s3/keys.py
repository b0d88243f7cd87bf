"""The keys of objects: ``<prefix>/<trail>/records/<writer>/<number of its first record>.jsonl`` and so on.

=====================================  ============================================================
key, behind the prefix and the trail   what it is
=====================================  ============================================================
``records/<writer>/<first>.jsonl``     a batch of one writer: records that follow one another
``anchors/<writer>/<seq>.jsonl``       where the writer's chain begins; the last one counts
``alive/<writer>.json``                the writer's sign of life
=====================================  ============================================================

A batch has the number of its first record alone: of two writers who think that it is their turn both want
the same key, and the store gives it to one.
"""

from __future__ import annotations

import re
from hashlib import sha256

from attrs import frozen

__all__ = ("Keys", "folder")

# Not "%": it is read as an escape by proxies and tools on the way.
_PLAIN = re.compile(rb"[^A-Za-z0-9_-]")
_LONGEST = 160
_NUMBER = re.compile(r"(\d{19})\.jsonl")


def folder(name: str) -> str:
    """What a trail or a writer is called in a key: what is no plain letter is ``=`` and two digits of hex."""
    data = name.encode("utf-8", "surrogatepass")
    plain = _PLAIN.sub(lambda match: b"=%02X" % match[0][0], data).decode()
    if len(plain) > _LONGEST:
        return f"{plain[:60]}=={sha256(data).hexdigest()}"  # nothing else has two
    return plain or "=="


@frozen
class Keys:
    """The keys of one trail; `base` ends with a slash."""

    base: str

    def batch(self, writer: str, first: int) -> str:
        """Of the batch whose first record has that number. `writer` is a `folder` here and below."""
        return f"{self.base}records/{writer}/{first:019d}.jsonl"

    def batches(self, writer: str | None = None) -> str:
        """What the keys of all batches begin with, of a writer or of all."""
        return f"{self.base}records/" + ("" if writer is None else f"{writer}/")

    def anchor(self, writer: str, seq: int) -> str:
        """Of the anchor that stands there."""
        return f"{self.base}anchors/{writer}/{seq:019d}.jsonl"

    def anchors(self, writer: str | None = None) -> str:
        """What the keys of all anchors begin with, of a writer or of all."""
        return f"{self.base}anchors/" + ("" if writer is None else f"{writer}/")

    def alive(self, writer: str | None = None) -> str:
        """Of a sign of life; without a writer what the keys of all begin with."""
        return f"{self.base}alive/" + ("" if writer is None else f"{writer}.json")

    def sign(self, key: str) -> str:
        """The folder in the key of a sign of life; "" for another object."""
        rest = key.removeprefix(self.alive())
        return rest.removesuffix(".json") if rest.endswith(".json") and "/" not in rest else ""

    def read(self, key: str) -> tuple[str, int] | None:
        """The folder and the number in the key of a batch or an anchor; None for another object."""
        _, _, rest = key.removeprefix(self.base).partition("/")
        writer, _, name = rest.partition("/")
        match = _NUMBER.fullmatch(name)
        return (writer, int(match[1])) if match else None
