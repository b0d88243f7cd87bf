"""`llmpipe budget`: how budgets stand and will go on, what could be saved, what an invoice says."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from attrs import asdict, evolve
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmpipe.config.load import load_chain
from llmpipe.errors import ConfigError
from llmpipe.middleware.budget import Budget
from llmpipe.middleware.budget.advice import advise
from llmpipe.middleware.budget.booking import Booked, book, plan
from llmpipe.middleware.budget.corrections import Corrections
from llmpipe.middleware.budget.invoice import FIELDS, read_invoice
from llmpipe.middleware.budget.journal import read
from llmpipe.middleware.budget.reconcile import Reconciliation, reconcile, tellings_of_line
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
            action.add_argument("--tolerance", help="USD by which a line may differ (0.01; booked: 0)")
            action.add_argument("--book", action="store_true", help="book what differs, for good")
            action.add_argument("--chain", help="the file of the chain, which has the rules; to book")
            action.add_argument(
                "--exported", help="when the file was made, UTC (default: when it was last written)"
            )
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
    """Do it; 1 if an invoice differs, after it was booked too."""
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
    seen: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        told = tellings_of_line(row)
        key = tuple([rule.account(told[0]) for rule in config.rules if rule.stands(told[0], now)])
        seen.setdefault(key, told)
    return [await _asked(config, runtime, told) for told in seen.values()] or [{}]


async def _asked(config: Budget, runtime: Runtime, told: list[dict[str, str]]) -> dict[str, str]:
    """Of the scopes that calls may have been of, by the name their model was asked for by, those charged."""
    if len(told) == 1:
        return told[0]
    spent = [sum(one.spent for one in await config.status(runtime, **scopes)) for scopes in told]
    return told[spent.index(max(spent))]


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
    tolerance = _dollars(options.tolerance)
    if options.book and (options.account is not None or not options.chain):
        raise ConfigError("--book takes the whole file, without --account, and --chain, which has the rules")
    lines = read_invoice(options.invoice, columns)
    config = _budget(options)
    ledger = config.desk(runtime).ledger
    how: Any = {
        "provider": options.provider,
        "exported_at": _exported(options.exported, options.invoice),
        "tolerance_usd": tolerance or 0,
    }
    done: Corrections | Booked = Corrections(corrections=(), left=())
    if options.book:
        done = await book(ledger, config.rules, lines, **how)
    elif options.account is None and any(line.nano is not None for line in lines):
        done = await plan(ledger, lines, **how)
    rows = [row for row in await _rows(options, runtime) if row.provider == options.provider]
    found = reconcile(rows, lines, tolerance_usd=Decimal("0.01") if tolerance is None else tolerance)
    if options.json:
        _print_json({**asdict(found), **_told(done)})
        return found.exit_code
    _print_differences(found)
    _print_corrections(done)
    return found.exit_code


def _dollars(told: str | None) -> Decimal | None:
    try:
        found = None if told is None else Decimal(told)
    except ArithmeticError:
        found = Decimal("NaN")
    if found is not None and (found.is_nan() or found < 0):
        raise ConfigError(f"--tolerance is dollars, not {told!r}")
    return found


def _exported(told: str | None, invoice: str) -> float:
    """When the file was made, seconds since the epoch."""
    if told is None:
        return Path(invoice).stat().st_mtime
    try:
        moment = datetime.fromisoformat(told)
    except ValueError:
        raise ConfigError(f"--exported is a day or a moment, 2026-12-31T08:00, not {told!r}") from None
    return (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp()


def _told(done: Corrections | Booked) -> dict[str, Any]:
    told: dict[str, Any] = {
        "booked": isinstance(done, Booked),
        "corrections": [{**_without(asdict(one), "rows"), "nano": one.nano} for one in done.corrections],
        "left": [asdict(one) for one in done.left],
    }
    if isinstance(done, Booked):
        told["withheld"] = [[*key, nano] for key, nano in done.withheld.items()]
        told["untold"] = done.untold
    return told


def _without(told: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in told.items() if other != name}


def _print_corrections(done: Corrections | Booked) -> None:
    console = _console()
    for one in done.left:
        what = one.request_id or f"{one.day} {one.model}"
        console.print(f"left as it is: {escape(what)}, for {escape(one.why)}")
    if not isinstance(done, Booked):
        if done.corrections:
            console.print(
                f"{len(done.corrections)} corrections, {usd(done.nano)} USD in all, would be booked; "
                "--book --chain FILE does it"
            )
        return
    console.print(f"{len(done.corrections)} corrections are booked, {usd(done.nano)} USD in all")
    for (account, _), nano in done.withheld.items():
        console.print(
            f"{escape(account)}: {usd(nano)} USD not given back, for less was charged than the journal has"
        )
    for name in done.untold:
        console.print(f"{escape(name)}: not moved, for the journal has not all the tags that it asks for")


def _print_differences(found: Reconciliation) -> None:
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
    "reconcile": (
        _reconcile,
        "compare with a provider's invoice, and book it; status 1 if they differ",
    ),
    "journal": (_journal, "what was spent, attempt by attempt"),
}
