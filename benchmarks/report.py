"""Figures as a table, as JSON, and as a plot."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import attrs
import orjson

from benchmarks.measure import Figure

__all__ = ("plot", "save", "table")

_MARKS = {True: "met", False: "SHORT", None: ""}


def table(figures: Sequence[Figure]) -> str:
    """Fixed-width text, one line a figure."""
    wide = max(len(figure.name) for figure in figures)
    lines = [f"{'scenario':<{wide}}  {'median':>9}  {'quartiles':>17}  {'target':>9}"]
    for figure in figures:
        spread = f"{figure.low:.2f} – {figure.high:.2f}"
        target = "" if figure.target is None else f"≤ {figure.target:g} {figure.unit}"
        value = f"{figure.value:.2f} {figure.unit}"
        cells = f"{value:>9}  {spread:>17}  {target:>9}  {_MARKS[figure.met]:<5}  {figure.detail}"
        lines.append(f"{figure.name:<{wide}}  {cells}")
    return "\n".join(lines)


def save(figures: Sequence[Figure], path: Path) -> None:
    """The figures, and what they were taken with, as JSON."""
    content = {
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "figures": [{**attrs.asdict(figure), "met": figure.met} for figure in figures],
    }
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))


def plot(figures: Sequence[Figure], path: Path) -> None:
    """Each figure as a share of its target: a bar that ends left of the line is met."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    bounded = [figure for figure in figures if figure.target]
    shares = [figure.value / (figure.target or 1) for figure in bounded]
    chart, axes = plt.subplots(figsize=(9, 0.6 * len(bounded) + 1.2), layout="constrained")
    colours = ["tab:green" if share <= 1 else "tab:red" for share in shares]
    bars = axes.barh([figure.name for figure in bounded], shares, color=colours)
    axes.bar_label(bars, [f" {figure.value:.2f} {figure.unit}" for figure in bounded])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("measured / target (less is better)")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    chart.savefig(path, dpi=110)
    plt.close(chart)
