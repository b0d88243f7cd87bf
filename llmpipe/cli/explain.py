"""`llmpipe explain CHAINFILE`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from llmpipe.config.load import load_chain
from llmpipe.keys import MASTER_KEY
from llmpipe.providers.profiles import PROFILES

__all__ = ("add_arguments", "run")

_MADE_UP = "made-up-" * 4  # as long as a master secret has to be


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("chainfile", help="a chain in TOML, JSON or YAML; no keys are needed")


def run(options: argparse.Namespace) -> int:
    """Print what the chain does; 1 if something in it is dangerous."""
    with _keys_made_up():
        explanation = load_chain(options.chainfile).explain()
    print(explanation)
    return int(any(finding.level == "error" for finding in explanation.findings))


@contextmanager
def _keys_made_up() -> Iterator[None]:
    """Each provider's own key is set: nobody is asked, and where a file is checked there are no keys."""
    names = [MASTER_KEY, *[profile.key_env for profile in PROFILES.values()]]
    before = {name: os.environ.get(name) for name in names}
    missing = [name for name, key in before.items() if name and not key]
    os.environ.update(dict.fromkeys(missing, _MADE_UP))
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
            if (empty := before[name]) is not None:
                os.environ[name] = empty
