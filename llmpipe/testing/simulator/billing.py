"""How the simulator counts and prices what it does: apart from the chain's own accounts."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve

from llmpipe.dialects import Dialect, StreamDecoder
from llmpipe.errors import LLMError
from llmpipe.pricing import cost_of, prices
from llmpipe.testing.simulator.book import Entry
from llmpipe.tokens import estimate_request, estimate_tokens
from llmpipe.types import (
    AnyRequest,
    Completion,
    ReasoningDelta,
    Request,
    TextDelta,
    ToolDelta,
    Usage,
)

__all__ = ("Meter", "Tally")

_NO_PROMPT = {"encoding_format", "stream_options"}


class Tally:
    """Counts what has left of a stream, down to the byte: what a reader has who got so much of it."""

    def __init__(self, entry: Entry, input_tokens: int, decoder: StreamDecoder) -> None:
        self._entry = entry
        self.input_tokens = input_tokens
        self._decoder = decoder
        self._text = self._thought = self._tools = ""

    def add(self, data: bytes) -> None:
        """`data` was sent."""
        try:
            events = self._decoder.feed(data)
        except LLMError:
            return  # the script's own: after it there is nothing to read
        for event in events:
            if isinstance(event, TextDelta):
                self._text += event.text
            elif isinstance(event, ReasoningDelta):
                self._thought += event.text
            elif isinstance(event, ToolDelta):
                self._tools += (event.name or "") + event.arguments
        self._entry.usage = Usage(self.input_tokens, _tokens(self._text, self._thought, self._tools))


class Meter:
    """Counts tokens by `llmpipe.tokens` and prices them by the table of the named providers."""

    def __init__(self, prices: Mapping[str, str]) -> None:
        self._prices = prices

    def taken(self, request: AnyRequest) -> Usage:
        """Tokens of a request."""
        # What a dialect adds to say how it wants its stream is no part of the prompt.
        extra = {name: value for name, value in request.extra.items() if name not in _NO_PROMPT}
        return Usage(estimate_request(evolve(request, extra=extra)))

    def whole(self, request: Request, done: Completion) -> Usage:
        """Tokens of a request and its reply."""
        tools = "".join(call.name + call.arguments for call in done.tool_calls)
        return evolve(self.taken(request), output_tokens=_tokens(done.text, done.reasoning, tools))

    def tally(self, request: Request, entry: Entry, dialect: Dialect) -> Tally:
        """A count of a stream that is about to be sent."""
        return Tally(entry, self.taken(request).input_tokens, dialect.decoder())

    def bill(self, entry: Entry) -> None:
        """Write the price of what was used into `entry`; nothing where nothing was used."""
        price = prices().find(self._prices.get(entry.dialect, ""), entry.model)
        charge = None if entry.usage is None else cost_of(entry.usage, price)
        entry.billed_nano = 0 if charge is None else charge.total_nano


def _tokens(*texts: str) -> int:
    return sum(estimate_tokens(text) for text in texts if text)
