"""`llmpipe keys`: provider keys in a vault. A key is read from a pipe or a prompt, never from the words."""

from __future__ import annotations

import argparse
import asyncio
import sys
from getpass import getpass

from llmpipe.errors import ConfigError
from llmpipe.keys import KeyInfo, KeyVault, masters_in

__all__ = ("add_arguments", "run")

_COLUMNS = ("tenant", "provider", "name", "version", "master", "age", "key")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    doing = parser.add_subparsers(dest="doing", required=True, metavar="WHAT")
    for what, told in (
        ("list", "show what is stored, the keys masked"),
        ("put", "store a key, read from a pipe or a prompt, in the place of what has its names"),
        ("delete", "forget a key"),
        ("rotate", "seal everything by the new master secret; may be interrupted and run again"),
        ("due", "show the keys that are too old; status 1 if there are any"),
    ):
        one = doing.add_parser(what, help=told, description=told[0].upper() + told[1:] + ".")
        if what in ("put", "delete"):
            one.add_argument("provider", help="kind of provider, such as openai")
            one.add_argument("--tenant", default="", help="whose key it is; by default that of all")
            one.add_argument("--name", default="default", help="which of several")
        one.add_argument("--store", required=True, help="such as sqlite:///llmpipe.db or postgresql://…")
        one.add_argument("--vault", default="keys", help="name of the vault in the store")
        one.add_argument("--max-age", type=float, default=90.0, metavar="DAYS", help="when a key is due")
        one.add_argument("--master-file", help="file of the master secret, in place of LLMPIPE_MASTER_KEY")
        one.add_argument("--old-master-file", help="in place of LLMPIPE_MASTER_KEY_OLD")


def run(options: argparse.Namespace) -> int:
    """Do what is asked; 1 where there is no such key, a row does not open, or a key is due."""
    masters = masters_in(file=options.master_file, old_file=options.old_master_file)
    vault = KeyVault(options.store, masters, max_age_days=options.max_age, name=options.vault)
    key = _asked(options) if options.doing == "put" else ""
    return asyncio.run(_done(vault, options, key))


def _asked(options: argparse.Namespace) -> str:
    """The key to store. Raises: ConfigError for none."""
    key = getpass(f"Key of {options.provider}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise ConfigError("there is no key to store")
    return key


async def _done(vault: KeyVault, options: argparse.Namespace, key: str) -> int:
    try:
        if options.doing == "put":
            version = await vault.put(options.provider, key, tenant=options.tenant, name=options.name)
            print(f"stored as version {version}")
        elif options.doing == "delete":
            there = await vault.delete(options.provider, tenant=options.tenant, name=options.name)
            print("deleted" if there else "there was none")
            return int(not there)
        elif options.doing == "rotate":
            return await _rotated(vault)
        elif options.doing == "due":
            found = await vault.due()
            _show(found)
            return int(bool(found))
        else:
            _show(await vault.keys())
    finally:
        await vault.aclose()
    return 0


async def _rotated(vault: KeyVault) -> int:
    done = await vault.rotate()
    print(f"{done.rotated} sealed anew, {done.already} were already, {len(done.unreadable)} do not open")
    for tenant, provider, name in done.unreadable:
        print(f"does not open: tenant {tenant!r}, provider {provider!r}, name {name!r}", file=sys.stderr)
    if not done.complete:
        print("keep the old master secret until all of them open, or are deleted", file=sys.stderr)
    return int(not done.complete)


def _show(found: list[KeyInfo]) -> None:
    if not found:
        print("none")
        return
    rows = [_COLUMNS]
    for one in found:
        age = f"{one.age_days:.0f} d{' (due)' if one.due else ''}"
        rows.append((
            one.tenant or "-", one.provider, one.name, str(one.version), one.master, age, one.hint,
        ))  # fmt: skip
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
