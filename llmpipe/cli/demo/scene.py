"""The stage of the demo: two simulated providers, what they do wrong, and the chain in front of them."""

from __future__ import annotations

from attrs import define, field

from llmpipe.cli.demo.traffic import Errand
from llmpipe.config import presets
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.redact import Redact
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.timeout import Timeout
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.providers.http import HTTPProvider
from llmpipe.runtime import Runtime
from llmpipe.testing.simulator import Fault, Rule, Simulator, plain_answer
from llmpipe.types import AnyRequest, Completion, Message, Request

__all__ = ("CALLS_PER_SECOND", "Call", "FIRST_TOKEN_SECONDS", "Record", "Scene", "build", "simulators")

KEY, REVOKED_KEY = "sk-demo-0123456789abcdef", "sk-demo-revoked-0123456789"
CALLS_PER_SECOND = 60
FIRST_TOKEN_SECONDS = 2.0
"""Of patience with the first token: enough for a busy machine, where the simulators may be the slow ones."""
OUTAGE = (3.0, 6.0)
"""Seconds after the start between which the first provider answers nothing but 503."""


@define
class Record:
    """One call as its caller saw it."""

    errand: Errand
    call: Call
    outcome: str = "open"
    text: str = ""
    finish: str | None = None
    error: Exception | None = None
    started_at: float = 0.0
    ended_at: float = 0.0


@define
class Scene:
    """Everything the report and the promises need, when all is over."""

    chain: Chain
    alpha: Simulator
    beta: Simulator
    targets: tuple[HTTPProvider, ...]
    records: list[Record] = field(factory=list)
    seen: list[str] = field(factory=list)
    seconds: float = 0.0
    tasks_left: int = 0
    connections_left: int = 0


def simulators(seed: int, seen: list[str]) -> tuple[Simulator, Simulator]:
    """The two providers. Every prompt they are sent is written into `seen`."""

    def answer(request: Request) -> Completion:
        text = request.messages[-1].text
        seen.append(text)
        if text.startswith("Echo this back: "):
            return Completion(
                message=Message("assistant", text.removeprefix("Echo this back: ")), finish_reason="stop"
            )
        return plain_answer(request)

    def streamed(request: AnyRequest) -> bool:
        return request.stream

    alpha = Simulator(
        [
            Rule(Fault(status=503), since=OUTAGE[0], until=OUTAGE[1]),
            Rule(Fault(status=429, headers={"retry-after": "1"}), rate=0.008),
            Rule(Fault(first_delay=4 * FIRST_TOKEN_SECONDS), rate=0.02),
            Rule(Fault(cut_after=0), rate=0.02, when=streamed),
            Rule(Fault(cut_after=3), rate=0.03, when=streamed),
            Rule(Fault(cut_after=5), rate=0.02, when=streamed),  # no reset: see `routed.run.BREAKS`
            Rule(Fault(cut_at=40), rate=0.02),
        ],
        answer=answer,
        keys={KEY},
        seed=seed,
    )
    beta = Simulator(
        [
            Rule(Fault(status=529), rate=0.02),
            Rule(Fault(error_after=0), rate=0.02, when=streamed),
            Rule(Fault(unfinished=True), rate=0.02, when=streamed),
        ],
        answer=answer,
        keys={KEY},
        seed=seed + 1,
    )
    return alpha, beta


def build(alpha: Simulator, beta: Simulator, seed: int) -> tuple[Chain, tuple[HTTPProvider, ...]]:
    """The production chain over the first provider, falling back to the second.

    The second is there twice: with a key that has been revoked, and with one that works.
    """
    first = _at("openai", api_key=KEY, base_url=alpha.url + "/v1", model="gpt-4o-mini", name="alpha")
    revoked = _at(
        "anthropic",
        api_key=REVOKED_KEY,
        base_url=beta.url + "/v1",
        model="claude-haiku-4-5",
        name="beta-old-key",
    )
    second = _at("anthropic", api_key=KEY, base_url=beta.url + "/v1", model="claude-haiku-4-5", name="beta")
    standard = presets.production(
        redact=Redact(mode="reversible"),
        timeout=Timeout(first=FIRST_TOKEN_SECONDS, idle=5.0, total=30.0),
        # All targets share the attempts of a call: of six, two may go to a failing one and a revoked key.
        retry=Retry(attempts=6, base=0.1, cap=1.0),
        # Tried again each second: a probe that meets one of the other faults is not the last one here.
        breaker=Breaker(base=1.0, cap=1.0),
        coalesce=Coalesce(),
        rate_limit=RateLimit(concurrency=64, per="target"),
    )
    chain = Chain(first, *standard, Fallback(revoked, second), runtime=Runtime(seed=seed))
    return chain, (first, revoked, second)


def _at(kind: str, **options: str) -> HTTPProvider:
    made = provider(kind, **options)
    assert isinstance(made, HTTPProvider)
    return made
