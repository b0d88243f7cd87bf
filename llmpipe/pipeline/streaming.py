"""A stream before it is entered."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn

from llmpipe.pipeline.call import Call
from llmpipe.pipeline.linker import Handler
from llmpipe.pipeline.reply import Reply

__all__ = ("Streaming",)


class Streaming:
    """A stream to be entered: ``async with`` gives its `Reply` and closes it."""

    __slots__ = ("_call", "_handler", "_reply")

    def __init__(self, handler: Handler, call: Call) -> None:
        self._handler = handler
        self._call = call

    @property
    def call(self) -> Call:
        """The call, with its ledger."""
        return self._call

    def __await__(self) -> NoReturn:
        raise TypeError(_TO_BE_ENTERED)

    def __aiter__(self) -> NoReturn:
        raise TypeError(_TO_BE_ENTERED)

    async def __aenter__(self) -> Reply:
        self._reply = await self._handler(self._call)
        return self._reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reply.__aexit__(kind, error, trace)


_TO_BE_ENTERED = (
    "a stream is entered first: async with chain.stream(...) as reply, then async for event in reply"
)
