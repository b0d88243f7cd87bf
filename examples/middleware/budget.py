"""A budget for each team and day: what it holds and charges, when it sends calls on and when it refuses."""

import asyncio

from llmpipe import Chain, Cost, MockProvider, Request
from llmpipe.errors import BudgetExceeded
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.runtime import Runtime

PRICES = {"large": {"input": 2.50, "output": 10}, "small": {"input": 0.15, "output": 0.60}}  # USD per million


async def main() -> None:
    # region use
    budget = Budget(
        rules=(
            Rule(usd=0.004, period="day", per="account", action="downgrade", downgrade_to="small"),
            Rule(usd=0.0037, period="month", timezone="Europe/Berlin", name="everything"),
        ),
        prices=PRICES,
    )
    provider = MockProvider(default="Certainly. " * 20, name="house", model="large")
    chain = Chain(provider, budget, Cost(prices=PRICES), runtime=Runtime(wall=lambda: 1_790_856_000))

    for number in range(1, 13):
        call = chain.new_call(Request(messages="Write to them.", max_tokens=100), tenant="acme")
        try:
            done = await (await chain(call)).full()
        except BudgetExceeded as error:
            print(f"{number} refused ({error.status}, {error.code}): {error.message}")
            break
        told = [f"{note.kind} {note.detail.get('share', '')}".strip() for note in call.ledger.notes]
        print(f"{number} {done.model}: {done.cost} USD", *told)

    for status in await budget.status(chain.runtime, account="acme"):
        print(f"{status.account}: {status.share:.0%} spent, {status.held} held, until {status.resets_at}")
    # endregion use

    # region forecast
    for name, one in (await budget.forecast(chain.runtime, account="acme")).items():
        at_its_end = (one.projected or 0) / 1e9
        print(f"{name}: {one.spent / 1e9:.4f} USD so far, by {one.basis} {at_its_end:.4f} at its end")
    # endregion forecast


asyncio.run(main())
