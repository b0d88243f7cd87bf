"""A stage: it changes the text of a reply, whole or in pieces, without knowing which it is."""

import asyncio
from collections.abc import Iterable

from attrs import evolve

from llmpipe import Call, Chain, Handler, MockProvider, Reply, TextDelta, layer
from llmpipe.types import Event


# [stage]
class Hide:
    """Puts `cover` in place of `word`, also where a stream cuts the word in two."""

    def __init__(self, word: str, cover: str) -> None:
        self.word, self.cover, self.held = word, cover, ""

    def feed(self, event: Event) -> Iterable[Event]:
        if not isinstance(event, TextDelta):
            return (*self.flush(), event)
        text = (self.held + event.text).replace(self.word, self.cover)
        self.held = self._beginning(text)
        return (evolve(event, text=text.removesuffix(self.held)),)

    def flush(self) -> Iterable[Event]:
        rest, self.held = self.held, ""
        return (TextDelta(rest),) if rest else ()

    def _beginning(self, text: str) -> str:
        """The longest end of `text` that could still become the word."""
        return next((w for n in range(len(self.word) - 1, 0, -1) if text.endswith(w := self.word[:n])), "")


@layer(priority=360)
async def discreet(call: Call, call_next: Handler) -> Reply:
    reply = await call_next(call)
    return reply.pipe(Hide("Project X", "[a project]"))


# [/stage]


# [use]
async def main() -> None:
    model = MockProvider(default="They call it Project X. Not Project Y.", chunk_chars=7)
    chain = Chain(model, discreet)
    print((await chain.complete("What is new?")).text)
    async with chain.stream("What is new?") as reply:
        print("|".join([text async for text in reply.texts()]))


asyncio.run(main())
# [/use]
