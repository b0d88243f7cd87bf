"""Ten calls at a time are a full load: low priority is refused at eight, urgent calls get in until twelve."""

import asyncio

from llmpipe import Chain, MockProvider, Overloaded
from llmpipe.middleware.shed import Shed
from llmpipe.providers.mock import Wait


async def main() -> None:
    shed = Shed(in_flight=10, levels=((-1, 0.8), (0, 1.0), (1, 1.2)))
    chain = Chain(MockProvider(default=[Wait(0.1), "ok"]), shed)

    async def ask(priority: int) -> bool:
        try:
            await chain.complete("hello", priority=priority)
        except Overloaded:  # its retry_after says when to come back
            return False
        return True

    for name, priority in (("batch", -1), ("ordinary", 0), ("urgent", 1)):
        answered = await asyncio.gather(*(ask(priority) for _ in range(20)))
        print(f"{sum(answered)} of 20 {name} calls at once were let in")

    print(f"in flight now: {shed.status(chain.runtime).in_flight}")
    await chain.aclose()


asyncio.run(main())
