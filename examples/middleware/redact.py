"""Personal data stays at home: the provider sees placeholders, the caller gets the values back."""

from llmpipe import Chain, Message, MockProvider, Redact, Request, Runtime
from llmpipe.middleware.redact import Scanner, mask
from llmpipe.testing import run
from llmpipe.types import AnyRequest


# region use
def echo(request: AnyRequest) -> str:
    """A model that repeats what it was asked."""
    assert isinstance(request, Request)
    print(f"  sent: {request.messages[-1].text}")
    return f"I shall write to {request.messages[-1].text.split()[-1]}"


PROMPT = "Card 4111 1111 1111 1111 is lost, tell jane@example.com"


async def main() -> None:
    model = MockProvider(default=echo, chunk_chars=5)
    for mode in ("reversible", "wire", "log"):
        streaming = Chain(model, Redact(mode=mode), runtime=Runtime(seed=7)).stream(PROMPT)
        print(f"{mode}:")
        async with streaming as reply:
            print("  got: ", "|".join([text async for text in reply.texts()]))
        print("  note:", dict(streaming.call.ledger.notes[0].detail))

    own = Redact(kinds=["email"], patterns=(("ticket", r"TK-[0-9]{6}(?![0-9])"),))
    await Chain(model, own, runtime=Runtime(seed=7)).complete("See TK-204518 of bob@example.com")

    # What is in a request, and where.
    request = Request(
        messages=[Message("user", "call +1 415 555 2671"), Message("user", "or jane%40example%2Ecom")],
        metadata={"password": "hunter2"},
    )
    for found in Redact().find(request):
        print(f"{found.kind:<8} {found.path} {found.start}-{found.end}")

    # Outside a chain: for a log, and with positions.
    print(mask("call 212-555-0123 or write to jane@example.com"))
    print(Scanner(kinds=["email"]).scan("write to jane@example.com"))


run(main())
# endregion use
