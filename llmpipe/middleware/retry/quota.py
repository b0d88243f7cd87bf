"""How many repetitions a target may still cost us, shared by retry and hedging.

When a provider is down, every retry adds load and none helps. So repetitions are paid from a
quota for each target: a retry costs 14 (5 when throttled), its success gives that back, and each
first-try success gives 1. An empty quota means that calls fail with their own error, at once.
At 500 that is some 35 retries into a total outage, then none until the target answers again.
The numbers are those of botocore's standard retry mode (``botocore/retries/standard.py``, 2026).

The quotas of a runtime are one object, `Quotas.of(runtime)`, whatever the middlewares are called.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

from attrs import define, field

if TYPE_CHECKING:
    from llmpipe.runtime import Runtime

__all__ = ("Quota", "Quotas")

_WEIGHT = 0.2  # of the newest retry in what is learned: about the last ten matter
_HALF_LIFE = 60.0  # seconds after which half of what was learned is forgotten
_MAX_KEYS = 1000


@define(eq=False)
class Quota:
    """What repetitions at one target have cost, brought and taught.

    Attributes:
        spent: what has been taken and not given back; 0 when the quota is full.
        attempts, successful, failed: retries made, and how they ended. Those that were cancelled
            are in `attempts` only.
        delay: seconds waited before retries, in all.
    """

    spent: int = 0
    attempts: int = 0
    successful: int = 0
    failed: int = 0
    delay: float = 0.0
    _learned: dict[str, tuple[float, float]] = field(factory=dict)

    def take(self, cost: int, capacity: int) -> bool:
        """Pay `cost` out of `capacity`; False, and nothing paid, where too little is left.

        A capacity of 0 means that nothing is counted.
        """
        if not capacity:
            return True
        if self.spent + cost > capacity:
            return False
        self.spent += cost
        return True

    def give(self, amount: int) -> None:
        """Put `amount` back; never more than was taken."""
        self.spent = max(0, self.spent - amount)

    def recovery(self, kind: str, now: float) -> float:
        """The share of the latest retries after errors of type `kind` that succeeded.

        Each retry moves the share a fifth of the way to 1 or 0; silence moves it back to 0.5, half
        of the way each minute.
        """
        known = self._learned.get(kind)
        if known is None:
            return 0.5
        share, at = known
        return float(0.5 + (share - 0.5) * 0.5 ** (max(0.0, now - at) / _HALF_LIFE))

    def learn(self, kind: str, success: bool, now: float) -> None:
        """A retry after an error of type `kind` has ended."""
        share = self.recovery(kind, now)
        self._learned[kind] = (share + _WEIGHT * (success - share), now)
        if success:
            self.successful += 1
        else:
            self.failed += 1


class Quotas:
    """The quotas of all targets of a runtime, by target key; the longest untouched are dropped."""

    __slots__ = ("_by_key", "_max_keys", "owing")

    def __init__(self, max_keys: int = _MAX_KEYS) -> None:
        self._by_key: dict[Hashable, Quota] = {}
        self._max_keys = max_keys
        self.owing: set[Hashable] = set()
        """Keys of quotas that are not full: empty, and nothing to do, while all is well."""

    @staticmethod
    def of(runtime: Runtime) -> Quotas:
        """The quotas that all chains on `runtime` share."""
        return runtime.state("retry", "quotas", Quotas)

    def __getitem__(self, key: Hashable) -> Quota:
        """The quota of `key`, a full one if it is new."""
        quota = self._by_key.pop(key, None)
        if quota is None:
            quota = Quota()
            if len(self._by_key) >= self._max_keys:
                self._forget_one()
        self._by_key[key] = quota  # at the end again: the oldest use comes first
        return quota

    def _forget_one(self) -> None:
        oldest = next((k for k, q in self._by_key.items() if not q.spent), next(iter(self._by_key)))
        del self._by_key[oldest]
        self.owing.discard(oldest)

    def take(self, key: Hashable, cost: int, capacity: int) -> bool:
        """Pay for one repetition at `key`; False where its quota is empty."""
        taken = self[key].take(cost, capacity)
        if taken and capacity:
            self.owing.add(key)
        return taken

    def give(self, key: Hashable, amount: int) -> None:
        """Put back what a successful repetition cost, or 1 for a success at the first try."""
        if key in self.owing:
            quota = self[key]
            quota.give(amount)
            if not quota.spent:
                self.owing.discard(key)

    def recovery(self, key: Hashable, kind: str, now: float) -> float:
        """What is known of retries after errors of type `kind` at `key`: see `Quota.recovery`."""
        quota = self._by_key.get(key)
        return 0.5 if quota is None else quota.recovery(kind, now)

    def items(self) -> Iterator[tuple[Hashable, Quota]]:
        """Keys and quotas of all targets that were ever repeated at."""
        return iter(self._by_key.items())
