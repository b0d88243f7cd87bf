"""From a provider's name to a provider."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Literal, cast, overload

from attrs import evolve

from llmpipe.errors import ConfigError
from llmpipe.pipeline.provider import Provider
from llmpipe.providers.http import HTTPProvider
from llmpipe.providers.mock import MockProvider
from llmpipe.providers.options import filled, speaking
from llmpipe.providers.profiles import PROFILES, Profile
from llmpipe.providers.vertex import vertex

__all__ = ("BuiltIn", "GROUP", "provider", "provider_names")

_OF_GOOGLE = ("vertex", "vertex-anthropic")  # their keys are tokens, which have to be fetched

GROUP = "llmpipe.providers"
"""The entry-point group: name of the kind to a `Profile`, or to a factory of keywords."""


def provider_names() -> list[str]:
    """All kinds that `provider` knows: built in, and of entry-point group ``llmpipe.providers``."""
    return sorted({*PROFILES, "mock", *(p.name for p in entry_points(group=GROUP))})


# Names of `PROFILES`, for type checkers: these are asked over HTTP, and count tokens where they can.
BuiltIn = Literal[
    "anthropic",
    "azure",
    "azure-anthropic",
    "azure-deployments",
    "cerebras",
    "cohere",
    "deepseek",
    "fireworks",
    "gemini",
    "groq",
    "llama-cpp",
    "mistral",
    "ollama",
    "openai",
    "openai-compatible",
    "openrouter",
    "perplexity",
    "together",
    "vertex",
    "vertex-anthropic",
    "vllm",
    "xai",
]


@overload
def provider(kind: BuiltIn, /, **options: Any) -> HTTPProvider: ...
@overload
def provider(kind: Literal["mock"], /, **options: Any) -> MockProvider: ...
@overload
def provider(kind: str, /, **options: Any) -> Provider: ...
def provider(kind: str, /, **options: Any) -> Provider:
    """The provider of that kind: an `HTTPProvider` for those that are built in.

    Args:
        kind: ``"openai"``, ``"anthropic"``, ``"openai-compatible"`` (with `base_url`), ``"mock"``, another
            of `provider_names`, or one that a plugin brings.
        options: `api_key` (by default from the environment variable of the kind), `base_url`,
            `model`, the settings of the kind (``resource`` for ``"azure"``, ``project`` and ``location``
            for ``"vertex"``), and the other keywords of `HTTPProvider`; for ``"mock"`` those of
            `MockProvider`.

    Raises: ConfigError for an unknown kind or keyword, or a missing key.
    """
    _refuse_other(kind)
    if kind == "mock":
        return cast("Provider", _made(kind, MockProvider, options))
    if kind in _OF_GOOGLE:
        return cast("Provider", _made(kind, partial(vertex, PROFILES[kind]), options))
    found: Any = PROFILES.get(kind) or _plugged_in(kind)
    if isinstance(found, Profile):
        found = _told(found, options)
    made = _made(kind, found, options)
    if not isinstance(made, Provider):
        raise ConfigError(f"provider {kind!r} gives a {type(made).__name__}, which is no provider")
    return made


def _told(profile: Profile, options: dict[str, Any]) -> Callable[..., Any]:
    """What makes the provider of `profile`; what only the profile needs to know is taken out of `options`."""
    if options.get("api_key") is None and (key := os.environ.get(profile.key_env)):
        options["api_key"] = key
    settings = {name: options.pop(name) for name in profile.settings if name in options}
    if isinstance(options.get("dialect"), str):
        profile = speaking(profile, options.pop("dialect"))
    if (url := options.pop("base_url", None)) is not None:
        profile = evolve(profile, base_url=url)
    return partial(HTTPProvider, filled(profile, settings))


def _refuse_other(kind: Any) -> None:
    """Raises: ConfigError for a kind that is no text."""
    if not isinstance(kind, str):
        what = type(kind).__name__
        if isinstance(kind, Provider):
            raise ConfigError(f"a {what} is a provider already; use it as it is: Chain(it, ...)")
        raise ConfigError(f"provider takes the name of a kind first, such as 'openai', not a {what}")


def _plugged_in(kind: str) -> Any:
    """What the entry point of that name holds: a `Profile`, or something to call with the options."""
    for point in entry_points(group=GROUP):
        if point.name != kind:
            continue
        brought_by = f"of {point.dist.name}" if point.dist is not None else point.value
        try:
            found = point.load()
        except Exception as error:  # a plugin may fail in any way as it loads; it is said whose it is
            raise ConfigError(f"provider {kind!r} {brought_by} does not load: {error}") from error
        if not isinstance(found, Profile) and not callable(found):
            raise ConfigError(
                f"provider {kind!r} {brought_by} is a {type(found).__name__}; "
                f"it must be a Profile, or callable with the options"
            )
        return found
    names = provider_names()
    name, slash, model = kind.partition("/")
    close = difflib.get_close_matches((name if slash else kind).lower(), names, 1)
    hint = ""
    if close and model:
        hint = f'; the model goes beside it: provider("{close[0]}", model="{model}")'
    elif close:
        hint = f"; did you mean {close[0]!r}?"
    raise ConfigError(f"unknown provider {kind!r}; known: {', '.join(names)}{hint}")


def _made(kind: str, make: Callable[..., Any], options: dict[str, Any]) -> Any:
    """`make(**options)`, with wrong keywords told as what they are."""
    parameters = inspect.signature(make).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        known = [name for name, one in parameters.items() if one.kind is not one.POSITIONAL_ONLY]
        problems = []
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
                problems.append(f"no {name!r}; {hint}")
        if problems:
            raise ConfigError(f"provider {kind!r} takes {'; '.join(problems)}")
    return make(**options)
