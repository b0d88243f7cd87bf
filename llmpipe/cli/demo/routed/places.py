"""A simulated provider that can be switched off, and what it answers."""

from __future__ import annotations

import socket
from typing import Any

from attrs import define, field

from llmpipe.providers.factory import provider
from llmpipe.providers.http import HTTPProvider
from llmpipe.testing.simulator import Entry, Simulator
from llmpipe.types import Completion, Message, Request, ToolCall, ToolResult

__all__ = ("KEY", "MODELS", "Place", "SECOND_KEY", "expected")

KEY, SECOND_KEY = "sk-demo-0123456789abcdef", "sk-demo-second-0123456789"
MODELS = {
    "openai": ("gpt-4o-mini", "/v1"),
    "anthropic": ("claude-haiku-4-5", "/v1"),
    "gemini": ("gemini-2.5-flash", "/v1beta"),
    "cohere": ("command-a-03-2025", ""),
}
"""The four kinds of provider, each of another dialect: its model, and its base URL below the simulator's."""


@define
class Place:
    """One provider: a simulator of it on its own port, and our side of it."""

    name: str
    simulator: Simulator
    target: HTTPProvider = field(init=False)
    _held: socket.socket | None = None

    @classmethod
    async def opened(cls, name: str, seed: int) -> Place:
        """The provider of that name, switched on."""
        place = cls(name, Simulator(answer=_answer, keys={KEY, SECOND_KEY}, seed=seed))
        await place.simulator.__aenter__()
        model, path = MODELS[name]
        keys: Any = [KEY, SECOND_KEY] if name == "gemini" else KEY
        made = provider(name, api_key=keys, base_url=place.simulator.url + path, model=model)
        assert isinstance(made, HTTPProvider)
        place.target = made
        return place

    async def switch_off(self) -> None:
        """From now on its port refuses connections."""
        port = int(self.simulator.url.rpartition(":")[2])
        await self.simulator.__aexit__(None, None, None)
        # Bound and not listened on, it refuses as one that nobody has, and nobody else can get it.
        self._held = held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", port))

    async def switch_on(self) -> None:
        """It listens again, where it did."""
        assert self._held is not None
        self._held.close()
        self._held = None
        await self.simulator.__aenter__()

    async def aclose(self) -> None:
        """Close both sides."""
        await self.target.aclose()
        if self._held is None:
            await self.simulator.__aexit__(None, None, None)
        else:
            self._held.close()

    @property
    def entries(self) -> list[Entry]:
        """Its book, without the checks of the router: those ask for the list of models, which is free."""
        return [entry for entry in self.simulator.book.entries if entry.dialect]


def expected(prompt: str) -> str:
    """What every provider answers to `prompt`, word for word."""
    return (
        f"You asked: {prompt} This is the answer, and it is long enough to break in the middle of it. "
        f"Whoever reads this line has all of it, once, and nothing from another answer between."
    )


def _answer(request: Request) -> Completion:
    """The answer to a question; with tools, what a model does that needs two of them, one after the other.

    What the second is called with, and what is said in the end, is read from the results that came over the
    wire: it is right only if they arrived, in order and with the calls they belong to.
    """
    if not request.tools:
        said = expected(request.messages[-1].text)
        return Completion(message=Message("assistant", said), finish_reason="stop")
    results = [part for m in request.messages for part in m.parts if isinstance(part, ToolResult)]
    item = request.messages[-1 - 2 * len(results)].text.rpartition(" ")[2].rstrip("?.")
    if len(results) == 2:
        return Completion(
            message=Message("assistant", f"All of them: {results[1].text}."), finish_reason="stop"
        )
    if len(results) == 1:
        call = ToolCall(f"call_price_{item}", "price", f'{{"item": "{item}", "count": {results[0].text}}}')
    else:
        call = ToolCall(f"call_stock_{item}", "stock", f'{{"item": "{item}"}}')
    return Completion(message=Message("assistant", [call]), finish_reason="tool_calls")
