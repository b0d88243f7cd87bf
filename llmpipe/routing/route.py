"""What a router can send calls to: targets with their weights, checked where they are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.checks import called
from llmpipe.pipeline.linker import Middleware
from llmpipe.pipeline.provider import Capabilities, capabilities_of
from llmpipe.pipeline.target import Target
from llmpipe.types.frozen import EMPTY

__all__ = ("Named", "Route", "innermost", "routes_of")


def _target(value: Any) -> Any:
    if isinstance(value, Route):
        raise ConfigError(f"route {value.name!r} is given inside a route; give its target instead")
    _refuse_circles(value, ())  # first: a circle of chains has no name to look at
    parts = ("name", "endpoint", "model")
    if isinstance(value, type) or not callable(value) or not all(hasattr(value, part) for part in parts):
        raise ConfigError(f"a route leads to a provider or a chain, not to {called(value)}")
    return value


@frozen
class Route:
    """One target of a router: ``Route(openai, weight=3)``.

    Attributes:
        target: a provider, a chain or another router.
        weight: its share where a strategy gives shares, relative to the others; above 0.
        priority: for the strategy ``priority``: lower is asked first.
        name: unique in the router. A provider that is given another name here is called so in attempts,
            circuits, limits and metrics too; so two keys of one provider stay apart.
        model: what it is asked for; by default the target's own, and the caller's where it has none.
        tags: labels, for strategies and people.
        context_tokens: how many tokens its context holds; by default what its capabilities say.
        capabilities: what it can do; by default what its provider says.
        layers: middlewares round this provider in place of the router's.
    """

    target: Any = field(converter=_target)
    weight: float = field(default=1.0, kw_only=True)
    priority: int = field(default=0, kw_only=True)
    name: str = field(default="", kw_only=True)
    model: str = field(default="", kw_only=True)
    tags: Mapping[str, str] = field(default=EMPTY, kw_only=True)
    context_tokens: int | None = field(default=None, kw_only=True)
    capabilities: Capabilities | None = field(default=None, kw_only=True)
    layers: Sequence[Middleware] | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.target.name)
        weight: Any = self.weight
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < inf:
            raise ConfigError(f"route {self.name!r}: weight is a number above 0, not {weight!r}")
        for what, value, least in (("priority", self.priority, -inf), ("context_tokens", self._context, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"route {self.name!r}: {what} is a whole number, not {value!r}")
        for what, text in (("name", self.name), ("model", self.model)):
            if not isinstance(text, str):
                raise ConfigError(f"route {what} is text, not {called(text)}")
        if not isinstance(self.tags, Mapping):
            raise ConfigError(f"route {self.name!r}: tags are a mapping of names to values")

    @property
    def _context(self) -> Any:
        return 1 if self.context_tokens is None else self.context_tokens

    @property
    def can(self) -> Capabilities | None:
        """What the target can do; None where nobody says."""
        if self.capabilities is not None:
            return self.capabilities
        return capabilities_of(innermost(self.target), self.asked_model)

    @property
    def asked_model(self) -> str:
        """The model it is asked for; "" leaves that to the caller."""
        model: str = self.model or self.target.model
        return model


class Named:
    """A provider under another name: attempts, circuits and limits are counted under that."""

    def __init__(self, target: Target, name: str) -> None:
        self._target = target
        self.name = name
        self.sold_as = getattr(target, "sold_as", "") or target.name

    async def __call__(self, call: Any) -> Any:
        """The provider's reply."""
        return await self._target(call)

    def __getattr__(self, name: str) -> Any:
        if name == "_target":  # a copy that is being made
            raise AttributeError(name)
        return getattr(self._target, name)

    def __repr__(self) -> str:
        return f"{self._target!r} as {self.name!r}"


def innermost(target: Any) -> Any:
    """What stands at the core of `target`: it, unless it is a chain."""
    seen: list[Any] = []
    while isinstance(target, Chain) and not any(target is one for one in seen):
        seen.append(target)
        target = target.provider
    return target


def routes_of(targets: Iterable[Any]) -> tuple[Route, ...]:
    """`targets` as routes.

    Raises: ConfigError where there is none, for what is no target or leads back to itself, and for a name
    that is used twice.
    """
    routes = tuple(target if isinstance(target, Route) else Route(target) for target in targets)
    if not routes:
        raise ConfigError("a router needs at least one target: Router(openai, claude)")
    names: set[str] = set()
    for route in routes:
        if route.name in names:
            raise ConfigError(
                f"two targets are called {route.name!r}; name them: Route(target, name='{route.name}-2')"
            )
        names.add(route.name)
    return routes


def _refuse_circles(target: Any, path: tuple[Any, ...]) -> None:
    if any(target is above for above in path):
        raise ConfigError(f"a target leads back to itself by way of {called(target)}; no call would ever end")
    path = (*path, target)
    if isinstance(target, Chain):
        _refuse_circles(target.provider, path)
        for middleware in target.middleware:
            for inner in getattr(middleware, "targets", ()):
                _refuse_circles(inner, path)
    elif getattr(target, "nests", False):
        for inner in getattr(target, "targets", ()):
            _refuse_circles(inner, path)
