"""A provider that fails on cue, behind a real socket, and its own bill to compare ours with."""

# region rules
import asyncio

from llmpipe import Chain, Cost, LLMError, Retry, Timeout, provider
from llmpipe.testing.simulator import Fault, Rule, Simulator

RULES = [
    Rule(Fault(status=429, headers={"retry-after": "0.2"}), last=1),  # the first request
    Rule(Fault(status=503), first=2, last=2),  # the second
    Rule(Fault(cut_after=6), when=lambda request: request.stream),  # every stream: 6 events, then cut
    Rule(Fault(silent=True), when=lambda request: "anybody" in str(request)),
]
# endregion rules


# region use
async def main() -> None:
    async with Simulator(RULES, seed=1) as simulator:
        core = provider("openai", api_key="sk-test", base_url=f"{simulator.url}/v1", model="gpt-4o-mini")
        async with Chain(core, Cost(), Retry(attempts=3), Timeout(first=0.5, total=5)) as chain:
            done = await chain.complete("Say hello")
            print(f"answered: {done.text!r}")

            try:
                async with chain.stream("Tell me a story") as reply:
                    print("".join([text async for text in reply.texts()]))
            except LLMError as error:
                print(f"{error.type}, had come: {error.partial.text!r}")

            try:
                await chain.complete("Is anybody there?", options={Retry: {"attempts": 2}})
            except LLMError as error:
                print(f"{error.type}: {error}")

    for entry in simulator.book.entries:
        print(f"request {entry.number}: status {entry.status}, {entry.end} ({entry.fault or 'no fault'})")
    ours = Cost.totals(chain.runtime).all.usd
    print(f"its bill ${simulator.book.billed:f}, our ledger ${ours:f}")


asyncio.run(main())
# endregion use
