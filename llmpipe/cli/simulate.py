"""`llmpipe simulate-provider`: the simulator as a server, until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import suppress
from typing import Any

from attrs import fields_dict

from llmpipe.config.load import read_file
from llmpipe.errors import ConfigError
from llmpipe.testing.simulator import Fault, Rule, Simulator

__all__ = ("add_arguments", "rules_from", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--port", type=int, default=8399, help="0 for any free one (default: %(default)s)")
    parser.add_argument(
        "--key", action="append", help="an API key it accepts; may be repeated; by default any"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the chances of faults (default: %(default)s)")
    parser.add_argument(
        "--rules", help="a TOML, JSON or YAML file with [[rule]] tables: conditions, and [rule.fault]"
    )
    parser.add_argument("--fail-rate", type=float, default=0.0, help="share of requests answered 503, 0 to 1")
    parser.add_argument("--seconds", type=float, help="stop after so long; by default when interrupted")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM, then print the books."""
    rules = rules_from(options.rules) if options.rules else []
    if options.fail_rate:
        rules.append(Rule(Fault(status=503), rate=options.fail_rate))
    return asyncio.run(_serve(options, rules))


async def _serve(options: argparse.Namespace, rules: list[Rule]) -> int:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows has no handlers on its loop
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with Simulator(rules, keys=options.key, seed=options.seed, port=options.port) as simulator:
        print(f"simulated provider at {simulator.url}/v1 (OpenAI chat, Anthropic messages)", flush=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(options.seconds):
                await stop.wait()
        book = simulator.book
        print(f"{len(book.entries)} requests: {dict(book.ends)}; billed ${book.billed:f}", flush=True)
    return 0


def rules_from(path: str) -> list[Rule]:
    """The rules in a file. Raises ConfigError that says which rule is wrong and how."""
    data = read_file(path)
    rules = []
    for place, item in enumerate(data.get("rule", ())):
        where = f"{path}: rule[{place}]"
        if not isinstance(item, dict):
            raise ConfigError(f"{where}: expected a table")
        fault = _known(Fault, dict(item.get("fault", {})), f"{where}.fault")
        rest = _known(Rule, {key: value for key, value in item.items() if key != "fault"}, where)
        rules.append(Rule(Fault(**fault), **rest))
    return rules


def _known(kind: Any, settings: dict[str, Any], where: str) -> dict[str, Any]:
    known = set(fields_dict(kind)) - {"fault", "when"}
    if unknown := sorted(set(settings) - known):
        raise ConfigError(
            f"{where}: unknown {', '.join(map(repr, unknown))}; it takes {', '.join(sorted(known))}"
        )
    if isinstance(settings.get("body"), str):
        settings["body"] = settings["body"].encode()
    return settings
