"""Plain functions at the four moments of a call: here, house rules for a support desk."""

import asyncio

from attrs import evolve

from llmpipe import Call, Chain, Completion, Event, Hooks, InvalidRequest, MockProvider, Request, TextDelta


def limit(call: Call) -> Request | None:
    request = call.request
    if not isinstance(request, Request):
        return None  # embeddings pass as they are
    if call.tenant == "free" and len(request.messages) > 3:
        raise InvalidRequest("the free plan has three messages to a conversation", sent=False)
    return evolve(request, max_tokens=200)


def calm(event: Event) -> Event | None:
    if type(event) is TextDelta:
        return evolve(event, text=event.text.replace("!", "."))
    return None  # everything else as it is


def sign(done: Completion, call: Call) -> Completion:
    return evolve(done, extra={**done.extra, "desk": call.tags["desk"]})


async def archive(done: Completion, call: Call) -> None:
    await asyncio.sleep(0.01)  # a database
    print(f"archived for {call.tenant}: {done.text!r}, {done.extra}")


async def main() -> None:
    chain = Chain(
        MockProvider(default="That cannot be done!"),
        Hooks(on_request=limit, on_chunk=calm, on_response=sign, name="house-rules"),
        Hooks(
            on_response=archive,
            on_error=lambda error, call: print(f"failed for {call.tenant}: {error}"),
            name="archive",
            priority=150,  # further out: sees what the house rules made of the reply
        ),
    )
    tags = {"desk": "support"}
    done = await chain.complete("Can you fix it?", tenant="acme", tags=tags)
    print("full:", done.text)

    async with chain.stream("Can you fix it?", tenant="acme", tags=tags) as reply:
        print("stream:", "".join([text async for text in reply.texts()]))

    try:
        await chain.complete(["Hi", "Hello", "Can you", "fix it?"], tenant="free", tags=tags)
    except InvalidRequest as error:
        print("refused:", error)


asyncio.run(main())
