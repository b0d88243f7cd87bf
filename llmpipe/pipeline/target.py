"""What a call can be sent to."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ("Target",)


class Target(Protocol):
    """Something a call can be sent to: a provider, or a whole chain.

    `name` says whose it is, `model` which model answers a request that names none, `endpoint` which
    host (for breaker and limiter keys; never holds a key). One that leads to other targets, such as a
    router, has ``nests = True`` besides: it makes no attempt of its own.
    """

    @property
    def name(self) -> str:
        """Whose it is."""
        ...

    @property
    def model(self) -> str:
        """The model for a request that names none."""
        ...

    @property
    def endpoint(self) -> str:
        """Host and port."""
        ...

    async def __call__(self, call: Any) -> Any:
        """The `Reply` to a `Call`, once its first content is in hand. Raises LLMError.

        Both are Any here, for a call names its target, and so stands above it.
        """
        ...

    async def aclose(self) -> None:
        """Close connections. A closed target may open again on the next call."""
        ...
