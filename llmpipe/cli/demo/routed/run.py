"""Runs the routed scene, phase by phase."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from itertools import count, islice

from attrs import evolve

from llmpipe.cli.demo.routed.places import KEY, MODELS, Place
from llmpipe.cli.demo.routed.scene import PRICES, Phase, Routed, build, questions
from llmpipe.cli.demo.run import send
from llmpipe.cli.demo.traffic import Errand
from llmpipe.errors import LLMError
from llmpipe.testing.simulator import Fault, Rule
from llmpipe.tools import ToolLoop, tool
from llmpipe.types import AnyRequest

__all__ = ("run_routed",)

CALLS_PER_SECOND = 100
CALLS = 100
# None is reset: what has arrived before a reset and was not read yet is lost, so that no two books agree.
BREAKS = {"openai": Fault(cut_after=8), "gemini": Fault(cut_after=8), "cohere": Fault(malformed_after=8)}
"""How streams break, every sixth one, and after how many of their events."""
_EVERY = 6
_MOST_CALLS = 2000  # on the way back: twenty seconds of them


async def run_routed(seed: int) -> Routed:
    """All phases of the scene, one after the other; about nine seconds."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        places: dict[str, Place] = {}
        for place, name in enumerate(MODELS):
            places[name] = await Place.opened(name, seed + place)
            stack.push_async_callback(places[name].aclose)
        scene = build(places, seed)
        scene.begun = loop.time()
        async with scene.chain:
            await _phases(scene)
            await _tool_loops(scene)
            scene.seconds = loop.time() - scene.begun
            scene.connections_left = sum(place.target.connections_in_use for place in places.values())
        scene.tasks_left = len([task for task in asyncio.all_tasks() if "llmpipe" in task.get_name()])
    return scene


async def _phases(scene: Routed) -> None:
    anthropic, gemini = scene.places["anthropic"], scene.places["gemini"]
    asked = questions()
    await _phase(scene, "well", "all are well", islice(asked, CALLS))
    await anthropic.switch_off()
    await asyncio.sleep(0.1)  # for the pool to see that its connections were closed
    await _phase(scene, "dead", "anthropic is dead", islice(asked, CALLS))
    await anthropic.switch_on()
    await _phase(scene, "back", "anthropic comes back", _until_readmitted(scene, asked))
    await _phase(scene, "again", "anthropic is back", islice(asked, CALLS))
    gemini.simulator.keys = {KEY}
    await _phase(scene, "key", "gemini: a key revoked", islice(asked, CALLS // 2))
    for place, (name, fault) in enumerate(BREAKS.items()):
        scene.places[name].simulator.rules = (Rule(fault, when=_every(_EVERY, 2 * place)),)
    await _phase(scene, "streams", "streams break half-way", _streamed(islice(asked, CALLS)))
    for name in BREAKS:
        scene.places[name].simulator.rules = ()


async def _phase(scene: Routed, key: str, title: str, work: Iterable[Errand]) -> None:
    scene.phases[key] = phase = Phase(title)
    before = {name: len(place.entries) for name, place in scene.places.items()}
    await send(scene.chain, work, phase.records, title=title, per_second=CALLS_PER_SECOND)
    for name, place in scene.places.items():
        new = place.entries[before[name] :]
        phase.requests[name] = len(new)
        phase.refused[name] = sum(entry.end == "refused" for entry in new)


def _until_readmitted(scene: Routed, asked: Iterator[Errand]) -> Iterator[Errand]:
    for errand in islice(asked, _MOST_CALLS):
        if scene.changed("anthropic", "readmitted") is not None:
            return
        yield errand


def _streamed(asked: Iterable[Errand]) -> Iterator[Errand]:
    for errand in asked:
        yield evolve(errand, request=evolve(errand.request, stream=True))


def _every(number: int, begin: int) -> Callable[[AnyRequest], bool]:
    turn = count(begin)

    def due(request: AnyRequest) -> bool:
        return next(turn) % number == 0

    return due


async def _tool_loops(scene: Routed) -> None:
    """Conversations of three steps; the next step is the next target's, which speaks another dialect."""

    @tool
    async def stock(item: str) -> int:
        """How many of an item are in store."""
        return 40 * len(item)

    @tool
    async def price(item: str, count: int) -> str:
        """What so many of an item cost."""
        return f"{PRICES[item] * count:.2f} USD"

    loop = ToolLoop(scene.chain, [stock, price], max_steps=4)
    for item in PRICES:
        try:
            scene.loops.append(await loop.run(f"What is the price of all our {item}?", max_tokens=200))
        except LLMError as error:
            scene.loop_errors.append(error)
