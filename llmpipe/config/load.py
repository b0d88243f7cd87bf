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

``preset = "production"`` at the top starts from the standard middlewares, which the listed ones
replace by name; ``without = ["cache"]`` leaves some of them out.
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
from llmpipe.errors import ConfigError
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.linker import Middleware
from llmpipe.pipeline.registry import build
from llmpipe.providers.factory import provider

__all__ = ("chain_from", "load_chain", "read_file")

_MAX_BYTES = 1_000_000
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_TOP = ("middleware", "preset", "provider", "without")


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
    for name in data:
        if str(name) not in _TOP:
            near = get_close_matches(str(name), _TOP, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(_TOP)}"
            problems.append(f"{where}: unknown {name!r}; {hint}")
    core = _provider(data.get("provider", {"use": "mock", "default": "mock"}), f"{where}: provider", problems)
    listed = [
        _middleware(item, f"{where}: middleware[{i}]", problems)
        for i, item in enumerate(_list(data, "middleware", where, problems))
    ]
    made = _preset(data, [item for item in listed if item is not None], where, problems)
    if not problems:
        try:
            return Chain(core, *made)
        except ConfigError as error:  # two of one name
            problems.append(f"{where}: {error}")
    raise ConfigError("\n".join(problems))


def _list(data: Mapping[str, Any], name: str, where: str, problems: list[str]) -> list[Any]:
    found = data.get(name, [])
    if isinstance(found, list | tuple):
        return list(found)
    problems.append(f"{where}: {name} is a {type(found).__name__}; expected a list")
    return []


def _preset(
    data: Mapping[str, Any], listed: list[Middleware], where: str, problems: list[str]
) -> list[Middleware]:
    name = data.get("preset")
    if name not in (None, "production"):
        problems.append(f"{where}: unknown preset {name!r}; known: 'production'")
    standard = list(presets.production()) if name == "production" else []
    known = [item.name for item in standard]
    without = _list(data, "without", where, problems)
    for one in without:
        if one not in known:
            near = get_close_matches(str(one), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(f"{where}: without names {one!r}, which the preset does not have{hint}")
    replaced = [*without, *(item.name for item in listed)]  # a list: what a file holds may not be hashable
    return [item for item in standard if item.name not in replaced] + listed


def _provider(data: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
        problems.append(f"{where}: expected a table with `use`, the kind of provider")
        return None
    options = {key: value for key, value in data.items() if key != "use"}
    try:
        return provider(data["use"], **options)
    except ConfigError as error:
        problems.append(f"{where}: {error}")
    except TypeError as error:  # of an option's value; the keywords themselves were checked
        problems.append(f"{where}: provider {data['use']!r}: {error}")
    return None


def _middleware(data: Any, where: str, problems: list[str]) -> Middleware | None:
    if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
        problems.append(f"{where}: expected a table with `use`, the name of a middleware")
        return None
    settings = {key: value for key, value in data.items() if key != "use"}
    try:
        if data["use"] == "fallback":
            return _fallback(settings, where, problems)
        return build(data["use"], settings, where)
    except ConfigError as error:
        problems.append(str(error))
    return None


def _fallback(settings: dict[str, Any], where: str, problems: list[str]) -> Middleware | None:
    """The one middleware whose settings hold providers."""
    before = len(problems)
    targets = _list(settings, "providers", where, problems)
    settings.pop("providers", None)
    made = [_provider(target, f"{where}.providers[{i}]", problems) for i, target in enumerate(targets)]
    return build("fallback", {**settings, "targets": made}, where) if len(problems) == before else None
