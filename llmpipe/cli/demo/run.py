"""Runs the scene: all errands, paced, with live progress."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sized
from random import Random

from aiolimiter import AsyncLimiter
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from llmpipe.cli.demo.scene import CALLS_PER_SECOND, Record, Scene, build, simulators
from llmpipe.cli.demo.traffic import Errand, errands
from llmpipe.errors import LLMError
from llmpipe.pipeline.chain import Chain
from llmpipe.types import Completion

__all__ = ("run_scene", "send")


async def run_scene(calls: int, seed: int) -> Scene:
    """Send `calls` errands, 60 a second, and wait until all are over."""
    seen: list[str] = []
    alpha, beta = simulators(seed, seen)
    loop = asyncio.get_running_loop()
    async with alpha, beta:
        chain, targets = build(alpha, beta, seed)
        scene = Scene(chain, alpha, beta, targets, seen=seen)
        before = len(asyncio.all_tasks())
        begun = loop.time()
        async with chain:
            work = errands(calls, Random(seed))  # noqa: S311  traffic, nothing secret
            await send(chain, work, scene.records, title="calls", per_second=CALLS_PER_SECOND)
            scene.seconds = loop.time() - begun
            scene.connections_left = sum(target.connections_in_use for target in targets)
        for target in targets[1:]:
            await target.aclose()
        await asyncio.sleep(0.3)  # the simulators notice who hung up
        scene.tasks_left = len([t for t in asyncio.all_tasks() if "llmpipe" in t.get_name()])
        assert before >= 1
    return scene


async def send(
    chain: Chain, work: Iterable[Errand], records: list[Record], *, title: str, per_second: int
) -> None:
    """Make the calls of `work`, so many a second, write down each as it ends, and wait until all are over."""
    total = len(work) if isinstance(work, Sized) else None
    pace = AsyncLimiter(per_second / 10, 0.1)  # plain pacing: order and refunds do not matter here
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=total, state="")

        async def one(errand: Errand) -> None:
            record = await _call(chain, errand)
            records.append(record)
            failed = sum(r.error is not None for r in records)
            progress.update(bar, advance=1, state=f"{failed} ended in an error" if failed else "")

        async with asyncio.TaskGroup() as group:
            for errand in work:
                await pace.acquire()
                _ = group.create_task(one(errand))


async def _call(chain: Chain, errand: Errand) -> Record:
    """One call, as a caller makes it; a typed error is an outcome, anything else ends the demo."""
    loop = asyncio.get_running_loop()
    call = chain.new_call(errand.request)
    record = Record(errand, call, started_at=loop.time())
    try:
        async with await chain(call) as reply:
            if errand.request.stream:
                pieces = [piece async for piece in reply.texts()]
                record.text = "".join(pieces)
                done = reply.completion
            else:
                done = await reply.full()
            assert isinstance(done, Completion)
            record.outcome, record.text, record.finish = "ok", done.text, done.finish_reason
    except LLMError as error:
        record.outcome, record.error = type(error).__name__, error
    record.ended_at = loop.time()
    return record
