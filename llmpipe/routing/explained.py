"""What a router does, in words and worst cases, for `Chain.explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from attrs import fields, frozen

from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.explain import Explanation
from llmpipe.pipeline.provider import Capabilities
from llmpipe.routing.route import Route

__all__ = ("RouterExplanation", "capabilities_of", "explained")


@frozen
class RouterExplanation:
    """A router's targets, each with its chain. Printing it gives a table.

    `attempts` and `seconds` are the worst case of one call: a failover is begun as long as fewer than
    the router's attempts have been made.
    """

    router: str
    routes: tuple[Route, ...]
    chains: tuple[Explanation, ...]
    attempts: int
    seconds: float

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield self.router
        for route, chain in zip(self.routes, self.chains, strict=True):
            yield f"\n{route.name}: weight {route.weight:g}, priority {route.priority}"
            yield from (f"  {line}" for line in str(chain).splitlines())
        bound = "unbounded" if self.seconds == inf else f"{self.seconds:g} s"
        yield f"\nat worst: {self.attempts} attempts, {bound} for one call"


def explained(
    router: str, routes: Sequence[Route], chains: Sequence[Chain], attempts: int
) -> RouterExplanation:
    """What the router of that description does with `chains`."""
    told = tuple(chain.explain() for chain in chains)
    most = max(one.attempts for one in told)
    return RouterExplanation(
        router,
        tuple(routes),
        told,
        min(sum(one.attempts for one in told), max(most, attempts - 1 + most)),
        sum(one.seconds for one in told),
    )


def capabilities_of(routes: Sequence[Route]) -> Capabilities | None:
    """What at least one of `routes` can do; None where one of them does not say."""
    told = []
    for route in routes:
        can = route.can
        if can is None:
            return None
        told.append(can)
    flags = {a.name: any(getattr(can, a.name) for can in told) for a in fields(Capabilities)}
    sizes = [route.context_tokens or can.context_tokens for route, can in zip(routes, told, strict=True)]
    known = [size for size in sizes if size is not None]
    flags.pop("context_tokens")
    return Capabilities(**flags, context_tokens=max(known) if len(known) == len(sizes) else None)
