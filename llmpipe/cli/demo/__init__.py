"""`llmpipe demo`: a few hundred calls through the production chain, over providers that misbehave."""

from __future__ import annotations

import argparse
import asyncio

from llmpipe.cli.demo.live import run_live
from llmpipe.cli.demo.report import show
from llmpipe.cli.demo.run import run_scene

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--calls", type=int, default=600, help="how many (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=7, help="of traffic, faults and jitter (default: %(default)s)"
    )
    parser.add_argument(
        "--live", action="store_true", help="a few calls to the real provider there is a key for"
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; 1 if a promise is broken."""
    if options.live:
        return asyncio.run(run_live())
    scene = asyncio.run(run_scene(max(1, options.calls), options.seed))
    return show(scene)
