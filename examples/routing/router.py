"""Three targets: one fails for a while, is passed over, and gets its share back step by step."""

import asyncio
from collections import Counter

from llmpipe import Chain, MockProvider, Overloaded, Runtime
from llmpipe.routing.route import Route
from llmpipe.routing.router import Router


async def main() -> None:
    openai = MockProvider(default="yes", name="openai", model="gpt-4o-mini")
    claude = MockProvider(default="yes", name="anthropic", model="claude-haiku-4-5")
    local = MockProvider(default="yes", name="local", model="llama")
    router = Router(Route(openai, weight=2), claude, local)
    chain = Chain(router, runtime=Runtime(seed=1))

    async def load(what: str, seconds: int) -> None:
        """Ten calls a second, and who answered them."""
        answered: Counter[str] = Counter()
        for _ in range(10 * seconds):
            answered[(await chain.complete("Are you there?")).provider] += 1
            await asyncio.sleep(0.1)
        print(f"{what:<18}", *(f"{name} {answered[name]:>3}" for name in ("openai", "anthropic", "local")))

    await load("all are well", 20)
    openai.default = Overloaded("no capacity")
    await load("openai is down", 10)
    openai.default = "yes"
    await load("it has recovered", 20)
    await load("it gets more", 20)
    await load("and more", 20)
    await load("all of it", 20)

    print()
    for change in router.changes():
        print(f"{change.at:5.1f} s  {change.target} {change.kind}: {change.reason}")
    print()
    for one in router.status():
        print(
            f"{one.name:<10} {one.state}, {one.calls} calls, {one.failures} failed, in flight {one.in_flight}"
        )
    await chain.aclose()


asyncio.run(main())
