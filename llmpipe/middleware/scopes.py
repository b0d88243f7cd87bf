"""What budgets and limits can be of, and what that is in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from typing import Any

from llmpipe.errors import ConfigError
from llmpipe.pipeline.call import Call
from llmpipe.secret import scrub

__all__ = (
    "OF_A_TARGET",
    "SCOPES",
    "Scopes",
    "asked",
    "balance_key",
    "label",
    "matches",
    "owned",
    "scope",
    "scopes_of",
)

SCOPES = ("global", "account", "project", "user", "key", "provider", "model")
"""``tenant`` is another word for ``account``, and ``tag:x`` is the call's tag x."""

OF_A_TARGET = frozenset(("provider", "model"))
"""Those that may differ from one attempt of a call to the next."""

_AS_TOLD = frozenset(("global", "account", "user", "provider", "model"))

Scopes = Mapping[str, str]
"""Scope to its value in one call. Tags stand as ``tag:name``."""


def scopes_of(call: Call, provider: str, model: str) -> dict[str, str]:
    """The scopes of one attempt of `call`. What the call does not say is "", a value like any other."""
    found = {
        "account": call.tenant,
        "project": "",
        "user": call.user,
        "key": "",
        "provider": provider,
        "model": model,
    }
    tags = call.tags
    if tags:
        found["project"], found["key"] = label(tags.get("project", "")), label(tags.get("key", ""))
        for name, value in tags.items():
            found[f"tag:{name}"] = label(value)
    return found


def label(value: Any) -> str:
    """A tag's value as stores may know it: of what looks like a credential only a digest.

    A key's tag is to be its id. Where somebody gives the key itself, it is counted all the same.
    """
    return _label(value if type(value) is str else str(value))


@lru_cache(4096)
def _label(text: str) -> str:
    if scrub(text, max_chars=len(text)) == text:
        return text
    return f"sha256:{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def asked(scopes: Mapping[str, Any], where: str) -> dict[str, str]:
    """The scopes that somebody asks about, as those of a call stand. Raises: as `scope`."""
    found = {scope(name, where): value for name, value in scopes.items()}
    return {
        name: str(value) if name in _AS_TOLD else label(value)  # as `scopes_of` has them
        for name, value in found.items()
    }


def scope(name: Any, where: str) -> str:
    """The scope that `name` names. Raises: ConfigError that lists them, and says which is meant perhaps."""
    if name == "tenant":
        return "account"
    if isinstance(name, str) and (name in SCOPES or (name.startswith("tag:") and len(name) > 4)):
        return name
    near = get_close_matches(str(name), SCOPES, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{where}: there is no scope {name!r}; there are {', '.join(SCOPES)}, tag:name{hint}")


def owned(names: Iterable[str]) -> tuple[str, ...]:
    """The scopes to count apart: with the account, where a name means something only within one.

    Two accounts may both have a user "bob".
    """
    keys = tuple([name for name in names if name != "global"])
    return ("account", *keys) if {"user", "project"} & set(keys) and "account" not in keys else keys


def matches(when: Mapping[str, str], scopes: Scopes) -> bool:
    """Whether each scope in `when` has a value that fits its pattern (``*``, ``?``, ``[abc]``)."""
    return all(fnmatchcase(scopes.get(name, ""), pattern) for name, pattern in when.items())


def balance_key(name: str, keys: tuple[str, ...], scopes: Scopes) -> str:
    """The key under which a store counts what is of these scopes: ``day/account=acme/user=bob``."""
    if not keys:
        return name
    return f"{name}/" + "/".join([f"{key}={_escaped(scopes.get(key, ''))}" for key in keys])


def _escaped(value: str) -> str:
    """So that nobody can name himself into another's budget."""
    return value.replace("%", "%25").replace("/", "%2F") if "/" in value or "%" in value else value
