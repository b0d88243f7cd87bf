"""What stands at the core of the onion."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import frozen

from llmpipe.pipeline.target import Target
from llmpipe.types import AnyRequest, ModelInfo

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.reply import Reply

__all__ = ("Capabilities", "Provider")


@frozen
class Capabilities:
    """What a provider can do. `context_tokens` is None where it depends on the model."""

    streaming: bool = True
    tools: bool = True
    vision: bool = True
    json_mode: bool = True
    embeddings: bool = False
    context_tokens: int | None = None


@runtime_checkable
class Provider(Target, Protocol):
    """A terminal handler: sends one request, once, and never retries."""

    async def __call__(self, call: Call) -> Reply:
        """The reply, once its first content is in hand. Raises LLMError."""
        ...

    @property
    def version(self) -> str:
        """Which API it speaks."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    async def get_models(self) -> tuple[ModelInfo, ...]:
        """The models this key may use. Raises LLMError."""
        ...

    async def validate_api_key(self) -> bool:
        """Whether the provider accepts the key; asks a free endpoint. Raises LLMError if it cannot tell."""
        ...

    def estimate_cost(self, request: AnyRequest) -> Decimal | None:
        """USD this request costs at most, or None where the price is unknown."""
        ...
