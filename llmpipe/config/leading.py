"""The middlewares of a chain file whose settings hold targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import evolve, fields

from llmpipe.config.targets import Targets, listed
from llmpipe.errors import ConfigError
from llmpipe.pipeline.checks import nearest
from llmpipe.pipeline.linker import Middleware
from llmpipe.pipeline.registry import build, structured
from llmpipe.routing.catalogue import card_of
from llmpipe.routing.repository import StoredUseCases
from llmpipe.routing.selector import ModelSelector, Needs
from llmpipe.routing.use_cases import PREFERENCES, Entry, UseCases

__all__ = ("LEADING",)

_CARD = ("context_tokens", "latency", "model", "quality", "tags")


def _several(name: str) -> Callable[[dict[str, Any], str, Targets], Middleware | None]:
    def make(settings: dict[str, Any], where: str, targets: Targets) -> Middleware | None:
        made = targets.targets(settings, where)
        return None if made is None else build(name, {**settings, "targets": made}, where)

    return make


def _migration(settings: dict[str, Any], where: str, targets: Targets) -> Middleware | None:
    if "old" not in settings:
        raise ConfigError(
            f"{where}: middleware 'migration': `old` is missing, the provider that is being left"
        )
    old = targets.target(settings["old"], f"{where}.old")
    return None if old is None else build("migration", {**settings, "old": old}, where)


def _use_cases(settings: dict[str, Any], where: str, targets: Targets) -> Middleware | None:
    entries = _records(settings, "entries", where, targets)
    made = []
    for place, (target, rest) in entries:
        try:
            _known(rest, [a.name for a in fields(Entry)], "entry")
            made.append(structured(Entry, {**rest, "target": target}))
        except ConfigError as error:
            targets.problems.append(f"{where}.entries[{place}]: {error}")
    if len(made) < len(_given(settings, "entries")):
        return None
    _known(settings, [a.name for a in fields(UseCases)], "use_cases")
    built: Middleware = structured(UseCases, {**_preferring(settings), "entries": made})
    return built


def _stored_use_cases(settings: dict[str, Any], where: str, targets: Targets) -> Middleware | None:
    names = [a.name for a in fields(StoredUseCases) if a.name not in ("make", "owns_vault")]
    _known(settings, names, "stored_use_cases")
    plain = {name: value for name, value in settings.items() if name != "vault"}
    with_keys = settings.get("vault", False)
    if not isinstance(with_keys, bool):
        raise ConfigError(
            "vault is true where the keys that rows name lie in the vault of the file's [vault]"
        )
    built: StoredUseCases = structured(StoredUseCases, _preferring(plain))
    return evolve(built, vault=targets.vault.opened(), owns_vault=True) if with_keys else built


def _preferring(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, their preferences added to the usual ones."""
    told = settings.get("preferences", {})
    if not isinstance(told, Mapping):
        raise ConfigError(f"preferences is a {type(told).__name__}; expected models by use case")
    return {**settings, "preferences": {**PREFERENCES, **told}}


def _model_selector(settings: dict[str, Any], where: str, targets: Targets) -> Middleware | None:
    made = []
    for place, (target, rest) in _records(settings, "cards", where, targets):
        try:
            _known(rest, _CARD, "card")
            _numbers(rest, ("context_tokens", "latency", "quality"))
            made.append(card_of(target, **rest))
        except (ConfigError, TypeError) as error:
            targets.problems.append(f"{where}.cards[{place}]: {error}")
    if len(made) < len(_given(settings, "cards")):
        return None
    _known(settings, [a.name for a in fields(ModelSelector)], "model_selector")
    _numbers(settings, ("priority",))
    # Not by cattrs, which cannot choose between two kinds of number.
    return ModelSelector(**{**settings, "cards": made, "needs": _needs(settings.get("needs", {}))})


def _needs(told: Any) -> Any:
    if not isinstance(told, Mapping):
        raise ConfigError(f"needs is a {type(told).__name__}; expected a table")
    names = [a.name for a in fields(Needs)]
    _known(told, names, "needs")
    _numbers(told, [name for name in names if name not in ("features", "tags")])
    return Needs(**told)


def _numbers(told: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises: ConfigError for one of `names` that is no number."""
    for name in names:
        value = told.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{name} is a {type(value).__name__}; expected a number")


def _records(
    settings: Mapping[str, Any], name: str, where: str, targets: Targets
) -> list[tuple[int, tuple[Any, dict[str, Any]]]]:
    """Targets with what else is said of them, by place; those that are wrong are left out, and told."""
    found = listed(settings, name, where, targets.problems)
    if not found and isinstance(settings.get(name, []), list):
        targets.problems.append(f"{where}: {name} is empty; expected tables with `provider`")
    records = [(place, targets.record(item, f"{where}.{name}[{place}]")) for place, item in enumerate(found)]
    return [(place, record) for place, record in records if record is not None]


def _given(settings: Mapping[str, Any], name: str) -> list[Any]:
    found = settings.get(name)
    return found if isinstance(found, list) and found else [None]


def _known(told: Mapping[str, Any], known: Any, what: str) -> None:
    """Raises: ConfigError for a name that is not `known`."""
    for name in told:
        if name not in known:
            hint = nearest(str(name), known).removeprefix("; ") or f"it takes {', '.join(sorted(known))}"
            raise ConfigError(f"{what}: no setting {name!r}; {hint}")


LEADING: Mapping[str, Callable[[dict[str, Any], str, Targets], Middleware | None]] = {
    "continue": _several("continue"),
    "fallback": _several("fallback"),
    "migration": _migration,
    "model_selector": _model_selector,
    "stored_use_cases": _stored_use_cases,
    "use_cases": _use_cases,
}
"""By name: what makes the middleware of its settings, or None where a problem was taken down."""
