"""The stage of the routed scene: four targets, a router with short times, and the production chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count, cycle
from typing import Any

from attrs import define, evolve, field

from llmpipe import dialects
from llmpipe.cli.demo.routed.places import Place
from llmpipe.cli.demo.scene import Record
from llmpipe.cli.demo.traffic import Errand
from llmpipe.config import presets
from llmpipe.errors import LLMError
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.commit import Commit
from llmpipe.middleware.redact import Redact
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline import bands
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply
from llmpipe.routing.checks import Checks
from llmpipe.routing.router import Router
from llmpipe.routing.rules import Change, HealthRules
from llmpipe.runtime import Runtime
from llmpipe.tools import LoopResult

__all__ = ("CALLERS", "PRICES", "Phase", "Routed", "build", "questions")

CALLERS = ("openai.chat", "openai.responses", "anthropic.messages", "gemini.generate", "cohere.chat")
"""The dialects that requests come in."""

PRICES = {"bolts": 0.15, "nuts": 0.05, "washers": 0.02, "springs": 1.25}
"""What the tools know, in USD; a tool loop is run for each."""

_RAMP_SECONDS = 2.4
_TOPICS = ("tides", "lighthouses", "sourdough", "glaciers", "night trains", "violins", "lichen")


@define
class Phase:
    """One part of the scene: its calls, and how many requests each provider's book has of it."""

    title: str
    records: list[Record] = field(factory=list)
    requests: Counter[str] = field(factory=Counter)
    refused: Counter[str] = field(factory=Counter)


@define
class Routed:
    """Everything the report and the promises need, when all is over."""

    chain: Chain
    router: Router
    places: dict[str, Place]
    phases: dict[str, Phase] = field(factory=dict)
    loops: list[LoopResult] = field(factory=list)
    loop_errors: list[LLMError] = field(factory=list)
    calls: list[Call] = field(factory=list)
    begun: float = 0.0
    seconds: float = 0.0
    tasks_left: int = 0
    connections_left: int = 0

    @property
    def attempts(self) -> list[Attempt]:
        """Every attempt of every call, the tool loops' too."""
        return [attempt for call in self.calls for attempt in call.ledger.attempts]

    @property
    def records(self) -> list[Record]:
        """The calls of all phases."""
        return [record for phase in self.phases.values() for record in phase.records]

    def changed(self, target: str, kind: str) -> Change | None:
        """The latest change of that kind; None if there was none."""
        mine = [one for one in self.router.changes() if (one.target, one.kind) == (target, kind)]
        return mine[-1] if mine else None


def build(places: dict[str, Place], seed: int) -> Routed:
    """The production chain over a router over all of them.

    Times are short, so that what takes minutes in production can be watched. Streams are held until they
    are whole: one that breaks on its way is then asked for elsewhere, and nobody notices.
    """
    _, attempt = Timeout(first=5.0).rings()
    router = Router(
        *(place.target for place in places.values()),
        health=HealthRules(rest=0.5, max_rest=2.0, ramp=_RAMP_SECONDS, max_ramp=4.0),
        checks=Checks(interval=0.25, timeout=1.0),
        layers=(Breaker(base=0.5), attempt, Commit(policy="whole")),
    )
    standard = presets.production(
        redact=Redact(mode="reversible"),
        timeout=Timeout(first=10.0, idle=5.0, total=20.0),
        retry=Retry(base=0.05, cap=0.5),
    )
    calls: list[Call] = []

    @layer(priority=bands.OBSERVE - 50)
    async def witness(call: Call, call_next: Handler) -> Reply:
        calls.append(call)
        return await call_next(call)

    chain = Chain(router, witness, *standard, runtime=Runtime(seed=seed))
    return Routed(chain, router, places, calls=calls)


def questions() -> Iterator[Errand]:
    """Calls without end, each as a caller of the next dialect sends it; every second one is a stream."""
    for number, name in zip(count(1), cycle(CALLERS), strict=False):
        text = f"Question {number}, what is known of {_TOPICS[number % len(_TOPICS)]}?"
        read = dialects.get(name).decode_request(_body(name, "Be exact.", text))
        # Whose model answers is the router's to say.
        yield Errand(number, evolve(read, model="", stream=number % 2 == 0), name)


def _body(dialect: str, system: str, text: str) -> dict[str, Any]:
    """A question as JSON of that dialect, as its callers write it."""
    said = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    if dialect == "openai.responses":
        return {"model": "any", "instructions": system, "input": text, "max_output_tokens": 200}
    if dialect == "anthropic.messages":
        return {"model": "any", "system": system, "messages": said[1:], "max_tokens": 200}
    if dialect == "gemini.generate":
        return {
            "systemInstruction": {"parts": [{"text": system}]},
            "contents": [{"role": "user", "parts": [{"text": text}]}],
            "generationConfig": {"maxOutputTokens": 200},
        }
    return {"model": "any", "messages": said, "max_tokens": 200}
