"""Middlewares by name: the built-in ones, and those that installed packages bring."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from attrs import fields_dict, has

from llmpipe.errors import ConfigError
from llmpipe.pipeline.linker import Middleware

__all__ = ("BUILT_IN", "GROUP", "build", "get", "names", "origin", "structured")

GROUP = "llmpipe.middleware"
"""The entry-point group: name of the middleware to its class, or a factory of keywords."""

BUILT_IN: dict[str, str] = {
    "adaptive_limit": "llmpipe.middleware.adaptive_limit:AdaptiveLimit",
    "alerts": "llmpipe.middleware.alerts:Alerts",
    "batch": "llmpipe.middleware.batch:Batch",
    "audit": "llmpipe.middleware.audit:Audit",
    "breaker": "llmpipe.middleware.breaker:Breaker",
    "budget": "llmpipe.middleware.budget:Budget",
    "cache": "llmpipe.middleware.cache:Cache",
    "coalesce": "llmpipe.middleware.coalesce:Coalesce",
    "commit": "llmpipe.middleware.commit:Commit",
    "continue": "llmpipe.middleware.continue_:Continue",
    "cost": "llmpipe.middleware.cost:Cost",
    "credentials": "llmpipe.middleware.credentials:Credentials",
    "fallback": "llmpipe.middleware.fallback:Fallback",
    "hedge": "llmpipe.middleware.hedge:Hedge",
    "hooks": "llmpipe.middleware.hooks:Hooks",
    "limits": "llmpipe.middleware.limits:Limits",
    "log": "llmpipe.middleware.log:Log",
    "metrics": "llmpipe.middleware.metrics:Metrics",
    "migration": "llmpipe.middleware.migration:Migration",
    "optimise": "llmpipe.middleware.optimise:Optimise",
    "otel_metrics": "llmpipe.middleware.trace.otel_metrics:OTelMetrics",
    "rate_limit": "llmpipe.middleware.rate_limit:RateLimit",
    "redact": "llmpipe.middleware.redact:Redact",
    "retry": "llmpipe.middleware.retry:Retry",
    "shed": "llmpipe.middleware.shed:Shed",
    "timeout": "llmpipe.middleware.timeout:Timeout",
    "trace": "llmpipe.middleware.trace:Trace",
    "validate": "llmpipe.middleware.validate:Validate",
}


def _points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


def names() -> list[str]:
    """All names that `get` knows, sorted. Loads nothing."""
    return sorted({*BUILT_IN, *_points()})


def get(name: str) -> Any:
    """The class or factory of that name. Loads it, and nothing else.

    Raises: ConfigError that lists the known names and the nearest one; or for a package that is broken.
    """
    if not isinstance(name, str):
        raise ConfigError(f"the name of a middleware is a {type(name).__name__}; expected a string")
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    point = _points().get(name)
    if point is None:
        close = difflib.get_close_matches(name, names(), 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"unknown middleware {name!r}; known: {', '.join(names())}{hint}")
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"middleware {name!r} of {origin(name)} cannot be loaded: {error}") from error


def origin(name: str) -> str:
    """The distribution that brings the middleware `name`, as ``"llmpipe-example 0.1.0"``."""
    point = _points().get(name)
    if point is None or point.dist is None:
        return "llmpipe"
    return f"{point.dist.name} {point.dist.version}"


def build(name: str, settings: Mapping[str, Any], where: str = "") -> Middleware:
    """The middleware `name` with `settings`, structured onto its constructor.

    Args: `where` is put in front of the error, such as ``"chain.toml: middleware[2]"``.
    Raises: ConfigError that names each bad setting, the kind of its value and the nearest known one.
    """
    place = f"{where}: " if where else ""
    try:
        made = get(name)
    except ConfigError as error:
        raise ConfigError(f"{place}{error}") from None
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"{place}middleware {name!r}: expected settings by name, not a {type(settings).__name__}"
        )
    if not has(made):
        try:
            result: Middleware = made(**settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{place}middleware {name!r}: {error}") from None
        return result
    known = {key for key, attribute in fields_dict(made).items() if attribute.init}
    problems = []
    for key in map(str, settings):
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(sorted(known))}"
            problems.append(f"no setting {key!r}; {hint}")
    if not problems:
        try:
            built: Middleware = structured(made, settings)
            return built
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError(f"{place}middleware {name!r}: {'; '.join(problems)}")


def structured(made: Any, settings: Mapping[str, Any]) -> Any:
    """An instance of the attrs class `made` from plain settings, their types taken strictly.

    Raises: ConfigError that names each bad setting by its path.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"expected settings by name, not a {type(settings).__name__}")
    from cattrs import Converter, transform_error
    from cattrs.errors import BaseValidationError

    converter = Converter(forbid_extra_keys=True, prefer_attrib_converters=True)
    converter.register_structure_hook(float, _number)
    for exact in (int, str, bool):
        converter.register_structure_hook(exact, _exactly)
    try:
        return converter.structure(settings, made)
    except BaseValidationError as error:
        raise ConfigError("; ".join(transform_error(error, format_exception=_told))) from None


def _number(value: Any, kind: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"expected a number, not {type(value).__name__}")
    return float(value)


def _exactly(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise ConfigError(f"expected {kind.__name__}, not {type(value).__name__}")
    return value


def _told(error: BaseException, kind: type | None) -> str:
    return str(error)
