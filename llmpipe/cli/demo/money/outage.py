"""Fourth act: the store that two instances share is away for a while."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path

from llmpipe.cli.demo.money.scene import Outage
from llmpipe.cli.demo.money.shop import REQUEST, WORST_NANO, Till, budget
from llmpipe.errors import LimitReached, LLMError, StoreUnavailable
from llmpipe.middleware.budget import Budget
from llmpipe.middleware.limits import Limit, Limits
from llmpipe.pipeline.chain import Chain
from llmpipe.runtime import Runtime

__all__ = ("run_outage",)

_LIMIT, _TIMEOUT, _SLACK = 20, 0.25, 5  # calls, seconds, calls
_BEFORE, _MEANWHILE, _PAID = 6, 30, 12  # calls of each instance
_PATIENCE = 10.0


async def run_outage(home: Path) -> Outage:
    """Calls before, while another process writes to the file and does not let go, and after."""
    file = home / "outage.db"
    store = f"sqlite:///{file}?timeout={_TIMEOUT}"
    slack = _SLACK * WORST_NANO + WORST_NANO // 2
    scene = Outage(_LIMIT, _TIMEOUT, slack)
    limits = Limits(limits=Limit(requests_per_hour=_LIMIT, burst=_LIMIT), store=store, nodes=2)
    money = budget(Decimal(10), store, slack_usd=slack / 1e9)
    instances = [_Instance(limits, money) for _ in range(2)]
    for one in instances:
        scene.before += (await _made(one.limited, _BEFORE))["ok"]
        await _made(one.paid, _BEFORE)
    bills = [one.till.bill_nano for one in instances]
    with _log() as reports:
        with _held(file):
            await _meanwhile(instances, scene)
            scene.lent = [one.till.bill_nano - bill for one, bill in zip(instances, bills, strict=True)]
            scene.owed = sum(one.owed(money) for one in instances)
        await _recovery(instances, money, scene)
        scene.after = (await _made(instances[0].limited, _LIMIT))["ok"]
    scene.reports = sorted(reports)
    (status,) = await money.status(instances[0].runtime)
    scene.spent, scene.held = status.spent, status.held
    scene.bill = sum(one.till.bill_nano for one in instances)
    for one in instances:
        await one.limited.aclose()
        await one.paid.aclose()
    return scene


class _Instance:
    """One of the two: a chain under a limit, and another under a budget, whose provider keeps a bill."""

    def __init__(self, limits: Limits, money: Budget) -> None:
        self.runtime = Runtime()
        self.till = Till()
        self.limited = Chain(Till(), limits, runtime=self.runtime)
        self.paid = Chain(self.till, money, runtime=self.runtime)

    def owed(self, money: Budget) -> int:
        """Settlements that the store has not taken yet."""
        return money.desk(self.runtime).owed


async def _meanwhile(instances: Sequence[_Instance], scene: Outage) -> None:
    seconds: list[float] = []
    found = await asyncio.gather(
        *[_made(one.limited, _MEANWHILE, seconds) for one in instances],
        *[_made(one.paid, _PAID, seconds) for one in instances],
    )
    limited, paid = found[: len(instances)], found[len(instances) :]
    scene.shares = [ends["ok"] for ends in limited]
    scene.refused = sum(ends["refused"] for ends in limited)
    scene.unavailable = sum(ends["unavailable"] for ends in paid)
    known = sum(ends[end] for ends in limited for end in ("ok", "refused"))
    known += sum(ends[end] for ends in paid for end in ("ok", "unavailable"))
    scene.others = sum(sum(ends.values()) for ends in found) - known
    scene.longest = max(seconds)


async def _recovery(instances: Sequence[_Instance], money: Budget, scene: Outage) -> None:
    """Nobody does anything for it; we only look."""
    loop = asyncio.get_running_loop()
    back = loop.time()
    while sum(one.owed(money) for one in instances):
        if loop.time() > back + _PATIENCE:
            break
        await asyncio.sleep(0.01)
    scene.recovered_in = loop.time() - back
    scene.owed_in_the_end = sum(one.owed(money) for one in instances)
    scene.lent_in_the_end = sum(money.desk(one.runtime).lent for one in instances)


async def _made(chain: Chain, calls: int, seconds: list[float] | None = None) -> Counter[str]:
    """So many calls at the same moment: how they ended, and in how many seconds each."""
    loop = asyncio.get_running_loop()

    async def one() -> str:
        begun, end = loop.time(), "ok"
        try:
            await chain.complete(REQUEST)
        except LimitReached:
            end = "refused"
        except StoreUnavailable:
            end = "unavailable"
        except LLMError as error:  # would be a broken promise, and is told as one
            end = type(error).__name__
        if seconds is not None:
            seconds.append(loop.time() - begun)
        return end

    return Counter(await asyncio.gather(*[one() for _ in range(calls)]))


@contextmanager
def _held(file: Path) -> Iterator[None]:
    """Somebody writes to the file and does not come to an end: so nobody else can."""
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            db.execute("ROLLBACK")


@contextmanager
def _log() -> Iterator[list[str]]:
    """What the log says meanwhile, without the reasons, which are in the report anyway."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            what = record.args[0] if isinstance(record.args, tuple) and record.args else record.msg
            told.append(str(what))

    told: list[str] = []
    listener, logger = Listener(logging.WARNING), logging.getLogger("llmpipe")
    logger.addHandler(listener)
    try:
        yield told
    finally:
        logger.removeHandler(listener)
