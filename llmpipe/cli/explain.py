"""`llmpipe explain CHAINFILE`."""

from __future__ import annotations

import argparse

from llmpipe.config.load import load_chain

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("chainfile", help="a chain in TOML, JSON or YAML")


def run(options: argparse.Namespace) -> int:
    """Print what the chain does; 1 if something in it is dangerous."""
    explanation = load_chain(options.chainfile).explain()
    print(explanation)
    return int(any(finding.level == "error" for finding in explanation.findings))
