"""`llmpipe doctor`: what is installed, what is set, and what is wrong."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import platform
import sqlite3
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec

from attrs import frozen
from rich.console import Console
from rich.markup import escape

from llmpipe import dialects
from llmpipe.cli.pick import untold
from llmpipe.config import presets
from llmpipe.errors import ConfigError, LLMError
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import GROUP, names, origin
from llmpipe.providers.factory import GROUP as PROVIDERS
from llmpipe.providers.factory import provider, provider_names
from llmpipe.providers.mock import MockProvider
from llmpipe.providers.profiles import PROFILES
from llmpipe.secret import hide_password
from llmpipe.state import GROUP as STORES
from llmpipe.state import open_state

__all__ = ("add_arguments", "run")

_NEEDED = ("anyio", "aiohttp", "attrs", "cattrs", "orjson", "aiolimiter")
_WAL_RESET = (3, 51, 3)
_MARKS = {"ok": "[green]ok[/green]  ", "note": "[yellow]note[/yellow]", "bad": "[red]bad[/red] "}


@frozen
class Check:
    """One line of the examination; `level` is ``ok``, ``note`` or ``bad``."""

    level: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--online", action="store_true", help="ask each provider whether it accepts its key (free)"
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        action="append",
        default=[],
        help="connect to this store and look through what it keeps; may be given several times",
    )


def run(options: argparse.Namespace) -> int:
    """Examine; 1 if something is bad."""
    console = Console(highlight=False)
    checks = [*_installation(), *_plugins(), *_stores(), *_keys(), asyncio.run(_a_call())]
    if options.online:
        checks += asyncio.run(_online())
    checks += [asyncio.run(_store(url)) for url in options.store]
    for check in checks:
        console.print(_MARKS[check.level], escape(check.text), soft_wrap=True)
    return int(any(check.level == "bad" for check in checks))


def _installation() -> Iterator[Check]:
    good = sys.version_info >= (3, 11)
    yield Check("ok" if good else "bad", f"Python {platform.python_version()} (3.11 or newer is needed)")
    for package in _NEEDED:
        try:
            yield Check("ok", f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            yield Check("bad", f"{package} is not installed")


def _plugins() -> Iterator[Check]:
    yield Check("ok", f"dialects: {', '.join(dialects.names())}")
    yield Check("ok", f"providers: {', '.join(provider_names())}")
    yield Check("ok", f"middlewares: {', '.join(names())}")
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  a plugin may fail in any way; it is told, and the rest goes on
            yield Check("bad", f"middleware {point.name!r} of {origin(point.name)} does not load: {error}")
        else:
            yield Check("ok", f"middleware {point.name!r} comes from {origin(point.name)}")
    for point in entry_points(group=PROVIDERS):
        whose = point.dist.name if point.dist is not None else point.value
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  the same
            yield Check("bad", f"provider {point.name!r} of {whose} does not load: {error}")
        else:
            yield Check("ok", f"provider {point.name!r} comes from {whose}")


def _stores() -> Iterator[Check]:
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < _WAL_RESET:
        # https://sqlite.org/wal.html#walresetbug; see `llmpipe.state.sqlite.writer` for why ours are safe.
        yield Check(
            "note",
            f"SQLite {version}: before 3.51.3 two programs that write one file can damage it; processes of "
            "llmpipe cannot, so let nothing else write there, nor run a checkpoint",
        )
    else:
        yield Check("ok", f"SQLite {version}")
    for point in entry_points(group=STORES):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  as in `_plugins`
            yield Check("bad", f"the store {point.name}:// does not load: {error}")
        else:
            yield Check(
                "ok", f"the store {point.name}:// comes from {point.dist.name if point.dist else '?'}"
            )


async def _store(url: str) -> Check:
    shown = hide_password(url)
    try:
        state = open_state(url)
    except ConfigError as error:
        return Check("bad", str(error))
    try:
        await state.check()
    except (ConfigError, LLMError) as error:  # some settings are looked at when the store is first asked
        return Check("bad", str(error))
    finally:
        await state.aclose()
    return Check("ok", f"{shown} can be read; it keeps {', '.join(sorted(state.offers))}")


def _keys() -> Iterator[Check]:
    """A line for each variable that is set, and one for all others that a provider cannot do without."""
    wanted: dict[str, list[str]] = {}
    for profile in PROFILES.values():
        variable = profile.key_env or ("GOOGLE_CLOUD_PROJECT" if "project" in profile.settings else "")
        if variable:
            wanted.setdefault(variable, []).append(profile.name)
    missing = []
    for variable, kinds in wanted.items():
        named = f"({', '.join(kinds)})"
        if os.environ.get(variable):
            yield Check("ok", f"{variable} is set {named}")
        elif any(PROFILES[kind].key_required for kind in kinds):
            missing.append(f"{variable} {named}")
    if missing:
        yield Check("note", f"not set, of which one is enough: {', '.join(missing)}")
    if os.environ.get("GOOGLE_CLOUD_PROJECT") and find_spec("google.auth") is None:
        yield Check(
            "note", "google-auth, which vertex needs, is not installed: pip install 'llmpipe[vertex]'"
        )


async def _a_call() -> Check:
    async with Chain(MockProvider(default="ok"), *presets.production()) as chain:
        try:
            await chain.complete("Are you there?")
        except LLMError as error:
            return Check("bad", f"a call through the standard chain failed: {error}")
    return Check("ok", "a call through the standard chain over the mock provider")


async def _online() -> list[Check]:
    checks = []
    for name, profile in PROFILES.items():
        if not os.environ.get(profile.key_env) or profile.base_url is None:
            continue
        if missing := untold(profile):
            checks.append(Check("note", f"{name} cannot be asked here: it needs {', '.join(missing)}=…"))
            continue
        core = provider(name)
        try:
            good = await core.validate_api_key()
            checks.append(
                Check("ok" if good else "bad", f"{name} {'accepts' if good else 'refuses'} its key")
            )
        except LLMError as error:
            checks.append(Check("bad", f"{name} cannot be asked: {error}"))
        finally:
            await core.aclose()
    return checks
