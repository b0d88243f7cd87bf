"""The instance that is killed: a program that is called with FILE CALLS LEASE.

It tells of each call by a line on its output: ``asked`` when the provider has the request, ``answered``
with its id and what it cost in nano-USD when the caller has the whole answer.
"""

from __future__ import annotations

import asyncio
import os
import sys
from decimal import Decimal
from itertools import count

from llmpipe.cli.demo.money.shop import PRICES, REQUEST, Till, budget
from llmpipe.middleware.audit import Audit
from llmpipe.middleware.cost import Cost
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply

__all__ = ("LIMIT_USD", "WRITER", "main")

LIMIT_USD = Decimal(10)
WRITER = "instance-1"
"""Its name in the audit trail, the same after a restart: so the next one knows whose calls it finds open."""

_AT_ONCE = 8


class _Telling(Till):
    """Tells who asks. Its answers take 30 to 240 ms, so that calls are at every point of their way."""

    async def __call__(self, call: Call) -> Reply:
        _tell(f"asked {call.id}")
        await asyncio.sleep(0.03 * (1 + len(self.requests) % _AT_ONCE))
        return await super().__call__(call)


def _tell(line: str) -> None:
    """In one piece, and at once: what is told when this process is killed has been told."""
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


async def _work(file: str, calls: int, lease: float) -> None:
    store = f"sqlite:///{file}"
    money = budget(LIMIT_USD, store, lease=lease)
    audit = Audit(store=store, writer=WRITER, lease=lease, flush=0.1)
    numbers = count()
    async with Chain(_Telling(0.0), audit, Cost(prices=PRICES), money) as chain:

        async def buy() -> None:
            while next(numbers) < calls:
                call = chain.new_call(REQUEST)
                async with await chain(call) as reply:
                    done = await reply.full()
                assert done.cost is not None
                _tell(f"answered {call.id} {int(done.cost.scaleb(9))}")

        await asyncio.gather(*[buy() for _ in range(_AT_ONCE)])


def main() -> None:
    """Make the calls, and close the store well."""
    asyncio.run(_work(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
