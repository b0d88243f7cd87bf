"""`llmpipe demo`: hundreds of calls over providers that misbehave and die, and over state that does."""

from __future__ import annotations

import argparse
import asyncio
import logging

from rich.console import Console

from llmpipe.cli.demo import report
from llmpipe.cli.demo.live import run_live
from llmpipe.cli.demo.money import report as money_report
from llmpipe.cli.demo.money.promises import check as check_money
from llmpipe.cli.demo.money.run import run_money
from llmpipe.cli.demo.promises import check
from llmpipe.cli.demo.routed import report as routed_report
from llmpipe.cli.demo.routed.promises import check as check_routed
from llmpipe.cli.demo.routed.run import run_routed
from llmpipe.cli.demo.run import run_scene

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--calls", type=int, default=600, help="how many in the scene of faults (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=7, help="of traffic, faults and jitter (default: %(default)s)"
    )
    parser.add_argument(
        "--scene",
        choices=("all", "faults", "routing", "money"),
        default="all",
        help="a chain over two providers that misbehave, a router over four, money and state, "
        "or all of them (default)",
    )
    parser.add_argument(
        "--live", action="store_true", help="a few calls to the real provider there is a key for"
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; 1 if a promise is broken."""
    if options.live:
        return asyncio.run(run_live())
    # What the scenes do wrong on purpose is told in the report; a warning of each would hide it.
    logging.getLogger("llmpipe.credentials").addHandler(logging.NullHandler())
    console = Console(highlight=False)
    promises = {}
    if options.scene in ("all", "faults"):
        faults = asyncio.run(run_scene(max(1, options.calls), options.seed))
        report.show(console, faults)
        promises["one chain over two providers"] = check(faults)
    if options.scene in ("all", "routing"):
        routed = asyncio.run(run_routed(options.seed))
        routed_report.show(console, routed)
        promises["one router over four"] = check_routed(routed)
    if options.scene in ("all", "money"):
        money = asyncio.run(run_money())
        money_report.show(console, money)
        promises["money and state"] = check_money(money)
    return report.verdict(console, promises)
