"""The Lua scripts of this package: one file each, read when it is first used."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from attrs import frozen

__all__ = ("Script", "script")


@frozen
class Script:
    """A script's text, and the SHA-1 by which Redis knows it."""

    text: bytes
    sha: bytes


@cache
def script(name: str) -> Script:
    """The script in ``scripts/<name>.lua``, after those that its first line says it ``needs``."""
    text = _read(name)
    first, _, _ = text.partition("\n")
    parts = [text]
    if first.startswith("-- needs "):
        parts = [*(_read(part) for part in first.removeprefix("-- needs ").split()), text]
    whole = "\n".join(parts).encode()
    return Script(whole, hashlib.sha1(whole, usedforsecurity=False).hexdigest().encode())


def _read(name: str) -> str:
    return (files("llmpipe_redis") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")
