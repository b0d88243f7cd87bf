"""Runs the scene of money: five acts, three of them side by side, for they mostly wait."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from llmpipe.cli.demo.money.crash import run_crash
from llmpipe.cli.demo.money.crowd import run_crowd
from llmpipe.cli.demo.money.neighbours import run_neighbours
from llmpipe.cli.demo.money.outage import run_outage
from llmpipe.cli.demo.money.scene import Money
from llmpipe.cli.demo.money.trouble import run_trouble

__all__ = ("run_money",)


async def run_money() -> Money:
    """All acts, on files in a directory that is gone afterwards; about seven seconds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with TemporaryDirectory(prefix="llmpipe-demo-") as name:
        home = Path(name)
        crowd = await run_crowd(home)
        crash, neighbours, trouble = await asyncio.gather(run_crash(home), run_neighbours(), run_trouble())
        outage = await run_outage(home)
    left = len([task for task in asyncio.all_tasks() if "llmpipe" in task.get_name()])
    return Money(crowd, crash, neighbours, outage, trouble, loop.time() - begun, left)
