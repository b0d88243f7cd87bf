"""Keys that a chain file leaves in a vault.

::

    [vault]
    store = "sqlite:///keys.db"

    [provider]
    use = "openai"
    api_key = { vault = "openai", tenant = "acme", env = "OPENAI_API_KEY" }

The master secret is that of ``LLMPIPE_MASTER_KEY``, or `master` of the table: one, or a list of which the
first seals. The other settings are those of `KeyVault` and of `KeyVault.source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.errors import ConfigError
from llmpipe.keys import KeyVault, VaultKey, masters_in
from llmpipe.pipeline.checks import nearest

__all__ = ("FileVault",)

_VAULT = ("master", "max_age_days", "name", "store")
_KEY = ("env", "fresh", "name", "tenant", "vault")


class FileVault:
    """The vault of one file, opened when the first key is taken from it, and closed with the provider.

    Args: table is what stands in the file; None where nothing does.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._vault: KeyVault | None = None

    def key(self, table: Mapping[str, Any]) -> VaultKey:
        """The key that `table` says, as a provider takes it.

        Raises: ConfigError for what is wrong with it, or with the vault.
        """
        told = {str(name): value for name, value in table.items()}
        _check("api_key", told, _KEY)
        provider = told.pop("vault", None)
        if not isinstance(provider, str) or not provider:
            raise ConfigError("api_key: `vault` is the provider under which the vault has the key")
        for name, value in told.items():
            if name != "fresh" and not isinstance(value, str):
                raise ConfigError(f"api_key: {name} is text, not a {type(value).__name__}")
        vault = self.opened()
        source = vault.source(provider, **told)
        source.owns = vault
        return source

    def opened(self) -> KeyVault:
        """The vault. Raises: ConfigError for what is wrong with it, or where there is none."""
        if self._vault is None:
            if not isinstance(self._table, Mapping):
                raise ConfigError("keys lie in a vault, so the file needs a table [vault] with its store")
            told = {str(name): value for name, value in self._table.items()}
            _check("vault", told, _VAULT)
            store, master = told.pop("store", None), told.pop("master", None)
            if not isinstance(store, str):
                raise ConfigError("vault: store is missing, the URL of where it is kept")
            days, name = told.get("max_age_days", 90.0), told.get("name", "keys")
            if isinstance(days, bool) or not isinstance(days, int | float):
                raise ConfigError(f"vault: max_age_days is a number, not {days!r}")
            if not isinstance(name, str):
                raise ConfigError(f"vault: name is text, not {name!r}")
            masters = masters_in() if master is None else master
            self._vault = KeyVault(store, masters, max_age_days=days, name=name)
        return self._vault


def _check(what: str, told: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in told:
        if name not in known:
            hint = nearest(name, known) or f"; it takes {', '.join(known)}"
            raise ConfigError(f"{what}: no setting {name!r}{hint}")
