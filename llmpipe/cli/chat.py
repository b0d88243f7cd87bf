"""`llmpipe chat`: a conversation in the terminal, streamed."""

from __future__ import annotations

import argparse
import asyncio
import sys

from rich.console import Console

from llmpipe.cli.pick import add_provider_arguments, pick
from llmpipe.config import presets
from llmpipe.errors import LLMError
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.types import Completion, Message, ReasoningDelta, TextDelta

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("prompt", nargs="*", help="say this once and end; without it, a conversation")
    parser.add_argument("--system", help="a system prompt")
    add_provider_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Talk until the end of input. Returns 1 where a single question was not answered."""
    out, side = Console(highlight=False), Console(stderr=True, highlight=False)
    core = pick(options)
    history = [Message("system", options.system)] if options.system else []
    # The prompt is read between runs of the loop, not in a thread of it, so that Ctrl-C ends it.
    with asyncio.Runner() as runner:
        chain = Chain(core, *presets.production())
        try:
            if options.prompt:
                return runner.run(_turn(chain, history, " ".join(options.prompt), out, side))
            side.print(
                f"talking to {core.name}, model {core.model}; end with Ctrl-D", style="dim", markup=False
            )
            while (said := _read()) is not None:
                if said.strip():
                    runner.run(_turn(chain, history, said, out, side))
            return 0
        finally:
            runner.run(chain.aclose())


def _read() -> str | None:
    """The next line, or None at the end of input."""
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None


async def _turn(chain: Chain, history: list[Message], said: str, out: Console, side: Console) -> int:
    """One question and its answer, which join the history only together."""
    question = Message("user", said)
    try:
        async with chain.stream([*history, question]) as reply:
            await _show(reply, out)
            done = reply.completion
    except LLMError as error:
        side.print(_printable(f"{type(error).__name__}: {error}"), style="red", markup=False, soft_wrap=True)
        return 1
    assert isinstance(done, Completion)
    history += [question, done.message]
    cost = "" if done.cost is None else f", ${done.cost:f}"
    if done.usage is not None:
        side.print(f"{done.usage.input_tokens} in, {done.usage.output_tokens} out{cost}", style="dim")
    return 0


async def _show(reply: Reply, out: Console) -> None:
    async for event in reply:
        if isinstance(event, TextDelta):
            out.print(_printable(event.text), end="", markup=False, soft_wrap=True)
        elif isinstance(event, ReasoningDelta):
            out.print(_printable(event.text), end="", markup=False, soft_wrap=True, style="dim italic")
    out.print()


def _printable(text: str) -> str:
    """`text` without what a terminal would obey: a model's words move no cursor and set no title."""
    return "".join([c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text])
