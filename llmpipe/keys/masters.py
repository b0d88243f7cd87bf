"""Master secrets from where they are kept, and a vault from what the environment says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from llmpipe.errors import ConfigError
from llmpipe.keys.sealing import MasterKey
from llmpipe.secret import Secret

__all__ = ("MASTER_KEY", "Masters", "master_keys", "masters_in")

Masters: TypeAlias = str | Secret | Sequence[str | Secret] | Mapping[str, str | Secret]
"""One master secret, or several, the one that seals first; by id where ids are wanted."""

MASTER_KEY = "LLMPIPE_MASTER_KEY"
"""The environment variable of the master secret."""

_OLD = "LLMPIPE_MASTER_KEY_OLD"


def master_keys(masters: Masters) -> dict[str, MasterKey]:
    """The master keys by id, in the same order.

    Raises: ConfigError for none, for one that is too short, and for one that is given twice.
    """
    if isinstance(masters, Mapping):
        if "" in masters:
            raise ConfigError("the id of a master secret must not be empty")
        made = [MasterKey(secret, name) for name, secret in masters.items()]
    else:
        several = [masters] if isinstance(masters, str | Secret) else masters
        made = [MasterKey(secret) for secret in several]
    if not made:
        raise ConfigError("a vault needs a master secret")
    keys = {key.id: key for key in made}
    if len(keys) != len(made):
        raise ConfigError("the same master secret is given twice")
    return keys


def masters_in(
    environ: Mapping[str, str] = os.environ, *, file: str | None = None, old_file: str | None = None
) -> list[Secret]:
    """The master secrets of ``LLMPIPE_MASTER_KEY`` and, behind it, of ``LLMPIPE_MASTER_KEY_OLD``.

    Args: file, old_file: paths to read them from instead; one secret to a line, and the first is the newest.

    Raises: ConfigError where there is none, or a file cannot be read.
    """
    found: list[Secret] = []
    for variable, path in ((MASTER_KEY, file), (_OLD, old_file)):
        told = environ.get(variable, "") if path is None else _read(path)
        found += [Secret(line) for line in told.splitlines() if line.strip()]
    if not found or (file is None and not environ.get(MASTER_KEY, "").strip()):
        raise ConfigError(f"there is no master secret: set {MASTER_KEY}; make one: openssl rand -base64 32")
    return list(dict.fromkeys(found))


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii")
    except OSError as error:
        raise ConfigError(f"the file of the master secret: {error.strerror}") from None
    except UnicodeDecodeError:  # its words would quote the file
        pass
    raise ConfigError("the file of the master secret holds something else than text")
