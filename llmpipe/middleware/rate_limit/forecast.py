"""How long it will take: when a call that waits is admitted, and when one that is refused should come again.

Both are worked out on copies of the queue and the buckets, by the same rules, as if nobody else came. Where
the order makes no difference, as under a single limit, or where many wait, what is asked for is taken as one
lump instead, which costs the same for any queue.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmpipe.middleware.rate_limit.buckets import Bucket
from llmpipe.middleware.rate_limit.fair import FairQueue, Waiter
from llmpipe.middleware.rate_limit.permit import Amounts

__all__ = ("admitted_at", "bounds", "come_again_at", "total")

_SIMULATED = 100  # waiters whose turns are worked out one by one
_AGREED = 1e-3  # seconds: bounds nearer than that need no closer look


def total(amounts: Iterable[Amounts]) -> Amounts:
    """All of them together."""
    requests = tokens = inputs = outputs = 0.0
    for one in amounts:
        requests, tokens = requests + one[0], tokens + one[1]
        inputs, outputs = inputs + one[2], outputs + one[3]
    return (requests, tokens, inputs, outputs)


def bounds(buckets: list[Bucket], ahead: Amounts, amounts: Amounts, start: float) -> tuple[float, float]:
    """When `amounts` are admitted after calls that ask for `ahead` together: not before, and not after.

    That holds for any order of them. No bucket is emptied faster than it fills, so the slowest is the lower
    bound; and at any moment one of them is waited for, none for longer than it takes by itself, so their
    sum is the upper one.
    """
    slowest = together = 0.0
    for bucket in buckets:
        asked, kind = amounts[bucket.kind], bucket.kind
        wait = (
            max(0.0, bucket.full_at - start)
            + (ahead[kind] + min(asked, bucket.burst) - bucket.burst) / bucket.rate
        )
        if wait > 0.0:
            slowest, together = max(slowest, wait), together + wait
    return start + slowest, start + together


def admitted_at(queue: FairQueue, waiter: Waiter, buckets: list[Bucket], start: float) -> tuple[float, int]:
    """When `waiter`, who is in `queue`, has its turn if nobody comes, and as which it is served, from 1.

    Exact under one limit and one tenant, and with up to a hundred in the queue; else about right.
    """
    if len(queue) > _SIMULATED:
        turns, others = queue.turns(waiter), len(queue) - 1
        asked = total(sums for _, sums in queue.levels.values())
        share = (turns - 1) / others
        requests, tokens, inputs, outputs = (
            (s - own) * share for s, own in zip(asked, waiter.amounts, strict=True)
        )
        return bounds(buckets, (requests, tokens, inputs, outputs), waiter.amounts, start)[0], turns
    queue, buckets = queue.copy(), [_twin(bucket) for bucket in buckets]
    at, turns = start, 0
    while True:
        turns += 1
        head = queue.head
        at = _admit(head.amounts, buckets, at)
        if head is waiter:
            return at, turns
        queue.pop(at)


def come_again_at(queue: FairQueue, caller: Waiter, buckets: list[Bucket], start: float) -> float:
    """When `caller`, who is not in `queue`, would be admitted at once if it came then, and nobody else."""
    urgent = total(sums for level, (_, sums) in queue.levels.items() if level >= caller.priority)
    low, high = bounds(buckets, urgent, caller.amounts, start)
    if len(queue) > _SIMULATED or (len(queue.levels) <= 1 and high - low <= _AGREED):
        return low
    queue, buckets = queue.copy(), [_twin(bucket) for bucket in buckets]
    at = start
    while queue:
        head = queue.head
        mine = _room(caller.amounts, buckets, at)
        if mine <= _room(head.amounts, buckets, at) and queue.leads(caller, mine):
            return mine
        at = _admit(head.amounts, buckets, at)
        queue.pop(at)
    return _room(caller.amounts, buckets, at)


def _room(amounts: Amounts, buckets: list[Bucket], at: float) -> float:
    """When there is room for `amounts`, from `at` on."""
    return max([at, *[at + bucket.wait(amounts[bucket.kind], at) for bucket in buckets]])


def _admit(amounts: Amounts, buckets: list[Bucket], at: float) -> float:
    """Take `amounts` as soon as there is room, and say when that was."""
    at = _room(amounts, buckets, at)
    for bucket in buckets:
        bucket.take(amounts[bucket.kind], at)
    return at


def _twin(bucket: Bucket) -> Bucket:
    return Bucket(bucket.limit, bucket.kind, bucket.rate, bucket.burst, bucket.full_at)
