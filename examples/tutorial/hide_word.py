"""A stage: it changes the text of a reply, whole or in pieces, without knowing which it is."""

# region stage
import asyncio
from collections.abc import Iterable

from attrs import evolve

from llmpipe import Call, Chain, Event, Handler, MockProvider, Reply, TextDelta, layer


class Hide:
    """Puts `cover` in place of `word`, also where a stream cuts the word in two."""

    def __init__(self, word: str, cover: str) -> None:
        self.word, self.cover = word, cover
        self.held = TextDelta("")  # what could still become the word

    def feed(self, event: Event) -> Iterable[Event]:
        """What becomes of `event`."""
        if not isinstance(event, TextDelta):
            return (*self.flush(), event)
        *before, rest = (self.held.text + event.text).split(self.word)
        held = self._beginning(rest)
        self.held = evolve(event, text=held)
        return (evolve(event, text=self.cover.join((*before, rest.removesuffix(held)))),)

    def flush(self) -> Iterable[Event]:
        """What is still held back, at the end."""
        rest, self.held = self.held, TextDelta("")
        return (rest,) if rest.text else ()

    def _beginning(self, text: str) -> str:
        """The longest end of `text` that the word begins with."""
        return next((w for n in range(len(self.word) - 1, 0, -1) if text.endswith(w := self.word[:n])), "")


@layer(priority=360)
async def discreet(call: Call, call_next: Handler) -> Reply:
    reply = await call_next(call)
    return reply.pipe(Hide("Project X", "[a project]"))


# endregion stage


# region use
async def main() -> None:
    model = MockProvider(default="They call it Project X. Not Project Y.", chunk_chars=7)
    chain = Chain(model, discreet)
    print((await chain.complete("What is new?")).text)
    async with chain.stream("What is new?") as reply:
        print("|".join([text async for text in reply.texts()]))


asyncio.run(main())
# endregion use
