"""What stands at the core of the onion."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from attrs import frozen

from llmpipe.pipeline.target import Target
from llmpipe.types import AnyRequest, ModelInfo

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.reply import Reply

__all__ = ("Capabilities", "Provider", "capabilities_of")


@frozen
class Capabilities:
    """What a provider can do, with the right model. `context_tokens` is None where it depends on the model.

    Attributes:
        streaming, tools, vision, documents, audio, reasoning: what a request may ask or hold.
        parallel_tools: several tool calls in one reply.
        json_mode: any JSON object; json_schema: JSON of a schema. Where it lacks one that is asked for, it
            is emulated, with a warning on the reply.
        prefill: an assistant message at the end is continued.
        embeddings, rerank, count_tokens: calls of their own.
    """

    streaming: bool = True
    tools: bool = True
    vision: bool = True
    json_mode: bool = True
    embeddings: bool = False
    context_tokens: int | None = None
    json_schema: bool = True
    parallel_tools: bool = True
    documents: bool = True
    audio: bool = False
    reasoning: bool = True
    prefill: bool = False
    rerank: bool = False
    count_tokens: bool = False


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


def capabilities_of(target: Any, model: str) -> Capabilities | None:
    """What `target` says that it can do with `model`, "" for no certain one; None where it says nothing.

    A provider may tell its models apart with a method `capabilities_of(model)`; else what it can do with the
    right model is what it can do with any.
    """
    told = getattr(target, "capabilities_of", None)
    found = told(model) if callable(told) else getattr(target, "capabilities", None)
    return found if isinstance(found, Capabilities) else None
