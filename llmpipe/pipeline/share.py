"""One whole in parts, to the last unit: of requests that are sent for several calls."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from llmpipe.types import Cost, Usage

__all__ = ("Share", "split")


@frozen
class Share:
    """What part of a request that was sent for several calls is one call's: `weights[place]` of all.

    `usage` is that of the whole request. A price is that of the whole too, shared out: each part priced by
    itself would be rounded up by itself, pay a fee for each request again, and fall into another tier.
    """

    usage: Usage
    weights: Sequence[int]
    place: int

    def of(self, whole: Cost) -> Cost:
        """The part of `whole`; all parts add up to it."""
        input_nano = split(whole.input_nano, self.weights)[self.place]
        return Cost(input_nano, split(whole.output_nano, self.weights)[self.place], whole.estimated)


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts that are as their `weights`, by the largest remainder: their sum is `total`.

    No part is off by as much as 1. Among equal remainders the first ones get more.
    Args: weights are above 0.
    Source: the method of Hamilton, also of Hare and Niemeyer.
    """
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    by_remainder = sorted(range(len(weights)), key=lambda at: -(total * weights[at] % whole))
    for at in by_remainder[:left]:
        parts[at] += 1
    return parts
