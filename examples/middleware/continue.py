"""A stream that breaks in the middle is taken up by another provider, in the same reply."""

import asyncio

from llmpipe import Capabilities, Chain, Completion, Continue, MockProvider, Request, StreamBroken


class Claude(MockProvider):
    """A provider that goes on from the beginning of an answer, as older Claude models do."""

    capabilities = Capabilities(prefill=True)


async def main() -> None:
    openai = MockProvider([["Once upon", " a ti", StreamBroken("the connection was lost")]], name="openai")
    claude = Claude([["me there was", " a pipe."]], name="anthropic", model="claude-haiku-4-5")
    chain = Chain(openai, Continue(claude))

    async with chain.stream("Tell me a story") as reply:
        async for text in reply.texts():
            print(repr(text))
        done = reply.completion
    assert isinstance(done, Completion)

    print(done.text)
    asked = claude.requests[0]
    assert isinstance(asked, Request)
    print("asked to go on from:", repr(asked.messages[-1].text))
    print("warning:", done.warnings[0])


asyncio.run(main())
