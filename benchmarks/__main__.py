"""`python -m benchmarks [--quick] [--out FOLDER] [SCENARIO …]`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from benchmarks.measure import Figure
from benchmarks.report import plot, save, table
from benchmarks.scenarios import SCENARIOS
from benchmarks.upstream import running


def main() -> int:
    """Run scenarios, print the table, write JSON and a plot. Exit status 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"some of {', '.join(SCENARIOS)}; by default all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a look")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder for JSON and plot")
    options = parser.parse_args()
    for name in options.scenario:
        if name not in SCENARIOS:
            parser.error(f"unknown scenario {name!r}; known: {', '.join(SCENARIOS)}")
    logging.getLogger("llmpipe").setLevel(logging.WARNING)
    rounds = 7 if options.quick else 25
    figures: list[Figure] = []
    with running() as base_url:
        for name in options.scenario or SCENARIOS:
            print(f"{name} …", file=sys.stderr, flush=True)
            figures.extend(asyncio.run(SCENARIOS[name](base_url, rounds)))
    print(table(figures))
    options.out.mkdir(parents=True, exist_ok=True)
    save(figures, options.out / "figures.json")
    try:
        plot(figures, options.out / "figures.png")
    except ModuleNotFoundError:
        print("no plot: it needs matplotlib (pip install 'llmpipe[plot]')", file=sys.stderr)
    else:
        print(f"written: {options.out}/figures.json, {options.out}/figures.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
