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
replace by name.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from llmpipe.config import presets
from llmpipe.errors import ConfigError
from llmpipe.middleware.fallback import Fallback
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.linker import Middleware
from llmpipe.pipeline.registry import build
from llmpipe.providers.factory import provider

__all__ = ("chain_from", "load_chain", "read_file")

_MAX_BYTES = 1_000_000
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_TOP = {"provider", "middleware", "preset"}


def load_chain(path: str | Path, environ: Mapping[str, str] = os.environ) -> Chain:
    """The chain that the file at `path` describes.

    Raises: ConfigError that says which file, where in it, and what would be right.
    """
    return chain_from(read_file(path, environ), str(path))


def read_file(path: str | Path, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The mapping in a TOML, JSON or YAML file, with ``${NAME}`` and ``${NAME:-default}`` filled in."""
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes; a configuration is smaller")
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    data = _parsed(path, text)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a {type(data).__name__}; expected a mapping")
    filled: dict[str, Any] = _filled(data, environ, str(path), "")
    return filled


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
    raise ConfigError(f"{path}: unknown kind of file {kind!r}; use .toml, .json, .yaml or .yml")


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigError(f"{path}: YAML needs an extra: pip install 'llmpipe[yaml]'") from None
    if re.search(r"(?m)(^|[\s\[{,:-])[&*][^\s,\]}]", text):
        # A few lines of aliases expand to gigabytes, and a chain file has no use for them.
        raise ConfigError(f"{path}: YAML anchors and aliases are not taken")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from None


def _filled(value: Any, environ: Mapping[str, str], path: str, where: str) -> Any:
    if isinstance(value, dict):
        return {k: _filled(v, environ, path, f"{where}.{k}" if where else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, environ, path, f"{where}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        name, default = match.groups()
        if (text := environ.get(name, default)) is None:
            raise ConfigError(f"{path}: {where} names the environment variable {name}, which is not set")
        return text

    return _VARIABLE.sub(found, value)


def chain_from(data: Mapping[str, Any], where: str = "chain") -> Chain:
    """The chain that a mapping describes; see the module for its shape. Raises ConfigError."""
    if unknown := sorted(set(data) - _TOP):
        raise ConfigError(
            f"{where}: unknown {', '.join(map(repr, unknown))}; it takes {', '.join(sorted(_TOP))}"
        )
    core = _provider(data.get("provider", {"use": "mock", "default": "mock"}), f"{where}: provider")
    listed = [
        _middleware(item, f"{where}: middleware[{i}]") for i, item in enumerate(data.get("middleware", ()))
    ]
    return Chain(core, *_preset(data.get("preset"), listed, where))


def _preset(name: object, listed: list[Middleware], where: str) -> list[Middleware]:
    if name is None:
        return listed
    if name != "production":
        raise ConfigError(f"{where}: unknown preset {name!r}; known: 'production'")
    own = {item.name for item in listed}
    return [item for item in presets.production() if item.name not in own] + listed


def _provider(data: Any, where: str) -> Any:
    if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
        raise ConfigError(f"{where}: expected a table with `use`, the kind of provider")
    options = {key: value for key, value in data.items() if key != "use"}
    try:
        return provider(data["use"], **options)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _middleware(data: Any, where: str) -> Middleware:
    if not isinstance(data, Mapping) or not isinstance(data.get("use"), str):
        raise ConfigError(f"{where}: expected a table with `use`, the name of a middleware")
    settings = {key: value for key, value in data.items() if key != "use"}
    if data["use"] == "fallback":
        targets = settings.pop("providers", ())
        made = [_provider(target, f"{where}.providers[{i}]") for i, target in enumerate(targets)]
        try:
            fallback: Middleware = Fallback(*made, **settings)
        except TypeError as error:
            raise ConfigError(f"{where}: {error}") from None
        return fallback
    return build(data["use"], settings, where)
