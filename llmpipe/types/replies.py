"""What a provider answers, what it used and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar, Literal

import orjson
from attrs import field, frozen

from llmpipe.errors import InvalidRequest
from llmpipe.types.frozen import EMPTY
from llmpipe.types.messages import Message, ToolCall

__all__ = (
    "Completion",
    "Cost",
    "Embeddings",
    "FinishReason",
    "ModelInfo",
    "NANO",
    "Ranked",
    "Ranking",
    "Usage",
)

NANO = 1_000_000_000
"""Nano-USD in one USD. Money is an integer count of nano-USD everywhere inside."""

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "refusal", "error"]


@frozen
class Usage:
    """Tokens of a call, in one convention whatever the wire says.

    `cached_input_tokens` and `cache_write_tokens` are subsets of `input_tokens`, and
    `reasoning_tokens` of `output_tokens`; `total_tokens` is input plus output. `source` says
    whether the provider told it or we estimated it.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    source: Literal["provider", "estimated"] = "provider"
    extra: Mapping[str, Any] = EMPTY

    @property
    def total_tokens(self) -> int:
        """Input plus output tokens."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        known = self.source == "provider" and other.source == "provider"
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            "provider" if known else "estimated",
        )


@frozen
class Cost:
    """What a call costs, in integer nano-USD. `estimated` when the usage was."""

    input_nano: int = 0
    output_nano: int = 0
    estimated: bool = False

    @property
    def total_nano(self) -> int:
        """Input plus output, nano-USD."""
        return self.input_nano + self.output_nano

    @property
    def usd(self) -> Decimal:
        """The total in USD, exact."""
        return Decimal(self.total_nano).scaleb(-9)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.input_nano + other.input_nano,
            self.output_nano + other.output_nano,
            self.estimated or other.estimated,
        )


@frozen(slots=False)  # every call is given one with its charge, and copying a dict takes a third of the time
class Completion:
    """A whole reply.

    `finish_reason` is None only where a reply was cut short. `charge` is None when the price is
    unknown or nobody computed it: unknown is never zero. `headers` holds the response headers
    of interest (request id, rate limits), in lower case.
    """

    id: str = ""
    model: str = ""
    message: Message = field(factory=lambda: Message("assistant", ()))
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    provider: str = ""
    created: float | None = None
    request_id: str | None = None
    charge: Cost | None = None
    headers: Mapping[str, str] = EMPTY
    warnings: tuple[str, ...] = ()
    extra: Mapping[str, Any] = EMPTY

    @property
    def text(self) -> str:
        """All text of the reply, joined."""
        return self.message.text

    @property
    def reasoning(self) -> str:
        """All visible reasoning of the reply, joined."""
        return self.message.reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls of the reply, in order."""
        return self.message.tool_calls

    @property
    def refusal(self) -> str | None:
        """The model's refusal, or None."""
        return self.message.refusal

    @property
    def cost(self) -> Decimal | None:
        """USD of this call, exact; None when unknown."""
        return None if self.charge is None else self.charge.usd

    @property
    def parsed(self) -> Any:
        """The text, parsed as JSON.

        Raises: InvalidRequest if it is not JSON.
        """
        try:
            return orjson.loads(self.text)
        except orjson.JSONDecodeError as error:
            raise InvalidRequest(f"the reply's text is not JSON: {error}", code="reply_not_json") from None


@frozen
class Embeddings:
    """Vectors in the order of the request's inputs; each a list of floats."""

    vectors: tuple[Sequence[float], ...] = ()
    model: str = ""
    usage: Usage | None = None
    id: str = ""
    provider: str = ""
    request_id: str | None = None
    charge: Cost | None = None
    headers: Mapping[str, str] = EMPTY
    extra: Mapping[str, Any] = EMPTY
    warnings: tuple[str, ...] = ()
    dialect: str = field(default="", eq=False)

    finish_reason: ClassVar[str] = "stop"

    @property
    def cost(self) -> Decimal | None:
        """USD of this call, exact; None when unknown."""
        return None if self.charge is None else self.charge.usd


@frozen
class Ranked:
    """One document of a ranking: its place in the request's `documents`, and how well it answers.

    `score` is the provider's own, higher is better; only scores of one ranking can be compared.
    """

    index: int
    score: float
    extra: Mapping[str, Any] = EMPTY


@frozen
class Ranking:
    """Documents by how well they answer a query, the best first."""

    results: tuple[Ranked, ...] = ()
    model: str = ""
    usage: Usage | None = None
    id: str = ""
    provider: str = ""
    request_id: str | None = None
    charge: Cost | None = None
    headers: Mapping[str, str] = EMPTY
    extra: Mapping[str, Any] = EMPTY
    warnings: tuple[str, ...] = ()
    dialect: str = field(default="", eq=False)

    finish_reason: ClassVar[str] = "stop"

    @property
    def cost(self) -> Decimal | None:
        """USD of this call, exact; None when unknown."""
        return None if self.charge is None else self.charge.usd


@frozen
class ModelInfo:
    """One model a provider lists. `context_tokens` and `max_output_tokens` where it says them."""

    id: str
    owner: str = ""
    created: float | None = None
    extra: Mapping[str, Any] = EMPTY
    context_tokens: int | None = None
    max_output_tokens: int | None = None
