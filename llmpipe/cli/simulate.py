"""`llmpipe simulate-provider`: the simulator as a server, until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import AsyncExitStack, suppress
from difflib import get_close_matches
from typing import Any

from attrs import fields_dict

from llmpipe.config.load import read_file
from llmpipe.errors import ConfigError
from llmpipe.pipeline.registry import structured
from llmpipe.testing.simulator import Fault, Rule, Simulator

__all__ = ("SERVED", "add_arguments", "rules_from", "run")

SERVED = {
    "openai.chat": ("/v1/chat/completions", "/v1/embeddings"),
    "openai.responses": ("/v1/responses", "/v1/responses/input_tokens"),
    "anthropic.messages": ("/v1/messages", "/v1/messages/count_tokens"),
    "gemini.generate": (
        "/v1beta/models/MODEL:generateContent",
        "/v1beta/models/MODEL:streamGenerateContent",
        "/v1beta/models/MODEL:countTokens",
        "/v1beta/models/MODEL:batchEmbedContents",
    ),
    "cohere.chat": ("/v2/chat", "/v2/embed", "/v2/rerank"),
}
"""What is served where, as clients with their usual base URLs ask for it."""


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
    if options.seconds is not None and not options.seconds > 0:
        raise ConfigError(f"--seconds must be above 0, not {options.seconds:g}")
    rules = rules_from(options.rules) if options.rules else []
    if options.fail_rate:
        rules.append(Rule(Fault(status=503), rate=options.fail_rate))
    return asyncio.run(_serve(options, rules))


async def _serve(options: argparse.Namespace, rules: list[Rule]) -> int:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows has no handlers on its loop
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
    simulator = Simulator(rules, keys=options.key, seed=options.seed, port=options.port)
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(simulator)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot listen on port {options.port}: {error}") from None
        print(f"simulated provider at {simulator.url}/v1")
        for dialect, paths in SERVED.items():
            for place, path in enumerate(paths):
                print(f"  {'' if place else dialect:<18}  {path}")
        print("  lists of models     /v1/models, as each dialect has them", flush=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(options.seconds):
                await stop.wait()
        book = simulator.book
        print(f"{len(book.entries)} requests: {dict(book.ends)}; billed ${book.billed:f}", flush=True)
    return 0


def rules_from(path: str) -> list[Rule]:
    """The rules in a file. Raises ConfigError that says of each rule which is wrong and how."""
    data = read_file(path)
    problems = [f"{path}: unknown {name!r}; it takes [[rule]] tables" for name in data if name != "rule"]
    rules = []
    listed = data.get("rule", [])
    for place, item in enumerate(listed if isinstance(listed, list) else [listed]):
        try:
            rules.append(_rule(item))
        except ConfigError as error:
            problems.append(f"{path}: rule[{place}]: {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return rules


def _rule(item: Any) -> Rule:
    if not isinstance(item, dict):
        raise ConfigError(f"expected a table, not {type(item).__name__}")
    settings = dict(item)
    fault = settings.get("fault")
    if not isinstance(fault, dict):
        raise ConfigError("expected a table [rule.fault] that says what goes wrong")
    if isinstance(fault.get("body"), str):
        settings["fault"] = {**fault, "body": fault["body"].encode()}
    for given, kind, where in ((settings, Rule, ""), (fault, Fault, "fault.")):
        known = sorted(set(fields_dict(kind)) - {"when"})
        for name in given:
            if name not in known:
                close = get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
                raise ConfigError(f"no {where + name!r}; {hint}")
    rule: Rule = structured(Rule, settings)
    return rule
