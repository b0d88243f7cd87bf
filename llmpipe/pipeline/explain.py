"""What a chain does, in words: its order with reasons, and its worst cases."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from math import inf
from typing import Any, Protocol

from attrs import NOTHING, Factory, fields, frozen, has

from llmpipe.pipeline.bands import BANDS, band_of
from llmpipe.pipeline.linker import Middleware
from llmpipe.pipeline.lint import Finding, traits_of
from llmpipe.pipeline.registry import origin
from llmpipe.secret import hide_password

__all__ = ("Explained", "Explanation", "Layer", "explain")


@frozen
class Layer:
    """One middleware in its place, outermost first.

    `settings` holds what differs from the defaults; `attempts` and `seconds` are the worst case of
    this layer and all inside it (seconds infinite when nothing bounds them).
    """

    name: str
    kind: str
    priority: int
    band: str
    why: str
    settings: dict[str, Any]
    traits: frozenset[str]
    origin: str
    attempts: int
    seconds: float


@frozen
class Explanation:
    """The layers of a chain and its provider. Printing it gives a table.

    `core_attempts` and `core_seconds` are the worst case of the provider, which may be a chain.
    """

    layers: tuple[Layer, ...]
    provider: str
    findings: tuple[Finding, ...]
    core_attempts: int = 1
    core_seconds: float = inf

    @property
    def attempts(self) -> int:
        """How many requests one call may send, at worst."""
        return self.layers[0].attempts if self.layers else self.core_attempts

    @property
    def seconds(self) -> float:
        """How long one call may take, at worst."""
        return self.layers[0].seconds if self.layers else self.core_seconds

    @property
    def buffers(self) -> tuple[str, ...]:
        """The layers that hold a stream back, so that its first token comes late, or with its last."""
        return tuple(layer.name for layer in self.layers if "buffers" in layer.traits)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        wide = max([len(layer.name) for layer in self.layers] + [8])
        yield f"{'band':<9}{'prio':>5}  {'name':<{wide}}  {'settings, then why it sits there'}"
        for layer in self.layers:
            shown = [f"{key}={_shown(value)}" for key, value in layer.settings.items()]
            settings = ", ".join(shown) or "defaults"
            marks = "".join(
                f" [{trait}]" for trait in sorted(layer.traits & {"buffers", "retries", "stores"})
            )
            source = "" if layer.origin == "llmpipe" else f"  (from {layer.origin})"
            yield f"{layer.band:<9}{layer.priority:>5}  {layer.name:<{wide}}  {settings}{marks}{source}"
            yield f"{'':<16}{'':<{wide}}  {layer.why}"
        yield f"{'core':<9}{'':>5}  {self.provider}"
        bound = "unbounded" if self.seconds == inf else f"{self.seconds:g} s"
        yield f"at worst: {self.attempts} attempts, {bound} for one call"
        yield f"holds a stream back: {', '.join(self.buffers) or 'nothing'}"
        for finding in self.findings:
            yield f"{finding.level}: {finding.message}"


class Explained(Protocol):
    """What is to be explained: a chain."""

    provider: Any

    @property
    def middleware(self) -> tuple[Middleware, ...]:
        """Outermost first."""
        ...

    def lint(self) -> list[Finding]:
        """What is dangerous in it."""
        ...


def explain(chain: Explained) -> Explanation:
    """What `chain` does, layer by layer. A chain at its core adds its worst case, and not its layers."""
    explained = getattr(chain.provider, "explain", None)
    core = explained() if callable(explained) else None
    within = attempts, seconds = (1, inf) if core is None else (core.attempts, core.seconds)
    layers: list[Layer] = []
    for item in reversed(chain.middleware):
        attempts = _told(item, "worst_attempts", attempts, attempts)
        seconds = _told(item, "worst_seconds", seconds, seconds)
        layers.append(
            Layer(
                item.name,
                getattr(item, "__qualname__", type(item).__qualname__),
                item.priority,
                band_of(item.priority),
                _why(item),
                _settings(item),
                traits_of(item),
                _origin(item),
                attempts,
                seconds,
            )
        )
    return Explanation(tuple(reversed(layers)), repr(chain.provider), tuple(chain.lint()), *within)


def _told(item: Middleware, method: str, default: Any, *arguments: Any) -> Any:
    found = getattr(item, method, None)
    return found(*arguments) if callable(found) else default


def _why(item: Middleware) -> str:
    told = getattr(item, "why", "")
    if told:
        return str(told)
    band = next((text for start, (name, text) in BANDS.items() if name == band_of(item.priority)), "")
    return band or "further out than every band"


def _origin(item: Middleware) -> str:
    return "llmpipe" if type(item).__module__.startswith("llmpipe.") else origin(item.name)


def _settings(item: object) -> dict[str, Any]:
    item = getattr(item, "config", item)  # a ring of one middleware's several
    kind = type(item)
    if not has(kind):
        return {}
    changed = {}
    for attribute in fields(kind):
        if not attribute.init or attribute.name in ("name", "priority") or not attribute.repr:
            continue
        value, default = getattr(item, attribute.name), attribute.default
        if isinstance(default, Factory):  # type: ignore[arg-type]  # attrs makes it a class
            default = default.factory() if not default.takes_self else NOTHING
        if value != default:
            changed[attribute.name] = hide_password(value) if isinstance(value, str) else value
    return changed


def _shown(value: Any) -> str:
    """The repr of a setting; of what is made of settings itself, only those that were changed."""
    if isinstance(value, tuple) and value:
        return f"({', '.join(map(_shown, value))}{',' if len(value) == 1 else ''})"
    if not has(type(value)):
        return str(value) if isinstance(value, Decimal) else repr(value)
    changed = ", ".join(f"{key}={_shown(item)}" for key, item in _settings(value).items())
    return f"{type(value).__name__}({changed})"
