"""The whole road: an SDK, a gateway, a chain, a provider, and the model behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from attrs import define

from llmpipe import Chain
from llmpipe.providers.factory import provider
from llmpipe.testing.simulator import Simulator
from llmpipe.types import Part, Reasoning, ToolCall
from tests.testing.sdks.callers import CALLERS, Caller
from tests.testing.sdks.common import CLAUDE, COMMAND, GEMINI, GPT, Model
from tests.testing.sdks.gateway import Gateway

__all__ = ("CALLS", "PROVIDERS", "Road", "every_road", "road")

# Kind of the provider, its dialect, where it stands, its model, and how it proves what it thought.
PROVIDERS: dict[str, tuple[str, str, str, tuple[Part, ...]]] = {
    "openai.chat": ("openai", "/v1", GPT, (Reasoning("Let me think."),)),
    "openai.responses": ("openai", "/v1", "o4-mini", (Reasoning("Let me think.", encrypted="cHJvb2Y="),)),
    "anthropic.messages": ("anthropic", "/v1", CLAUDE, (Reasoning("Let me think.", "cHJvb2Y="),)),
    "gemini.generate": ("gemini", "/v1beta", GEMINI, (Reasoning("Let me think."), Reasoning("", "cHJvb2Y="))),
    "cohere.chat": ("cohere", "", COMMAND, (Reasoning("Let me think."),)),
}
CALLS = (
    ToolCall("call_1", "weather", '{"place":"Paris"}'),
    ToolCall("call_2", "forecast", '{"place":"Rome"}'),
)


@define
class Road:
    """Both of its ends."""

    caller: Caller
    simulator: Simulator
    model: Model
    gateway: Gateway
    outbound: str


@asynccontextmanager
async def road(inbound: str, outbound: str) -> AsyncIterator[Road]:
    kind, at, model_name, _ = PROVIDERS[outbound]
    model = Model()
    async with Simulator(answer=model, chunk_chars=6) as simulator:
        core: Any = provider(
            kind, api_key="sk", base_url=simulator.url + at, model=model_name, dialect=outbound
        )
        async with Chain(core) as chain, Gateway(chain) as gateway:
            caller = CALLERS[inbound](gateway.url)
            try:
                yield Road(caller, simulator, model, gateway, outbound)
            finally:
                await caller.close()


def every_road(test: Callable[..., Any]) -> Callable[..., Any]:
    """Every SDK to every provider, whole and streamed."""
    for name, values in (
        ("stream", [pytest.param(False, id="full"), pytest.param(True, id="stream")]),
        ("outbound", list(PROVIDERS)),
        ("inbound", list(CALLERS)),
    ):
        test = pytest.mark.parametrize(name, values)(test)
    return test
