"""A prompt put together by a program, with more air than text, and a conversation that has grown long."""

import asyncio

from llmpipe import Chain, Message, MockProvider, Request
from llmpipe.middleware.optimise import Optimise

RULES = "Answer in one sentence, in plain words, and say where you have it from."
CODE = "```python\nx   =   1\n\n\ny   =   2\n```"


async def main() -> None:
    provider = MockProvider(default="ok")
    chain = Chain(provider, Optimise(max_input_tokens=150))

    talk = [Message("system", f"{RULES}   \n\n\n\nYou  are a patient teacher.\n\n{RULES}\n")]
    for number in range(5):
        talk += [Message("user", f"Question {number}: " + "why? " * 8), Message("assistant", "Because. " * 8)]
    talk.append(Message("user", f"What does   this do?\n\n\n\n{CODE}"))

    await chain.complete(talk)
    request = provider.requests[0]
    assert isinstance(request, Request)
    sent = request.messages
    print(len(talk), "messages,", len(sent), "sent")
    print(sent[0].text)
    print(sent[-1].text)


asyncio.run(main())
