"""How the simulator counts and prices what it does: apart from the chain's own accounts."""

from __future__ import annotations

from collections.abc import Mapping

from llmpipe.pricing import cost_of, prices
from llmpipe.testing.simulator.book import Entry
from llmpipe.tokens import estimate_request, estimate_tokens
from llmpipe.types import (
    Completion,
    EmbeddingRequest,
    Event,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolDelta,
    Usage,
)

__all__ = ("Meter", "Tally")

_DIALECTS = {
    "/v1/chat/completions": "openai.chat",
    "/v1/messages": "anthropic.messages",
    "/v1/embeddings": "openai.chat",
}


class Tally:
    """Counts what a stream has sent, event by event, into its entry."""

    def __init__(self, entry: Entry, input_tokens: int) -> None:
        self._entry = entry
        self._input = input_tokens
        self._text = self._thought = self._tools = ""

    def add(self, event: Event) -> None:
        """`event` was sent whole."""
        if isinstance(event, TextDelta):
            self._text += event.text
        elif isinstance(event, ReasoningDelta):
            self._thought += event.text
        elif isinstance(event, ToolDelta):
            self._tools += (event.name or "") + event.arguments
        else:
            return
        sent = sum(estimate_tokens(text) for text in (self._text, self._thought, self._tools) if text)
        self._entry.usage = Usage(self._input, sent)


class Meter:
    """Counts tokens by `llmpipe.tokens` and prices them by the table of the named providers."""

    def __init__(self, prices: Mapping[str, str]) -> None:
        self._prices = prices

    def usage(self, request: Request | EmbeddingRequest, done: Completion | None) -> Usage:
        """Tokens of a request and, where there is one, its reply."""
        output = 0
        if done is not None:
            tools = "".join(call.name + call.arguments for call in done.tool_calls)
            output = sum(estimate_tokens(text) for text in (done.text, done.reasoning, tools) if text)
        return Usage(estimate_request(request), output)

    def tally(self, request: Request, entry: Entry) -> Tally:
        """A count of a stream that is about to be sent."""
        return Tally(entry, estimate_request(request))

    def bill(self, entry: Entry) -> None:
        """Write the price of what was used into `entry`; nothing where nothing was used."""
        price = prices().find(self._prices.get(_DIALECTS[entry.path], ""), entry.model)
        charge = None if entry.usage is None else cost_of(entry.usage, price)
        entry.billed_nano = 0 if charge is None else charge.total_nano
