"""`llmpipe demo --live`: a few calls to a real provider, through the production chain."""

from __future__ import annotations

import argparse

from rich.console import Console

from llmpipe.cli.pick import found_in, pick
from llmpipe.config import presets
from llmpipe.errors import ConfigError, LLMError
from llmpipe.middleware.waterfall import render_waterfall
from llmpipe.pipeline.chain import Chain

__all__ = ("run_live",)

_PROMPTS = (
    "Say hello in three words.",
    "Name one prime number between 20 and 30.",
    "Say hello in three words.",
)


async def run_live() -> int:
    """Three calls, the last of them a repetition; 1 if one fails. Costs a small fraction of a cent."""
    if found_in() is None:
        raise ConfigError("--live needs a key in the environment: OPENAI_API_KEY or ANTHROPIC_API_KEY")
    console = Console(highlight=False)
    core = pick(argparse.Namespace(provider=None, model=None, base_url=None))
    failed = 0
    async with Chain(core, *presets.production()) as chain:
        for prompt in _PROMPTS:
            console.print(f"[bold]{prompt}[/bold]")
            streaming = chain.stream(prompt, max_tokens=200)
            try:
                async with streaming as reply:
                    async for piece in reply.texts():
                        console.print(piece, end="", markup=False, soft_wrap=True)
                    console.print()
                    cost = reply.completion.cost
            except LLMError as error:
                failed = 1
                console.print(f"[red]{type(error).__name__}: {error}[/red]")
            else:
                console.print(f"[dim]{'price unknown' if cost is None else f'${cost:f}'}[/dim]")
            console.print(render_waterfall(streaming.call), markup=False, soft_wrap=True)
    return failed
