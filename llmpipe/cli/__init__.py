"""The command line: ``llmpipe demo``, ``chat``, ``explain``, ``bulk`` and the others of `_COMMANDS`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from llmpipe.errors import ConfigError, LLMError

__all__ = ("main",)

_COMMANDS = {
    "demo": ("llmpipe.cli.demo", "send a few hundred calls through chains over misbehaving providers"),
    "chat": ("llmpipe.cli.chat", "talk to a model; to a mock without a key"),
    "explain": ("llmpipe.cli.explain", "say what the chain in a file does, in which order and why"),
    "simulate-provider": ("llmpipe.cli.simulate", "run a provider that misbehaves on cue"),
    "bulk": ("llmpipe.cli.bulk", "send all requests of a file through the chain in a file"),
    "budget": ("llmpipe.cli.budget", "show budgets, what could be saved, and compare with an invoice"),
    "keys": ("llmpipe.cli.keys", "keep provider keys encrypted, and rotate what seals them"),
    "audit": ("llmpipe.cli.audit", "verify, show, note or prune an audit trail"),
    "doctor": ("llmpipe.cli.doctor", "check this installation and its environment"),
}
_TOLD = logging.NullHandler()  # for the records of calls: each command says itself how its calls ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0 well, 1 a promise broken, 2 wrong use."""
    from llmpipe import __version__  # noqa: PLC0415  the face of the package, which loads nothing

    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in given if word in _COMMANDS), None)
    parser = argparse.ArgumentParser(
        prog="llmpipe", description="A middleware pipeline for calls to language models."
    )
    parser.add_argument("--version", action="version", version=f"llmpipe {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        command.set_defaults(module=module)
        if name == chosen:  # only the module of the command that runs is imported
            try:
                import_module(module).add_arguments(command)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] == "llmpipe":
                    raise
                print(f"llmpipe {name}: needs {error.name!r}: pip install 'llmpipe[cli]'", file=sys.stderr)
                return 2
    if not given:
        parser.print_help(sys.stderr)
        parser.exit(2)
    options = parser.parse_args(given)
    logging.getLogger("llmpipe.call").addHandler(_TOLD)
    run: Callable[[argparse.Namespace], int] = import_module(options.module).run
    try:
        return run(options)
    except (ConfigError, LLMError) as error:
        print(f"llmpipe {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # of `llmpipe … | head`: nobody is there to be told
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  else Python complains as it flushes at the end
        return 1
