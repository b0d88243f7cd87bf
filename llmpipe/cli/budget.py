"""`llmpipe budget`: how budgets stand and will go on, what could be saved, what an invoice says."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from attrs import asdict, evolve
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmpipe.config.load import load_chain
from llmpipe.errors import ConfigError
from llmpipe.middleware.budget import Budget
from llmpipe.middleware.budget.advice import advise
from llmpipe.middleware.budget.invoice import FIELDS, read_invoice
from llmpipe.middleware.budget.journal import read, scopes_of_line
from llmpipe.middleware.budget.reconcile import reconcile
from llmpipe.middleware.budget.refusal import usd
from llmpipe.runtime import Runtime
from llmpipe.state import Spend

__all__ = ("add_arguments", "run")

_DAY = 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (_, summary) in _ACTIONS.items():
        action = commands.add_parser(name, help=summary)
        action.add_argument(
            "--store", default="", help="URL of the store: sqlite:///…, redis://…, postgresql://…"
        )
        action.add_argument("--name", default="", help="name of the budget (default: budget)")
        action.add_argument("--json", action="store_true", help="print JSON")
        if name in ("status", "forecast"):
            action.add_argument("--chain", required=True, help="the file of the chain, which has the rules")
        else:
            action.add_argument("--since", default="", help="first day, 2026-12-31 (UTC)")
            action.add_argument("--until", default="", help="last day (UTC)")
            action.add_argument("--account", default=None, help="only what this account spent")
        if name == "advise":
            action.add_argument("--min-calls", type=int, default=50, help="attempts a comparison needs (50)")
        if name == "reconcile":
            action.add_argument("invoice", help="the provider's file, CSV or JSON")
            action.add_argument("--provider", required=True, help="whose it is, as the journal names it")
            action.add_argument("--tolerance", default="0.01", help="USD by which a line may differ (0.01)")
            action.add_argument(
                "--column",
                action="append",
                default=[],
                metavar="FIELD=NAME",
                help=f"the file's name for {', '.join(FIELDS)}",
            )
        if name == "journal":
            action.add_argument("--last", type=int, default=50, help="how many lines (50)")


def run(options: argparse.Namespace) -> int:
    """Do it; 1 if an invoice differs."""
    work: Callable[[argparse.Namespace, Runtime], Awaitable[int]] = _ACTIONS[options.action][0]

    async def closing() -> int:
        runtime = Runtime()
        try:
            return await work(options, runtime)
        finally:
            await runtime.aclose()

    return asyncio.run(closing())


def _budget(options: argparse.Namespace) -> Budget:
    """The budget that is asked about: of the chain's file, or only a name and a store."""
    found = Budget(name=options.name or "budget")
    if getattr(options, "chain", None):
        rings = load_chain(options.chain).middleware
        configs = [ring.config for ring in rings if isinstance(getattr(ring, "config", None), Budget)]  # type: ignore[attr-defined]  # as was looked
        named = [one for one in configs if not options.name or one.name == options.name]
        if len(named) != 1:
            names = ", ".join(one.name for one in configs) or "none"
            raise ConfigError(f"{options.chain}: which budget? it has {names}; say one with --name")
        found = named[0]
    store = options.store or found.store
    if store.startswith("memory:"):
        raise ConfigError(
            "what is kept in memory:// ends with its process; give the --store of a running one"
        )
    return evolve(found, store=store)


# ------------------------------------------------------------ how budgets stand


async def _standing(config: Budget, runtime: Runtime) -> list[dict[str, str]]:
    """Scopes of all whose budgets are spent of in this period, by what the journal says."""
    now = runtime.wall()
    since = min([now, *[rule.period_at(now).start for rule in config.rules]])
    rows = await read(config.desk(runtime).ledger, since=float(since))
    seen: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        scopes = scopes_of_line(row)
        key = tuple([rule.account(scopes) for rule in config.rules if rule.stands(scopes, now)])
        seen.setdefault(key, scopes)
    return list(seen.values()) or [{}]


async def _status(options: argparse.Namespace, runtime: Runtime) -> int:
    config = _budget(options)
    found = {}
    for scopes in await _standing(config, runtime):
        for status in await config.status(runtime, **scopes):
            found[status.account] = status
    if options.json:
        _print_json([{**asdict(one), "left": one.left, "share": one.share} for one in found.values()])
        return 0
    table = _table("budget", "of", "spent", "held", "left", "of it", "begins anew")
    for one in sorted(found.values(), key=lambda one: (-one.share, one.account)):
        money = [_usd(nano) for nano in (one.limit, one.spent, one.held, one.left)]
        table.add_row(escape(one.account), *money, _share(one.share), one.resets_at or "never")
    _console().print(table)
    return 0


