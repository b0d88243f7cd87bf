"""How a request proves whose it is, where a key in a header is not enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

__all__ = ("Auth",)


@runtime_checkable
class Auth(Protocol):
    """Gives each request its credentials: a token that is renewed, or a signature of the request."""

    async def headers(self, method: str, url: str, body: bytes | None) -> Mapping[str, str]:
        """The headers for this request; they go over all others.

        Called once for each request, so whoever has to ask somebody keeps the answer. What it gives is
        kept out of errors like a key. Raises: LLMError.
        """
        ...
