"""What is counted together: the key that a call has under a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmpipe.errors import ConfigError

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call

__all__ = ("check_scopes", "key_function", "tells_targets_apart")

_SCOPES: dict[str, Callable[[Call], tuple[str, ...]]] = {
    "global": lambda call: (),
    "provider": lambda call: call.account_key[:2],
    "target": lambda call: call.account_key,
    "model": lambda call: call.target_key[2:],
    "tenant": lambda call: (call.tenant,),
    "user": lambda call: (call.tenant, call.user),
}
_OF_A_TARGET = frozenset(("provider", "target", "model"))


def check_scopes(per: tuple[str, ...], where: str) -> None:
    """Refuse a scope that does not exist. Raises: ConfigError, which begins with `where`."""
    if unknown := [scope for scope in per if scope not in _SCOPES]:
        raise ConfigError(f"{where}: per is one or more of {', '.join(_SCOPES)}, not {unknown[0]!r}")


def key_function(per: tuple[str, ...]) -> Callable[[Call], tuple[str, ...]]:
    """The key of a call, counted `per` these scopes together."""
    scopes = [_SCOPES[scope] for scope in per]
    if len(scopes) == 1:
        return scopes[0]
    return lambda call: tuple(part for scope in scopes for part in scope(call))


def tells_targets_apart(per: tuple[str, ...]) -> bool:
    """Whether a call that goes to another target comes under another limit."""
    return not _OF_A_TARGET.isdisjoint(per)