async def _forecast(options: argparse.Namespace, runtime: Runtime) -> int:
    config = _budget(options)
    found = {}
    for scopes in await _standing(config, runtime):
        accounts = {one.rule: one.account for one in await config.status(runtime, **scopes)}
        for rule, one in (await config.forecast(runtime, **scopes)).items():
            found[accounts[rule]] = one
    if options.json:
        _print_json([{"account": account, **asdict(one)} for account, one in found.items()])
        return 0
    table = _table("budget", "of", "spent", "an hour", "at the end", "of it", "used up", "by")
    for account, one in sorted(found.items(), key=lambda item: (-(item[1].share or 0), item[0])):
        end = "" if one.projected is None else _usd(one.projected)
        out = "" if one.exhausted_at is None else _moment(one.exhausted_at)
        share = "" if one.share is None else _share(one.share)
        table.add_row(
            escape(account), _usd(one.limit), _usd(one.spent), _usd(one.per_hour), end, share, out, one.basis
        )
    _console().print(table)
    return 0


# ------------------------------------------------------------ the journal


async def _rows(options: argparse.Namespace, runtime: Runtime) -> list[Spend]:
    since, until = _begin(options.since, 0.0), _begin(options.until, float("inf"), _DAY)
    ledger = _budget(options).desk(runtime).ledger
    return await read(ledger, since=since, until=until, tenant=options.account)


def _begin(day: str, otherwise: float, more: float = 0.0) -> float:
    if not day:
        return otherwise
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + more
    except ValueError:
        raise ConfigError(f"a day is told as 2026-12-31, not {day!r}") from None


async def _journal(options: argparse.Namespace, runtime: Runtime) -> int:
    rows = (await _rows(options, runtime))[-max(1, options.last) :]
    if options.json:
        _print_json([asdict(row) for row in rows])
        return 0
    table = _table("at", "account", "user", "model", "ended", "in", "cached", "out", "USD", text=5)
    for row in rows:
        money = "unknown" if row.nano is None else f"{'~' if row.estimated else ''}{_usd(row.nano)}"
        tokens = [f"{count:,}" for count in (row.input_tokens, row.cached_input_tokens, row.output_tokens)]
        model = f"{row.provider}/{row.model}"
        table.add_row(
            _moment(row.at), *map(escape, (row.tenant, row.user, model, row.status)), *tokens, money
        )
    _console().print(table)
    return 0


async def _advise(options: argparse.Namespace, runtime: Runtime) -> int:
    found = advise(await _rows(options, runtime), min_calls=max(1, options.min_calls))
    if options.json:
        _print_json([asdict(one) for one in found])
    elif not found:
        _console().print("Nothing to save is seen in this journal.")
    else:
        table = _table("saves USD", "of", "what to do", text=0)
        for one in found:
            table.add_row(_usd(one.saving) if one.saving else "room", escape(one.what), escape(one.text))
        _console().print(table)
    return 0


async def _reconcile(options: argparse.Namespace, runtime: Runtime) -> int:
    columns = dict(_column(told) for told in options.column) or None
    try:
        tolerance = Decimal(options.tolerance)
    except ArithmeticError:
        raise ConfigError(f"--tolerance is dollars, not {options.tolerance!r}") from None
    lines = read_invoice(options.invoice, columns)
    rows = [row for row in await _rows(options, runtime) if row.provider == options.provider]
    found = reconcile(rows, lines, tolerance_usd=tolerance)
    if options.json:
        _print_json(asdict(found))
        return found.exit_code
    unit = str if found.tokens else _usd
    table = _table("day or request", "model", "", "journal", "invoice", "invoice - journal", text=3)
    for row in found.differences:
        sides = ["" if side is None else unit(side) for side in (row.journal, row.invoice)]
        more = unit((row.invoice or 0) - (row.journal or 0))
        table.add_row(escape(row.day or row.request_id), escape(row.model), row.status, *sides, more)
    if found.differences:
        _console().print(table)
    what = "tokens" if found.tokens else "USD"
    _console().print(
        f"{len(found.rows)} by {found.by}, {len(found.differences)} differ: journal {unit(found.journal)}, "
        f"invoice {unit(found.invoice)} {what}"
    )
    return found.exit_code


def _column(told: str) -> tuple[str, str]:
    name, equals, column = told.partition("=")
    if not equals or not column:
        raise ConfigError(f"--column is FIELD=NAME, such as usd=Cost, not {told!r}")
    return name, column


# ------------------------------------------------------------ showing it


def _console() -> Console:
    # In a pipe nobody sees a line's end, and a name that is cut cannot be found.
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)


def _table(*columns: str, text: int = 1) -> Table:
    """A table whose columns from number `text` on are numbers; 0: all are text."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(columns):
        number = 0 < text <= place
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def _usd(nano: int) -> str:
    return usd(round(nano, -5)) if abs(nano) >= 10**9 else usd(nano)


def _share(share: float) -> str:
    colour = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
    return f"[{colour}]{share:.1%}[/{colour}]"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds").replace("+00:00", "Z")


def _print_json(found: Any) -> None:
    print(json.dumps(found, indent=2, default=str))


_ACTIONS: dict[str, tuple[Callable[[argparse.Namespace, Runtime], Awaitable[int]], str]] = {
    "status": (_status, "how much of each budget is spent and held"),
    "forecast": (_forecast, "what each will have spent when its period ends"),
    "advise": (_advise, "what could be saved, from what was spent"),
    "reconcile": (_reconcile, "compare the journal with a provider's invoice; status 1 if they differ"),
    "journal": (_journal, "what was spent, attempt by attempt"),
}
