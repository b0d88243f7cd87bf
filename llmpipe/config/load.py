"""Chains from files: TOML, JSON or YAML.

::

    [provider]
    use = "openai"
    model = "gpt-4o-mini"
    api_key = "${OPENAI_API_KEY}"

    [[middleware]]
    use = "retry"
    attempts = 4

    [[middleware]]
    use = "fallback"
    providers = [{ use = "anthropic", model = "claude-haiku-4-5" }]

Targets stand in ``[providers]`` by name, or where they are used; see `llmpipe.config.targets`.

``preset = "production"`` at the top starts from the standard middlewares, which the listed ones
replace by name; ``without = ["cache"]`` leaves some of them out. ``[vault]`` says where keys are that
the file does not hold; see `llmpipe.config.vault`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import orjson

from llmpipe.config import presets
from llmpipe.config.leading import LEADING
from llmpipe.config.targets import Targets, listed
from llmpipe.config.vault import FileVault
from llmpipe.errors import ConfigError
from llmpipe.pipeline import registry
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.checks import nearest
from llmpipe.pipeline.linker import Middleware

__all__ = ("chain_from", "load_chain", "read_file")

_MAX_BYTES = 1_000_000
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_TOP = ("middleware", "preset", "provider", "providers", "vault", "without")
_WITHIN = ("middleware", "preset", "provider", "without")


def load_chain(path: str | Path, environ: Mapping[str, str] = os.environ) -> Chain:
    """The chain that the file at `path` describes.

    Raises: ConfigError that says of everything wrong with it where it is and what would be right.
    """
    return chain_from(read_file(path, environ), str(path))


def read_file(path: str | Path, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The mapping in a TOML, JSON or YAML file, with ``${NAME}`` and ``${NAME:-default}`` filled in.

    Raises: ConfigError for a file that cannot be read, and for all variables that are not set.
    """
    path = Path(path)
    data = _parsed(path, _text(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a {type(data).__name__}; expected a mapping")
    problems: list[str] = []
    filled: dict[str, Any] = _filled(data, environ, "", problems)
    if problems:
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in problems))
    return filled


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)  # a device has no size to ask for first
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes; a configuration is smaller")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


def _parsed(path: Path, text: str) -> Any:
    kind = path.suffix.lower()
    try:
        if kind == ".toml":
            return tomllib.loads(text)
        if kind == ".json":
            return orjson.loads(text)
        if kind in (".yaml", ".yml"):
            return _yaml(path, text)
    except (tomllib.TOMLDecodeError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deep") from None
    raise ConfigError(f"{path}: unknown kind of file {kind!r}; use .toml, .json, .yaml or .yml")


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigError(f"{path}: YAML needs an extra: pip install 'llmpipe[yaml]'") from None
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                # A few lines of them expand to gigabytes, and a chain file has no use for them.
                raise ConfigError(f"{path}: YAML aliases are not taken, such as *{event.anchor}")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its own words show the text around the place, where a key may stand.
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "is not YAML"
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (at line {mark.line + 1}, column {mark.column + 1})"
        raise ConfigError(f"{path}: {problem}{place}") from None


def _filled(value: Any, environ: Mapping[str, str], where: str, problems: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            key: _filled(item, environ, f"{where}.{key}" if where else str(key), problems)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_filled(item, environ, f"{where}[{i}]", problems) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        name: str = match[1]
        default: str | None = match[2]
        text = environ.get(name, default)
        if text is None:
            problems.append(f"{where} names the environment variable {name}, which is not set")
            return ""
        return text

    return _VARIABLE.sub(found, value)


def chain_from(data: Mapping[str, Any], where: str = "chain") -> Chain:
    """The chain that a mapping describes; see the module for its shape.

    Raises: ConfigError that says of everything wrong with it where it is and what would be right.
    """
    problems: list[str] = []
    vault = FileVault(data.get("vault"))
    targets = Targets(
        data.get("providers", {}), where, problems, vault=vault, chain=_inner, layer=_middleware
    )
    chain = _chain(data, where, f"{where}: ", _TOP, targets)
    if chain is None:
        raise ConfigError("\n".join(problems))
    return chain


def _inner(data: Mapping[str, Any], where: str, targets: Targets) -> Chain | None:
    """A chain that is a target."""
    return _chain(data, where, f"{where}.", _WITHIN, targets)


def _chain(
    data: Mapping[str, Any], where: str, inside: str, known: tuple[str, ...], targets: Targets
) -> Chain | None:
    """The chain; None where something is wrong, which is taken down. `inside` stands before its parts."""
    problems = targets.problems
    before = 0 if known is _TOP else len(problems)
    for name in data:
        if str(name) not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            problems.append(f"{where}: unknown {name!r}; {hint}")
    core = targets.target(data.get("provider", {"use": "mock", "default": "mock"}), f"{inside}provider")
    made = [
        _middleware(item, f"{inside}middleware[{i}]", targets)
        for i, item in enumerate(listed(data, "middleware", where, problems))
    ]
    layers = _preset(data, [item for item in made if item is not None], where, problems)
    if len(problems) == before:
        try:
            return Chain(core, *layers)
        except ConfigError as error:  # two of one name
            problems.append(f"{where}: {error}")
    return None


def _preset(
    data: Mapping[str, Any], layers: list[Middleware], where: str, problems: list[str]
) -> list[Middleware]:
    name = data.get("preset")
    if name not in (None, "production"):
        problems.append(f"{where}: unknown preset {name!r}; known: 'production'")
    standard = list(presets.production()) if name == "production" else []
    known = [item.name for item in standard]
    without = listed(data, "without", where, problems)
    for one in without:
        if one not in known:
            near = get_close_matches(str(one), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"{where}: without names {one!r}, which the preset does not have{hint}")
    replaced = [*without, *(item.name for item in layers)]  # a list: what a file holds may not be hashable
    return [item for item in standard if item.name not in replaced] + layers


def _middleware(data: Any, where: str, targets: Targets) -> Middleware | None:
    problems = targets.problems
    if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
        problems.append(f"{where}: expected a table with `use`, the name of a middleware")
        return None
    use, settings = data["use"], {str(key): value for key, value in data.items() if key != "use"}
    try:
        if use in LEADING:
            return LEADING[use](settings, where, targets)
        if use not in registry.names():
            known = sorted({*registry.names(), *LEADING})
            raise ConfigError(f"unknown middleware {use!r}; known: {', '.join(known)}{nearest(use, known)}")
        return registry.build(use, settings, where)
    except ConfigError as error:
        told = str(error)
        problems.append(told if told.startswith(where) else f"{where}: {told}")
    return None
