"""What a provider is told, checked before it is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from attrs import evolve

from llmpipe import dialects
from llmpipe.errors import ConfigError
from llmpipe.providers.profile import Profile
from llmpipe.providers.transport import Transport
from llmpipe.secret import Secret

__all__ = ("check_types", "filled", "secrets_in", "speaking", "transport_options")

_CREDENTIAL = re.compile("auth|cookie|key|password|secret|token", re.IGNORECASE)  # in a header's name
_LEAST_SECRET = 6  # characters; what is shorter is no key, and would be struck out of ordinary words
_SETTING = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_types(texts: Mapping[str, Any], tables: Mapping[str, Any]) -> None:
    """Raises: ConfigError for what should be text, or a mapping, and is not."""
    for setting, given in texts.items():
        if not isinstance(given, str):
            raise ConfigError(f"{setting} must be text, not {given!r}")
    for setting, table in tables.items():
        if not isinstance(table, Mapping):
            raise ConfigError(f"{setting} must be a mapping of names to values, not a {type(table).__name__}")


def speaking(profile: Profile, dialect: str) -> Profile:
    """`profile` in another of the dialects that the provider speaks.

    Raises: ConfigError that lists them.
    """
    if dialect == profile.dialect:
        return profile
    if dialect in profile.also:
        return evolve(profile, **{"dialect": dialect, "quirks": {}, **profile.also[dialect]})
    known = [profile.dialect, *profile.also]
    close = get_close_matches(dialect, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    elsewhere = ", and no such dialect is known" if dialect not in dialects.names() else ""
    raise ConfigError(
        f"provider {profile.name!r} speaks {', '.join(known)}, not {dialect!r}{elsewhere}{hint}"
    )


_FILLED = (
    "base_url", "chat_path", "stream_path", "embeddings_path", "models_path", "rerank_path", "count_path",
    "model_prefix",
)  # fmt: skip


def filled(profile: Profile, told: Mapping[str, Any]) -> Profile:
    """`profile` with its settings put in where they belong.

    Raises: ConfigError for one that is missing, unknown, or cannot stand in a URL.
    """
    if unknown := [name for name in told if name not in profile.settings]:
        known = ", ".join(profile.settings) or "none"
        raise ConfigError(f"provider {profile.name!r} has no setting {unknown[0]!r}; it has {known}")
    texts: dict[str, Any] = {
        name: text for name in _FILLED if isinstance(text := getattr(profile, name), str) and "{" in text
    }
    for name, default in profile.settings.items():
        value = told.get(name, default)
        place = f"{{{name}}}"
        if not any(place in text for text in texts.values()):
            continue  # such as the host's, where a base_url is given
        if value is None:
            raise ConfigError(f"provider {profile.name!r} needs {name}=…")
        if not isinstance(value, str) or not _SETTING.fullmatch(value):
            raise ConfigError(f"{name} must be letters, digits, '.', '-' and '_', not {value!r}")
        texts = {field: text.replace(place, value) for field, text in texts.items()}
    return evolve(profile, **texts) if texts else profile


def transport_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keywords of `Transport` that a user may set. Raises ConfigError for others."""
    known = [*signature(Transport).parameters][2:]
    for name in options:
        if name not in known:
            raise ConfigError(f"transport takes no {name!r}; it takes {', '.join(known)}")
    return options


def secrets_in(headers: Mapping[str, str]) -> list[Secret]:
    """What no error may show of `headers`: what travels in those that are named like a credential's."""
    found = []
    for name, value in headers.items():
        if _CREDENTIAL.search(str(name)) is None or not str(value).isascii():
            continue
        bare = str(value).strip().rpartition(" ")[2]  # without "Bearer" before it
        if len(bare) >= _LEAST_SECRET and bare.isprintable():
            found.append(Secret(bare))
    return found
