"""What outlives a call: a budget that several hold at once, work that is done once, and stores combined."""

import asyncio

# region store
from llmpipe import Cache, Chain, MockProvider
from llmpipe.state import Draw, Item, Spend, combine, open_state


async def cached(url: str = "memory://") -> None:  # such as sqlite:///llmpipe.db
    async with Chain(MockProvider(["Hello!"]), Cache(store=url)) as chain:
        first, second = [await chain.complete("Say hello") for _ in range(2)]
        print(first.text, second.text)  # the second was not asked for


# endregion store

# region use
NANO = 1_000_000_000  # money is whole nano-USD


async def budget() -> None:
    state = open_state("memory://")  # or sqlite:///var/lib/app/llmpipe.db, postgresql://…, redis://…
    ledger = state.ledger("main")
    day = 1_750_000_000 // 86_400 * 86_400
    dollar = Draw("daily/tenant=acme", day, nano=NANO // 2, limit=NANO)

    print("first:", await ledger.reserve("call-1", [dollar], lease=600.0))
    print("second:", await ledger.reserve("call-2", [dollar], lease=600.0))
    print("third:", await ledger.reserve("call-3", [dollar], lease=600.0))

    row = Spend(id="call-1/1", at=1_750_000_000.0, nano=210_000_000, tenant="acme", model="gpt-4o-mini")
    cost = Draw("daily/tenant=acme", day, nano=210_000_000)
    print("settled:", await ledger.settle("call-1", [cost], [row]))
    print("once more:", await ledger.settle("call-1", [cost], [row]))
    print(await ledger.balances([("daily/tenant=acme", day)]))
    await state.aclose()


# endregion use


# region queue
async def queue() -> None:
    queue = open_state("memory://").queue("work")
    print("accepted:", await queue.put(Item(id="order-17", payload=b"summarise it")))
    print("accepted again:", await queue.put(Item(id="order-17", payload=b"summarise it")))
    (leased,) = await queue.lease("worker-1", seconds=60.0)
    print(leased)
    print("done:", await queue.done(leased.id, leased.token, b"a summary"))
    print(await queue.status("order-17"))


# endregion queue


# region combine
async def combined() -> None:
    everything = combine(open_state("memory://"), cache=open_state("memory://"))
    await everything.check()
    print(everything, "keeps:", ", ".join(sorted(everything.offers)))
    await everything.aclose()


# endregion combine


async def main() -> None:
    await cached()
    await budget()
    await queue()
    await combined()


asyncio.run(main())
