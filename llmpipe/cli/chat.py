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
    """Talk until the end of input."""
    return asyncio.run(_talk(options))


async def _talk(options: argparse.Namespace) -> int:
    out, side = Console(highlight=False), Console(stderr=True, highlight=False)
    core = pick(options)
    async with Chain(core, *presets.production()) as chain:
        history = [Message("system", options.system)] if options.system else []
        if options.prompt:
            return await _turn(chain, history, " ".join(options.prompt), out, side)
        side.print(f"[dim]talking to {core.name}, model {core.model}; end with Ctrl-D[/dim]")
        while True:
            try:
                said = await asyncio.to_thread(input, "> " if sys.stdin.isatty() else "")
            except EOFError:
                return 0
            if said.strip():
                await _turn(chain, history, said, out, side)


async def _turn(chain: Chain, history: list[Message], said: str, out: Console, side: Console) -> int:
    """One question and its answer, which join the history only together."""
    question = Message("user", said)
    try:
        async with chain.stream([*history, question]) as reply:
            await _show(reply, out)
            done = reply.completion
    except LLMError as error:
        side.print(f"[red]{type(error).__name__}: {error}[/red]")
        return 1
    assert isinstance(done, Completion)
    history += [question, done.message]
    cost = "" if done.cost is None else f", ${done.cost:f}"
    if done.usage is not None:
        side.print(f"[dim]{done.usage.input_tokens} in, {done.usage.output_tokens} out{cost}[/dim]")
    return 0


async def _show(reply: Reply, out: Console) -> None:
    async for event in reply:
        if isinstance(event, TextDelta):
            out.print(event.text, end="", markup=False, soft_wrap=True)
        elif isinstance(event, ReasoningDelta):
            out.print(event.text, end="", markup=False, soft_wrap=True, style="dim italic")
    out.print()
