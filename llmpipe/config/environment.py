"""A router over the providers whose keys stand in the environment.

========================  ==============================================================================
variable                  meaning
========================  ==============================================================================
``PRIMARY_LLM_PROVIDER``  the provider that is asked first, such as ``openai``
``ENABLE_LLM_FAILOVER``   ``false`` leaves the others out
``OPENAI_API_KEY`` …      each provider's own key, which is what makes it one of the targets
``OPENAI_MODEL`` …        the model it answers with: the key's name with ``_MODEL`` for ``_API_KEY``
========================  ==============================================================================
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from llmpipe.errors import ConfigError
from llmpipe.providers.factory import provider, provider_names
from llmpipe.providers.profiles import PROFILES, Profile
from llmpipe.routing.route import Route
from llmpipe.routing.router import Router

__all__ = ("router",)

_NO = frozenset(("0", "false", "no", "off"))
_YES = frozenset(("1", "true", "yes", "on"))


def router(
    models: Mapping[str, str] | None = None, *, environment: Mapping[str, str] | None = None, **settings: Any
) -> Router:
    """A `Router` over every provider that has a key in the environment, the primary one first.

    Args:
        models: the model of each provider, where its variable does not say: ``{"openai": "gpt-4o-mini"}``.
        environment: in place of `os.environ`.
        settings: of `Router`; its strategy is ``priority``, so that the others are asked when the primary
            is not well.

    Raises: ConfigError where no provider has a key, the primary is unknown or has none, or a target has no
    model to answer with while there are several.
    """
    told = os.environ if environment is None else environment
    found = _found(told, models or {})
    primary = told.get("PRIMARY_LLM_PROVIDER", "").strip()
    if primary and primary not in found:
        raise ConfigError(_why_not(primary))
    if not found:
        keys = ", ".join(sorted({one.key_env for one in PROFILES.values() if _plain(one)}))
        raise ConfigError(f"no provider has a key in the environment; looked for {keys}")
    first = primary or next(iter(found))
    if not _on(told, "ENABLE_LLM_FAILOVER"):
        found = {first: found[first]}
    silent = [name for name, model in found.items() if not model]
    if silent and len(found) > 1:
        raise ConfigError(
            f"provider {silent[0]!r} has no model to answer with in place of another; "
            f"set {_variable(silent[0])} or pass models={{{silent[0]!r}: …}}"
        )
    routes = [
        Route(provider(name, api_key=told[PROFILES[name].key_env], model=model), priority=int(name != first))
        for name, model in found.items()
    ]
    return Router(*routes, **{"strategy": "priority", **settings})


def _found(told: Mapping[str, str], models: Mapping[str, str]) -> dict[str, str]:
    """The kinds that have a key, with their models. Kinds that have to be told more than a key are none."""
    if unknown := [name for name in models if name not in PROFILES]:
        raise ConfigError(_why_not(unknown[0]))
    keys: dict[str, str] = {}
    for name, profile in PROFILES.items():
        if _plain(profile) and told.get(profile.key_env, "").strip():
            keys.setdefault(profile.key_env, name)  # of several with one key, the first is the plain one
    return {name: models.get(name) or told.get(_variable(name), "") for name in keys.values()}


def _plain(profile: Profile) -> bool:
    """Whether a key is all that a provider of this kind needs."""
    settled = not profile.settings and profile.base_url is not None
    return settled and profile.key_required and bool(profile.key_env)


def _variable(name: str) -> str:
    return f"{PROFILES[name].key_env.removesuffix('_KEY').removesuffix('_API')}_MODEL"


def _why_not(name: str) -> str:
    if name in PROFILES:
        variable = PROFILES[name].key_env
        return f"PRIMARY_LLM_PROVIDER is {name!r}, which has no key in the environment; set {variable}"
    close = get_close_matches(name.lower(), provider_names(), 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(provider_names())}"
    return f"unknown provider {name!r}{hint}"


def _on(told: Mapping[str, str], name: str) -> bool:
    value = told.get(name, "true").strip().lower()
    if value not in _YES | _NO:
        raise ConfigError(f"{name} must be true or false, not {value!r}")
    return value in _YES
