"""The events of one exchange, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmpipe.dialects import StreamDecoder
from llmpipe.errors import LLMError
from llmpipe.types import Event, Ping

if TYPE_CHECKING:
    from llmpipe.providers.exchange import Exchange

__all__ = ("EventSource",)

_SIGN_OF_LIFE = (Ping(),)


class EventSource:
    """Reads the exchange and decodes it. Every error that it raises goes through `sign` first."""

    __slots__ = ("_decoder", "_exchange", "_over", "_sign")

    def __init__(
        self, exchange: Exchange, decoder: StreamDecoder, sign: Callable[[LLMError], LLMError]
    ) -> None:
        self._exchange = exchange
        self._sign = sign
        self._decoder = decoder
        self._over = False

    async def read(self) -> Sequence[Event]:
        """The events of the next bytes; empty at the end. Raises LLMError."""
        if self._over:
            return ()
        decoder = self._decoder
        if decoder.finished:
            self._over = True
            await self._exchange.finish()
            return ()
        try:
            decoder.feed(b"")  # raises what stood behind the events of the last read
            if data := await self._exchange.read():
                # Bytes that complete no event yet are a sign of life all the same.
                return decoder.feed(data) or _SIGN_OF_LIFE
            self._over = True
            events = decoder.close()
        except LLMError as error:
            raise self._sign(error)  # noqa: B904  it is the same error
        self._exchange.release()
        return events

    async def aclose(self) -> None:
        """Close the connection, which has more to say."""
        self._over = True
        self._exchange.drop()
