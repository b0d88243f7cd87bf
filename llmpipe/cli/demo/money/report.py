"""What happened in the scene of money, in tables."""

from __future__ import annotations

from itertools import takewhile
from statistics import median

from rich.console import Console
from rich.table import Table

from llmpipe.cli.demo.money.promises import ends_of, usd
from llmpipe.cli.demo.money.scene import Money
from llmpipe.cli.demo.report import table

__all__ = ("show",)

_WHAT_HAPPENS = """\
Budgets, limits and the audit trail lie in SQLite files, which instances share.
A thousand calls come at one moment, an instance is killed in the middle of its
calls, one tenant asks for far more than its part, the file cannot be written
for a while, and a provider fails for half a second.
"""


def show(console: Console, scene: Money) -> None:
    """Print the report."""
    console.print(f"\n[bold]Money and state, in {scene.seconds:.0f} s[/bold], each on a file of its own\n")
    console.print(_WHAT_HAPPENS, soft_wrap=True)
    for made in (_crowd(scene), _crash(scene), _tenants(scene), _accounts(scene), _outage(scene)):
        console.print(made)
    _tamperings(console, scene)
    _alerts(console, scene)


def _crowd(scene: Money) -> Table:
    act = scene.crowd
    made = table(f"{act.calls:,} calls at one moment, on two instances", "", "calls", "USD")
    made.add_row("the budget has room for", str(act.room), usd(act.limit))
    made.add_row("answered: spent, by our ledger", str(act.answered), usd(act.spent))
    made.add_row("  by the provider's own bill", str(act.requests), usd(act.bill))
    made.add_row("refused, nothing was sent", str(act.refused), usd(0))
    made.add_row(f"most that was spent and held, of {act.looks} looks", "", usd(act.highest))
    return made


def _crash(scene: Money) -> Table:
    act, ends = scene.crash, ends_of(scene)
    made = table("an instance is killed (SIGKILL), the next one starts on its file", "", "calls", "USD")
    before, costs = len(act.acknowledged) - act.after, [*act.acknowledged.values()]
    made.add_row("answered before", str(before), usd(sum(costs[:before])))
    made.add_row("under way when it is killed: held", str(act.under_way), usd(act.held_at_death))
    made.add_row(f"  after the lease of {act.lease:g} s: likely, charged", "", usd(act.likely))
    made.add_row("answered by the next one", str(act.after), usd(sum(costs[before:])))
    made.add_row("in the ledger: spent", str(len(act.journal)), usd(act.spent))
    made.add_row("  still held", "", usd(act.held_in_the_end))
    made.add_row("in the audit trail: ended well", str(ends["ok"]), "")
    made.add_row("  ended by the next one, as crashed", str(ends["crashed"]), "")
    return made


def _tenants(scene: Money) -> Table:
    act = scene.neighbours
    title = f"two tenants, one rate limit: {act.rate:g} a second"
    made = table(title, "tenant", "calls", "median wait", "longest wait")
    for tenant, waits in act.waits.items():
        made.add_row(tenant, str(len(waits)), f"{1000 * median(waits):.0f} ms", f"{1000 * max(waits):.0f} ms")
    return made


def _accounts(scene: Money) -> Table:
    act = scene.neighbours
    made = table("two accounts, each with 60 calls a minute", "account", "at", "", "told")
    begun = act.busy[0].at
    for account, calls in (("busy", act.busy), ("calm", act.calm)):
        burst = list(takewhile(lambda one: one.admitted, calls))
        made.add_row(account, f"{calls[0].at - begun:.2f} s", f"{len(burst)} let in", "")
        for one in calls[len(burst) :]:
            said = "" if one.retry_after is None else f"room in {one.retry_after:.2f} s"
            made.add_row("", f"{one.at - begun:.2f} s", "let in" if one.admitted else "refused", said)
    return made


def _outage(scene: Money) -> Table:
    act = scene.outage
    made = table("the file is locked for a while", "on two instances", "limit: calls", "budget: USD")
    made.add_row("allowed", str(act.limit), "10.000000")
    made.add_row("let in before", str(act.before), usd(act.bill - sum(act.lent)))
    for number, (share, lent) in enumerate(zip(act.shares, act.lent, strict=True), 1):
        made.add_row(f"meanwhile, instance {number} alone", str(share), usd(lent))
    made.add_row("  refused meanwhile, calls", str(act.refused), str(act.unavailable))
    made.add_row("let in when it is back, calls", str(act.after), "")
    made.add_row("in the ledger then", "", usd(act.spent))
    made.add_row("by the provider's own bill", "", usd(act.bill))
    return made


def _tamperings(console: Console, scene: Money) -> None:
    console.print("[bold]one bit is changed[/bold]")
    for one in scene.crash.tamperings:
        console.print(f"  {one.where}: {one.found or 'nobody notices'}", markup=False, soft_wrap=True)
    console.print("[bold]the log of the outage[/bold]")
    for said in dict.fromkeys(scene.outage.reports):
        times = scene.outage.reports.count(said)
        console.print(f"  {times} times: {said}", markup=False, soft_wrap=True)


def _alerts(console: Console, scene: Money) -> None:
    act = scene.trouble
    console.print(f"[bold]what somebody was told[/bold] while {act.failed} of {act.calls} calls failed")
    for alert in act.alerts:
        console.print(f"  {alert.state}: {alert.summary}", markup=False, soft_wrap=True)
    console.print()
