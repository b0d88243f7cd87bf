"""A provider of one's own: anything that can answer. This one asks a plain function, piece by piece."""

# region provider
import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal

from llmpipe import (
    Call,
    Capabilities,
    Chain,
    Completion,
    Event,
    Finish,
    Message,
    ModelInfo,
    Overloaded,
    Reply,
    Request,
    Retry,
    Start,
    TextDelta,
    Unsupported,
)
from llmpipe.types import AnyRequest


class FunctionProvider:
    """Answers with what `function` yields for the last message's text."""

    version = "1"
    endpoint = "in-process"
    capabilities = Capabilities(tools=False, vision=False, json_mode=False)

    def __init__(self, function: Callable[[str], Iterator[str]], *, name: str = "function") -> None:
        self.function = function
        self.name = name
        self.model = function.__name__

    async def __call__(self, call: Call) -> Reply:
        """The reply, once its first content is there."""
        if not isinstance(call.request, Request):
            raise Unsupported(f"{self.name} takes chat requests only")
        pieces = self.function(call.request.messages[-1].text)
        try:
            first = next(pieces, "")  # what fails here is an attempt that failed, and can be retried
        except MemoryError as error:
            raise Overloaded(f"no room: {error}") from error
        if call.request.stream:
            return Reply.stream(
                _events(pieces), [Start(model=self.model, provider=self.name), TextDelta(first)]
            )
        message = Message("assistant", first + "".join(pieces))
        return Reply.of(
            Completion(message=message, finish_reason="stop", model=self.model, provider=self.name)
        )

    async def get_models(self) -> tuple[ModelInfo, ...]:
        """What can be asked."""
        return (ModelInfo(self.model),)

    async def validate_api_key(self) -> bool:
        """There is no key."""
        return True

    def estimate_cost(self, request: AnyRequest) -> Decimal | None:
        """USD, at most; None where nobody knows."""
        return Decimal(0)

    async def aclose(self) -> None:
        """Nothing to close."""


async def _events(pieces: Iterator[str]) -> AsyncIterator[Event]:
    for piece in pieces:
        yield TextDelta(piece)
    yield Finish("stop")  # a stream without it is a broken one


# endregion provider


# region use
crowded = [MemoryError("try later")]


def echo(text: str) -> Iterator[str]:
    if crowded:
        raise crowded.pop()
    yield "You said: "
    yield text


async def main() -> None:
    async with Chain(FunctionProvider(echo), Retry(base=0.01)) as chain:
        done = await chain.complete("Good morning")
        print(done.text)
        async with chain.stream("Good evening") as reply:
            print([text async for text in reply.texts()])


asyncio.run(main())
# endregion use
