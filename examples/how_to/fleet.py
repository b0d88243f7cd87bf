"""Two instances that share their state: one limit, one budget, and one trail, whoever is asked."""

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from llmpipe import BudgetExceeded, Chain, LimitReached, MockProvider
from llmpipe.middleware.audit import Audit
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.state import State, combine, open_state

PRICES = {"mock/mock-1": {"input": 1000.0, "output": 4000.0}}  # USD per million tokens


# region instance
def instance(name: str, fast: str, money: str) -> Chain:
    """An instance; `fast` is redis://… in production, and `money` postgresql://…, the same for all."""
    limits = Limits(limits=Limit(per="account", requests_per_minute=60, burst=6), store=fast, nodes=2)
    budget = Budget(rules=Rule(usd=1, period="day", per="account"), store=money, prices=PRICES, slack_usd=0.1)
    return Chain(MockProvider(default="Hello!"), limits, budget, Audit(store=money, writer=name))


# endregion instance


# region combine
def state(fast: str, money: str) -> State:
    """All kinds as one State, for code that works on stores itself."""
    quick = open_state(fast)
    return combine(open_state(money), cache=quick, limits=quick)


# endregion combine


# region balanced
async def ask(chain: Chain, account: str) -> str:
    try:
        done = await chain.complete("Say hello", tenant=account, max_tokens=50)
    except (LimitReached, BudgetExceeded) as error:
        return type(error).__name__
    return done.text


async def main(fast: str, money: str) -> None:
    both = [instance("web-1", fast, money), instance("web-2", fast, money)]
    for number in range(10):
        print(f"web-{number % 2 + 1}:", await ask(both[number % 2], "acme"))
    for chain in both:
        await chain.aclose()  # brings what is owed, and says that this writer ended well

    shared = state(fast, money)
    await shared.check()
    print("writers of one trail:", *await shared.audit("audit").writers())
    print("attempts in one journal:", len(await shared.ledger("budget").spends()))
    await shared.aclose()


# endregion balanced

with TemporaryDirectory() as name:
    asyncio.run(
        main(
            os.environ.get("STATE_FAST", f"sqlite:///{Path(name, 'fast.db')}"),
            os.environ.get("STATE_MONEY", f"sqlite:///{Path(name, 'money.db')}"),
        )
    )
