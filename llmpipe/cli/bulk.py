"""`llmpipe bulk CHAINFILE REQUESTS ANSWERS`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from llmpipe.bulk import Job, Summary, engine
from llmpipe.bulk.results import errors_of
from llmpipe.errors import ConfigError

__all__ = ("add_arguments", "run")

_EVERY = 2.0  # seconds between two lines of progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("chainfile", help="a chain in TOML, JSON or YAML")
    parser.add_argument("requests", help="lines of JSON, as OpenAI's or Anthropic's batches have them")
    parser.add_argument("answers", help="where the answers go; failures go to ANSWERS.errors beside it")
    parser.add_argument("--concurrency", type=int, default=32, metavar="N", help="requests at a time (32)")
    parser.add_argument(
        "--again",
        choices=("retryable", "failed", "none"),
        default="retryable",
        help="which failures of an earlier run are tried again (retryable)",
    )
    parser.add_argument("--tenant", default="", help="whose calls these are")
    parser.add_argument("--engine", help="spread the work: a name that a package brings, such as ray")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="parts of the file, with --engine")
    parser.add_argument("--address", default="", help="where the engine is; this machine without it")


def run(options: argparse.Namespace) -> int:
    """Ask; 0 if all was answered, 1 if something failed or is left, 130 if it was interrupted."""
    if options.shards < 1 or (options.shards > 1 and not options.engine):
        raise ConfigError("--shards is at least 1, and needs an --engine above that")
    job = Job(
        chainfile=str(Path(options.chainfile).resolve()),
        requests=str(Path(options.requests).resolve()),
        answers=str(Path(options.answers).resolve()),
        shards=options.shards,
        concurrency=options.concurrency,
        again=options.again,
        tenant=options.tenant,
        address=options.address,
    )
    begun = time.monotonic()
    if options.engine:
        told = engine(options.engine)(job)
        job.gathered()
    else:
        told = asyncio.run(job.run_part(0, _Progress()))
    print(_said(told, options.answers, time.monotonic() - begun))
    return int(bool(told.failed or told.left))


class _Progress:
    """A line on a terminal, every few seconds."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _EVERY

    def __call__(self, told: Summary) -> None:
        if time.monotonic() >= self._next and sys.stderr.isatty():
            self._next = time.monotonic() + _EVERY
            print(
                f"{told.total - told.left} of {told.total}, {told.failed} failed", file=sys.stderr, flush=True
            )


def _said(told: Summary, answers: str, seconds: float) -> str:
    cost = "" if told.usd is None else f", {told.usd:f} USD"
    counts = f"{told.done} answered in {seconds:.1f} s, {told.failed} failed, {told.before} were there before"
    lines = [f"{counts}, {told.left} left; {told.input_tokens} tokens in, {told.output_tokens} out{cost}"]
    if told.failed:
        lines.append(f"failures: {errors_of(Path(answers))}")
    if told.stopped:
        lines.append(f"stopped: {told.stopped}")
    if told.left or told.failed:
        lines.append("run the same again to go on")
    return "\n".join(lines)
