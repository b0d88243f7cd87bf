"""What a chain does, in words: its order with reasons, its worst cases, and what is dangerous in it."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from attrs import NOTHING, Factory, fields, frozen, has

from llmpipe.pipeline.bands import ADMIT, AGAIN, BANDS, GUARD, HEALTH, OBSERVE, ROUTE, SHORTCUT, band_of
from llmpipe.pipeline.linker import Middleware

if TYPE_CHECKING:
    from llmpipe.pipeline.chain import Chain

__all__ = ("Explanation", "Finding", "Layer", "explain", "lint")


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
    """The layers of a chain and its provider. Printing it gives a table."""

    layers: tuple[Layer, ...]
    provider: str
    findings: tuple[Finding, ...]

    @property
    def attempts(self) -> int:
        """How many requests one call may send, at worst."""
        return self.layers[0].attempts if self.layers else 1

    @property
    def seconds(self) -> float:
        """How long one call may take, at worst."""
        return self.layers[0].seconds if self.layers else inf

    @property
    def buffers(self) -> tuple[str, ...]:
        """The layers that hold a stream back, so that its first token comes with its last."""
        return tuple(layer.name for layer in self.layers if "buffers" in layer.traits)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        wide = max([len(layer.name) for layer in self.layers] + [8])
        yield f"{'band':<9}{'prio':>5}  {'name':<{wide}}  {'settings, then why it sits there'}"
        for layer in self.layers:
            settings = ", ".join(f"{key}={value!r}" for key, value in layer.settings.items()) or "defaults"
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


@frozen
class Finding:
    """Something dangerous: a stable `code`, what it is, and what to do about it."""

    code: str
    level: Literal["error", "warning"]
    message: str
    layers: tuple[str, ...] = ()


def explain(chain: Chain) -> Explanation:
    """What `chain` does, layer by layer."""
    attempts, seconds = 1, inf
    layers: list[Layer] = []
    for item in reversed(chain.middleware):
        attempts *= _told(item, "worst_attempts", 1)
        seconds = _told(item, "worst_seconds", seconds, seconds)
        layers.append(
            Layer(
                item.name,
                getattr(item, "__qualname__", type(item).__qualname__),
                item.priority,
                band_of(item.priority),
                _why(item),
                _settings(item),
                _traits(item),
                _origin(item),
                attempts,
                seconds,
            )
        )
    return Explanation(tuple(reversed(layers)), repr(chain.provider), tuple(lint(chain)))


def _told(item: Middleware, method: str, default: Any, *arguments: Any) -> Any:
    found = getattr(item, method, None)
    return found(*arguments) if callable(found) else default


def _traits(item: Middleware) -> frozenset[str]:
    return frozenset(getattr(item, "traits", ()))


def _why(item: Middleware) -> str:
    told = getattr(item, "why", "")
    if told:
        return str(told)
    band = next((text for start, (name, text) in BANDS.items() if name == band_of(item.priority)), "")
    return band or "further out than every band"


def _origin(item: Middleware) -> str:
    from llmpipe.pipeline.registry import origin

    return "llmpipe" if type(item).__module__.startswith("llmpipe.") else origin(item.name)


def _settings(item: Middleware) -> dict[str, Any]:
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
            changed[attribute.name] = value
    return changed


def lint(chain: Chain) -> list[Finding]:
    """What is dangerous in the order or the settings of `chain`, worst first."""
    findings = [finding for rule in _RULES for finding in rule(chain.middleware)]
    return sorted(findings, key=lambda finding: finding.level)


def _with(layers: tuple[Middleware, ...], trait: str) -> list[Middleware]:
    return [item for item in layers if trait in _traits(item)]


def _stores_outside_masking(layers: tuple[Middleware, ...]) -> Iterator[Finding]:
    for store in _with(layers, "stores"):
        for mask in _with(layers, "masks"):
            if store.priority < mask.priority:
                yield Finding(
                    "cache-outside-redaction",
                    "error",
                    f"{store.name!r} ({store.priority}) runs outside {mask.name!r} ({mask.priority}), so it stores what "
                    f"{mask.name!r} would mask; give it a priority above {mask.priority} ({SHORTCUT} is usual)",
                    (store.name, mask.name),
                )


def _retries_inside_what_judges(layers: tuple[Middleware, ...]) -> Iterator[Finding]:
    for health in _with(layers, "judges"):
        for retry in _with(layers, "retries"):
            if health.priority < retry.priority:
                yield Finding(
                    "breaker-outside-retry",
                    "warning",
                    f"{health.name!r} ({health.priority}) runs outside {retry.name!r} ({retry.priority}), so it sees one "
                    f"failure for all attempts and opens late; the usual priorities are {HEALTH} and {AGAIN}",
                    (health.name, retry.name),
                )


def _limits_outside_retry(layers: tuple[Middleware, ...]) -> Iterator[Finding]:
    for admit in _with(layers, "admits"):
        for retry in _with(layers, "retries"):
            if admit.priority < retry.priority:
                yield Finding(
                    "limit-outside-retry",
                    "warning",
                    f"{admit.name!r} ({admit.priority}) runs outside {retry.name!r} ({retry.priority}), so retries pass "
                    f"uncounted; the usual priorities are {ADMIT} and {AGAIN}",
                    (admit.name, retry.name),
                )


def _retries_multiply(layers: tuple[Middleware, ...]) -> Iterator[Finding]:
    again = _with(layers, "retries")
    if len(again) > 1:
        yield Finding(
            "retries-multiply",
            "warning",
            f"{' and '.join(repr(item.name) for item in again)} both retry; one owner of retries is enough",
            tuple(item.name for item in again),
        )


def _routes_inside_retry(layers: tuple[Middleware, ...]) -> Iterator[Finding]:
    for route in _with(layers, "routes"):
        for retry in _with(layers, "retries"):
            if retry.priority < route.priority:
                yield Finding(
                    "fallback-inside-retry",
                    "warning",
                    f"{route.name!r} ({route.priority}) runs inside {retry.name!r} ({retry.priority}), so every retry goes "
                    f"through all targets again; the usual priorities are {ROUTE} and {AGAIN}",
                    (route.name, retry.name),
                )


def _deadline_inside_retry(layers: tuple[Middleware, ...]) -> Iterator[Finding]:
    for bound in _with(layers, "bounds"):
        for retry in _with(layers, "retries"):
            if retry.priority < bound.priority:
                yield Finding(
                    "deadline-inside-retry",
                    "warning",
                    f"{bound.name!r} ({bound.priority}) bounds the whole call but runs inside {retry.name!r} "
                    f"({retry.priority}), so each attempt gets all of its time",
                    (bound.name, retry.name),
                )


def _guards_inside_shortcut(layers: tuple[Middleware, ...]) -> Iterator[Finding]:
    for store in _with(layers, "stores"):
        for guard in layers:
            if guard.name == "validate" and guard.priority > store.priority:
                yield Finding(
                    "validation-inside-cache",
                    "warning",
                    f"{guard.name!r} ({guard.priority}) runs inside {store.name!r} ({store.priority}), so a request that "
                    f"would be refused can be answered from the cache; the usual band is {GUARD}",
                    (guard.name, store.name),
                )


def _observers_inside(layers: tuple[Middleware, ...]) -> Iterator[Finding]:
    for watch in _with(layers, "observes"):
        hidden = [
            item.name for item in layers if item.priority < watch.priority and "stores" in _traits(item)
        ]
        if hidden:
            yield Finding(
                "observer-inside-cache",
                "warning",
                f"{watch.name!r} ({watch.priority}) runs inside {hidden[0]!r}, so it never sees a hit; the usual band is {OBSERVE}",
                (watch.name, hidden[0]),
            )


_RULES = (
    _stores_outside_masking,
    _deadline_inside_retry,
    _retries_inside_what_judges,
    _limits_outside_retry,
    _routes_inside_retry,
    _retries_multiply,
    _guards_inside_shortcut,
    _observers_inside,
)
