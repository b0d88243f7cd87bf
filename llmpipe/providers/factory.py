"""From a provider's name to a provider."""

from __future__ import annotations

import difflib
import inspect
import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, cast

from llmpipe.errors import ConfigError
from llmpipe.providers.http import HTTPProvider
from llmpipe.providers.mock import MockProvider
from llmpipe.providers.profiles import PROFILES

if TYPE_CHECKING:
    from llmpipe.pipeline.provider import Provider

__all__ = ("provider", "provider_names")


def provider_names() -> list[str]:
    """All kinds that `provider` knows: built in, and of entry-point group ``llmpipe.providers``."""
    return sorted({*PROFILES, "mock", *(p.name for p in entry_points(group="llmpipe.providers"))})


def provider(kind: str, /, **options: Any) -> Provider:
    """The provider of that kind.

    Args:
        kind: ``"openai"``, ``"anthropic"``, ``"openai-compatible"`` (with `base_url`), ``"mock"``, or
            one that a plugin brings.
        options: `api_key` (by default from the environment variable of the kind), `base_url`,
            `model`, and the other keywords of `HTTPProvider`; for ``"mock"`` those of `MockProvider`.

    Raises: ConfigError for an unknown kind or keyword, or a missing key.
    """
    if kind == "mock":
        return cast("Provider", _made(kind, MockProvider, (), options))
    if kind in PROFILES:
        profile = PROFILES[kind]
        if options.get("api_key") is None and (found := os.environ.get(profile.key_env)):
            options["api_key"] = found
        return cast("Provider", _made(kind, HTTPProvider, (profile,), options))
    for point in entry_points(group="llmpipe.providers"):
        if point.name == kind:
            made: Provider = point.load()(**options)
            return made
    close = difflib.get_close_matches(kind, provider_names(), 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"unknown provider {kind!r}; known: {', '.join(provider_names())}{hint}")


def _made(kind: str, make: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """`make(...)`, with a wrong keyword told as what it is."""
    known = [name for name in inspect.signature(make).parameters if name != "profile"]
    unknown = [name for name in options if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; it takes {', '.join(known)}"
        raise ConfigError(f"provider {kind!r} takes no {unknown[0]!r}{hint}")
    return make(*arguments, **options)
