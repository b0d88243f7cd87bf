"""A middleware in ten lines: the house's rules go before every chat request."""

# region middleware
from attrs import evolve

from llmpipe import Call, Handler, Message, Reply, Request, layer


@layer(priority=340)
async def house_rules(call: Call, call_next: Handler) -> Reply:
    if isinstance(request := call.request, Request):
        rules = Message("system", "Answer briefly.")
        call = call.evolve(request=evolve(request, messages=(rules, *request.messages)))
    return await call_next(call)
    # endregion middleware


# region use
if __name__ == "__main__":
    import asyncio

    from llmpipe import Chain, MockProvider

    model = MockProvider(default="Fine.")
    chain = Chain(model, house_rules)
    asyncio.run(chain.complete("How are you?"))
    sent = model.requests[0]
    assert isinstance(sent, Request)
    for message in sent.messages:
        print(f"{message.role}: {message.text}")
# endregion use
