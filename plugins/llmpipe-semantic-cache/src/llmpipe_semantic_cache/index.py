"""Answers by the vectors of their questions, in partitions that never see each other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from llmpipe.types import Completion

__all__ = ("Found", "Index", "Kept", "unit")

Vector = NDArray[np.float32]


def unit(vector: Sequence[float]) -> Vector | None:
    """`vector` at length 1; None for one that has no direction, or is no row of finite numbers."""
    row = np.asarray(vector, dtype=np.float64)
    if row.ndim != 1 or not row.size or not np.isfinite(row).all():
        return None
    largest = float(np.abs(row).max())
    if largest == 0.0:
        return None
    row = row / largest  # first, so that no square overflows
    return np.asarray(row / np.linalg.norm(row), dtype=np.float32)


@frozen
class Kept:
    """A stored answer: what its question says to the letter, and what it had cost in nano-USD."""

    facts: tuple[str, ...]
    result: Completion
    saved_nano: int | None
    stored_at: float
    expires_at: float


class Found(NamedTuple):
    """The nearest answer that may be given, and the cosine of its question to the one asked."""

    kept: Kept
    similarity: float


class _Partition:
    """The answers of one tenant in one context, by place in a matrix of their vectors."""

    __slots__ = ("kept", "rows")

    def __init__(self, size: int) -> None:
        self.rows: Vector = np.zeros((0, size), dtype=np.float32)
        self.kept: list[Kept] = []

    def add(self, vector: Vector, kept: Kept, most: int) -> None:
        while len(self.kept) >= most:
            self.drop(0)
        self.rows = np.vstack((self.rows, vector))
        self.kept.append(kept)

    def drop(self, place: int) -> None:
        self.rows = np.delete(self.rows, place, axis=0)
        del self.kept[place]


class Index:
    """Answers by partition and vector, bounded; the longest unused partitions go first.

    Args: of each partition, and of partitions. Times are loop seconds.
    """

    def __init__(self, most: int, most_partitions: int) -> None:
        self.most, self.most_partitions = most, most_partitions
        self._partitions: OrderedDict[bytes, _Partition] = OrderedDict()

    def find(
        self, key: bytes, vector: Vector, facts: tuple[str, ...], threshold: float, now: float
    ) -> Found | None:
        """The nearest answer of partition `key` with the same facts, at least `threshold` alike."""
        partition = self._partitions.get(key)
        if partition is None or partition.rows.shape[1] != vector.size:
            return None
        self._partitions.move_to_end(key)
        for place in reversed(range(len(partition.kept))):
            if now >= partition.kept[place].expires_at:
                partition.drop(place)
        alike = partition.rows @ vector
        for place in np.argsort(-alike):
            similarity = float(alike[place])
            if similarity < threshold:
                return None
            if partition.kept[place].facts == facts:
                return Found(partition.kept[place], similarity)
        return None

    def add(self, key: bytes, vector: Vector, kept: Kept) -> None:
        """Keep an answer in partition `key`; the oldest goes where there is no room."""
        partition = self._partitions.get(key)
        if partition is None or partition.rows.shape[1] != vector.size:  # new, or another embedder's
            partition = self._partitions[key] = _Partition(vector.size)
        self._partitions.move_to_end(key)
        partition.add(vector, kept, self.most)
        while len(self._partitions) > self.most_partitions:
            self._partitions.popitem(last=False)

    def clear(self) -> None:
        """Forget all answers."""
        self._partitions.clear()

    def __len__(self) -> int:
        return sum(len(partition.kept) for partition in self._partitions.values())
