"""The targets that a chain file names: providers, and what leads to several of them.

Wherever a target is expected there stands the name of one of the file's ``[providers]``, or a table. Its
`use` is the kind of a provider, or ``ensemble``, ``router`` or ``chain``, which hold targets themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from attrs import fields

from llmpipe.config.vault import FileVault
from llmpipe.errors import ConfigError
from llmpipe.pipeline.checks import nearest
from llmpipe.pipeline.registry import structured
from llmpipe.providers.factory import provider, provider_names
from llmpipe.routing.checks import Checks
from llmpipe.routing.ensemble import Ensemble
from llmpipe.routing.route import Route
from llmpipe.routing.router import Router
from llmpipe.routing.rules import HealthRules

__all__ = ("Targets", "listed")

_ROUTE = ("context_tokens", "model", "name", "priority", "tags", "weight")
_LEADING = ("chain", "ensemble", "router")


def listed(data: Mapping[str, Any], name: str, where: str, problems: list[str]) -> list[Any]:
    """The list `name` of a table; an empty one where there is none, or something else is there."""
    found = data.get(name, [])
    if isinstance(found, list | tuple):
        return list(found)
    problems.append(f"{where}: {name} is a {type(found).__name__}; expected a list")
    return []


class Targets:
    """Makes targets of what a file says, those that have a name once.

    Args: tables are the file's ``[providers]``; vault is where keys are that it does not hold itself; `chain`
    and `layer` make a chain, and a middleware, of their tables; `problems` takes down what is wrong.
    """

    def __init__(
        self,
        tables: Any,
        where: str,
        problems: list[str],
        *,
        vault: FileVault,
        chain: Callable[[Mapping[str, Any], str, Targets], Any],
        layer: Callable[[Any, str, Targets], Any],
    ) -> None:
        self.problems = problems
        self._where = where
        self.vault = vault
        self._chain = chain
        self._layer = layer
        self._made: dict[str, Any] = {}
        self._making: list[str] = []
        if not isinstance(tables, Mapping):
            problems.append(f"{where}: providers is a {type(tables).__name__}; expected tables by name")
            tables = {}
        self._tables: Mapping[str, Any] = tables
        for name in tables:
            self._named(str(name), f"{where}: providers.{name}")

    def target(self, data: Any, where: str) -> Any:
        """The target that `data` says; None where something is wrong with it, which is taken down."""
        if isinstance(data, str):
            return self._named(data, where)
        if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
            names = " or the name of one of [providers]" if self._tables else ""
            self.problems.append(
                f"{where}: expected a table with `use`, the kind of provider,{names}".rstrip(",")
            )
            return None
        use, settings = data["use"], {key: value for key, value in data.items() if key != "use"}
        before = len(self.problems)
        try:
            if use == "chain":
                return self._chain(settings, where, self)
            if use == "ensemble":
                return self._ensemble(settings, where)
            if use == "router":
                return self._router(settings, where)
            if isinstance(key := settings.get("api_key"), Mapping):
                settings["api_key"] = self.vault.key(key)
            return provider(use, **settings)
        except ConfigError as error:
            told = str(error)
            if told.startswith("unknown provider") and (near := get_close_matches(use, _LEADING, 1)):
                told = f"unknown provider {use!r}; did you mean {near[0]!r}?"
            if len(self.problems) == before:  # else it is their consequence
                self.problems.append(f"{where}: {told}")
        except TypeError as error:  # of an option's value; the keywords themselves were checked
            self.problems.append(f"{where}: provider {use!r}: {error}")
        return None

    def targets(self, settings: dict[str, Any], where: str) -> list[Any] | None:
        """Those in the list `providers` of `settings`, out of which it is taken; None where one is wrong."""
        before = len(self.problems)
        found = listed(settings, "providers", where, self.problems)
        if not found and settings.pop("providers", None) == []:
            self.problems.append(f"{where}: providers is empty; name at least one, or leave it out")
        settings.pop("providers", None)
        made = [self.target(item, f"{where}.providers[{place}]") for place, item in enumerate(found)]
        return made if len(self.problems) == before and None not in made else None

    def record(self, data: Any, where: str) -> tuple[Any, dict[str, Any]] | None:
        """The target of a table that says more of it, and the rest of the table; None where one is wrong."""
        if not isinstance(data, Mapping) or "provider" not in data:
            self.problems.append(f"{where}: expected a table with `provider`: a name, or a table with `use`")
            return None
        target = self.target(data["provider"], f"{where}.provider")
        rest = {str(key): value for key, value in data.items() if key != "provider"}
        return None if target is None else (target, rest)

    def _named(self, name: str, where: str) -> Any:
        if name in self._made:
            return self._made[name]
        if name not in self._tables:
            near = nearest(name, [*map(str, self._tables)])
            known = ", ".join(map(str, self._tables)) or "none"
            use = (
                f"; a kind of provider stands in a table: {{ use = {name!r} }}"
                if name in provider_names()
                else ""
            )
            self.problems.append(
                f"{where}: no provider is called {name!r} in [providers]; known: {known}{near or use}"
            )
            return None
        if name in self._making:
            way = " -> ".join([*self._making[self._making.index(name) :], name])
            self.problems.append(f"{where}: provider {name!r} leads to itself: {way}")
            return None
        self._making.append(name)
        try:
            self._made[name] = self.target(self._tables[name], f"{self._where}: providers.{name}")
        finally:
            self._making.pop()
        return self._made[name]

    # ------------------------------------------------------------ what leads to several

    def _ensemble(self, settings: dict[str, Any], where: str) -> Any:
        judge = settings.pop("judge", None)
        judging = None if judge is None else self.target(judge, f"{where}.judge")
        made = self.targets(settings, where)
        known = [a.name for a in fields(Ensemble) if a.name not in ("targets", "key")]
        self._check("ensemble", settings, (*known, "providers"), where)
        if made is None or (judge is not None and judging is None):
            return None
        return structured(Ensemble, {**settings, "targets": made, "judge": judging})

    def _router(self, settings: dict[str, Any], where: str) -> Any:
        before = len(self.problems)
        routes = self._routes(settings, where)
        known = inspect.signature(Router).parameters.values()
        names = [one.name for one in known if one.kind is one.KEYWORD_ONLY]
        self._check("router", settings, (*names, "providers"), where)
        for name, kind in (("health", HealthRules), ("checks", Checks)):
            told = settings.get(name)
            if told is False and kind is Checks:
                settings[name] = None
            elif told is not None:
                try:
                    settings[name] = structured(kind, told)
                except ConfigError as error:
                    self.problems.append(f"{where}.{name}: {error}")
        if "layers" in settings:
            layers = enumerate(listed(settings, "layers", where, self.problems))
            settings["layers"] = [self._layer(item, f"{where}.layers[{at}]", self) for at, item in layers]
        return None if len(self.problems) > before or None in routes else Router(*routes, **settings)

    def _routes(self, settings: dict[str, Any], where: str) -> list[Any]:
        routes: list[Any] = []
        found = listed(settings, "providers", where, self.problems)
        if not found and settings.get("providers", []) == []:
            self.problems.append(f"{where}: providers is empty; a router needs at least one")
        settings.pop("providers", None)
        for place, item in enumerate(found):
            at = f"{where}.providers[{place}]"
            if not isinstance(item, Mapping) or "provider" not in item:
                routes.append(self.target(item, at))
            elif (record := self.record(item, at)) is not None:
                target, rest = record
                self._check("route", rest, (*_ROUTE, "provider"), at)
                try:
                    routes.append(Route(target, **{key: rest[key] for key in rest if key in _ROUTE}))
                except (ConfigError, TypeError) as error:
                    self.problems.append(f"{at}: {error}")
        return routes

    def _check(self, what: str, settings: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        for name in settings:
            if name not in known:
                hint = nearest(str(name), known).removeprefix("; ") or f"it takes {', '.join(sorted(known))}"
                self.problems.append(f"{where}: {what}: no setting {name!r}; {hint}")
